"""Perceptual perplexity, and the model's own perplexity of the right answers.

Perception-R1 (Yu et al., arXiv 2504.07954) calls the number of ways in which predictions can be matched with targets
the perceptual perplexity of a task: n! for an image with n objects, 1 where there is one target. Its finding is that
reinforcement learning gains the more over supervised fine-tuning the higher it is. The mean that the paper gives
(3.47e83 for COCO) is set by the single largest image (63!, over 5,714 images), so the median and log n! are here, too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from perception_r1.tasks import task_class
from perception_r1.types import Sample

PUBLISHED = {"RefCOCO": 1.0, "PageOCR": 1.0, "PixMo-Count": 229_202.0, "COCO2017": 3.47e83}
"""Mean perceptual perplexity by data set, as published."""


def log_matchings(sample: Sample) -> float:
    """log n! of a sample's n targets, 0 where there is one target to match (or none).

    Example:
        >>> from perception_r1.types import CountTarget
        >>> round(math.exp(log_matchings(Sample("a", "counting", "dog", CountTarget(5)))))
        120
    """
    if not task_class(sample.task).matches_many:
        return 0.0
    return math.lgamma(sample.target.n_objects + 1)


def perceptual_perplexity(samples: Sequence[Sample]) -> dict[str, Any]:
    """Mean, median and logarithms of n! over samples.

    Returns:
        ``n``; ``objects`` {mean, median, max}; ``log_mean`` (log of the mean of n!, by log-sum-exp: the mean itself may
        be larger than a float), ``mean`` (None where it is); the same of the median, ``log_median`` and ``median``;
        ``mean_log`` and ``median_log`` of log n!.

    Example:
        >>> from perception_r1.types import CountTarget
        >>> found = perceptual_perplexity([Sample(str(n), "counting", "dog", CountTarget(n)) for n in (1, 2, 3)])
        >>> round(found["mean"], 6), round(found["median"], 6)
        (3.0, 2.0)
    """
    logs = sorted(log_matchings(sample) for sample in samples)
    if not logs:
        return {"n": 0}
    log_mean = _log_mean(logs)
    counts = [s.target.n_objects for s in samples]
    middle = logs[(len(logs) - 1) // 2], logs[len(logs) // 2]
    return {
        "n": len(logs),
        "objects": {"mean": statistics.fmean(counts), "median": statistics.median(counts), "max": max(counts)},
        "mean": exp_or_none(log_mean),
        "median": exp_or_none(_log_mean(middle)),
        "log_mean": log_mean,
        "mean_log": statistics.fmean(logs),
        "log_median": _log_mean(middle),
        "median_log": statistics.fmean(middle),
    }


def _log_mean(logs: Sequence[float]) -> float:
    """The logarithm of the mean of what the logarithms stand for."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs) / len(logs))


def exp_or_none(value: float) -> float | None:
    """e to the ``value``, None where that is larger than a float."""
    return math.exp(value) if value < 709 else None


def gold_log_likelihood(
    model: Any, processor: Any, task: Any, samples: Sequence[Sample], *, batch_size: int = 8, advance: Any = None
) -> list[tuple[float, int]]:
    """(sum of log-probabilities, number of tokens) of each gold answer, its end token included, given its prompt.

    exp(−sum / tokens) is the model's perplexity of the answer.

    Args:
        model: a vision-language model.
        processor: its processor.
        task: gives prompts and gold answers in the model's own form.
        samples: prepared ones (with ``model_size``).
        batch_size: samples a forward pass.
        advance: told how many are done.
    """
    import torch

    from perception_r1.data.images import model_image

    found: list[tuple[float, int]] = []
    was_training = model.training
    model.eval()
    end = processor.tokenizer.eos_token
    try:
        for start in range(0, len(samples), batch_size):
            part = samples[start : start + batch_size]
            asked = [
                processor.apply_chat_template(task.prompt(s).messages(), tokenize=False, add_generation_prompt=True)
                for s in part
            ]
            images = [model_image(sample) for sample in part]
            full, alone = (
                processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")
                for texts in ([a + task.gold(s) + end for a, s in zip(asked, part, strict=True)], asked)
            )
            full = full.to(model.device)
            with torch.inference_mode():
                logits = model(**full).logits[:, :-1]
                picked = full["input_ids"][:, 1:]
                # Row by row: a whole batch of log-softmaxes over a large vocabulary would be another copy of it.
                for row, lengths in enumerate(
                    zip(alone["attention_mask"].sum(1), full["attention_mask"].sum(1), strict=True)
                ):
                    first, last = (int(length) - 1 for length in lengths)
                    logprobs = torch.log_softmax(logits[row, first:last].float(), dim=-1)
                    chosen = logprobs.gather(1, picked[row, first:last, None])
                    found.append((float(chosen.sum()), last - first))
            if advance is not None:
                advance(len(part))
    finally:
        model.train(was_training)
    return found
