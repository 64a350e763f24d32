"""Where an evaluation's answers come from: greedy generation by a transformers model, or answers saved earlier.

A generator answers one batch; ``run`` decides which samples make a batch (longest first, always the same batches), so
that an evaluation that was killed goes on to the same answers. A streamer (a server, or an engine that batches by
itself) is given all that is left, and answers in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from perception_r1.data.files import parse_lines, read_text
from perception_r1.data.images import model_image
from perception_r1.errors import DataError, ModelError
from perception_r1.evaluate.tokens import TokenCompletion, decoded_ends
from perception_r1.models.limits import as_given
from perception_r1.models.processors import known_ids
from perception_r1.types import Completion, FinishReason, Prompt, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perception_r1.families import Family


class Generator(Protocol):
    """Answers batches; ``settings`` is what its answers depend on (kept with the results)."""

    @property
    def batch_size(self) -> int:
        """Samples answered at once."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the answers depend on, for the results."""
        ...

    def __call__(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> list[Completion]:
        """Completions of a batch, in order."""
        ...


class NoAnswer(str):
    """Why a sample has no answer (the server refused it, say): it is not scored, and asked again by a later run."""

    __slots__ = ()


@runtime_checkable
class Streamer(Protocol):
    """Answers samples in any order, exactly one answer each; ``settings`` as a generator's."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the answers depend on, for the results."""
        ...

    def stream(
        self, samples: Sequence[Sample], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[int, Completion | NoAnswer]]:
        """Every sample's index with its completion, as they come."""
        ...


class TransformersGenerator:
    """Greedy, batched generation with a loaded model.

    Rows are padded on the left. Image tokens are never produced: one in an answer would break whatever reads it next.
    Text keeps its special tokens (boxes of Qwen2-VL are made of them) but not the end token; an answer without one was
    cut at the limit (``finish_reason`` "length").

    Args:
        model: a vision-language model with ``generate``.
        processor: its processor.
        family: names the image and end tokens.
        max_new_tokens: limit of an answer.
        batch_size: samples a batch.
        repetition_penalty: 1 is none (PR1's released grounding evaluation has 1.05).
        logprobs: also keep the log-probability of each token (completions are then ``TokenCompletion``).
        share: let rows of a batch share the image and the prompt that they have in common (see ``shared_prefix``).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        *,
        max_new_tokens: int = 1024,
        batch_size: int = 16,
        repetition_penalty: float = 1.0,
        logprobs: bool = False,
        share: bool = False,
    ) -> None:
        self.model, self.processor, self.batch_size, self.logprobs = model, processor, batch_size, logprobs
        self.family = family
        if share:
            from perception_r1 import shared_prefix

            with suppress(ModelError):  # of another family: nothing is shared
                shared_prefix.enable(model)
        self.tokenizer = processor.tokenizer
        self.end_ids = _end_ids(model, self.tokenizer, family)
        self.options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": repetition_penalty,
            "suppress_tokens": known_ids(self.tokenizer, family.image_tokens) or None,
            "eos_token_id": self.end_ids,
            "pad_token_id": self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end_ids[0],
            # Those of sampling mean nothing here, and generate() warns of their defaults.
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
        self.settings = {
            "backend": "transformers",
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
            **({"logprobs": True} if logprobs else {}),
            "decoding": self.decoding,
        }

    @property
    def decoding(self) -> dict[str, Any]:
        """What ``generate`` is asked for; nothing comes from the model's own ``generation_config.json``."""
        names = ("do_sample", "num_beams", "max_new_tokens", "repetition_penalty", "temperature", "top_p", "top_k")
        return {name: self.options[name] for name in names if self.options[name] is not None}

    def __call__(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion a sample, in order."""
        images = [
            [model_image(sample)] if prompt.has_image else [] for sample, prompt in zip(samples, prompts, strict=True)
        ]
        return self.complete([prompt.messages() for prompt in prompts], images)

    def complete(self, messages: Sequence[list[dict[str, Any]]], images: Sequence[Sequence[Any]]) -> list[Completion]:
        """One completion a conversation.

        Args:
            messages: in the content-list form, with a part of type "image" for each picture.
            images: the pictures (PIL) of each conversation, at the size that the model is to see.
        """
        import torch

        texts = [
            self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in messages
        ]
        flat = [image for group in images for image in group]
        batch = self.processor(
            text=texts,
            images=flat or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **as_given(self.processor),
        ).to(self.model.device)
        self._check_sizes(batch, flat)
        watch = _Watch()
        with torch.inference_mode(), _eval_mode(self.model), _own_settings_off(self.model):
            extra = {"logits_processor": [watch]} if self.logprobs else {}
            ids = self.model.generate(**batch, **self.options, **extra)
        answers = ids[:, batch["input_ids"].shape[1] :]
        logprobs = watch.of(answers) if self.logprobs else [None] * len(answers)
        return [self._completion(*pair) for pair in zip(answers.tolist(), logprobs, strict=True)]

    def _check_sizes(self, batch: Any, images: Sequence[Any]) -> None:
        """Where answers are in pixels of the resized image, the processor must not have resized it again.

        Raises:
            ModelError: it has, by limits of its own.
        """
        patch = getattr(self.processor.image_processor, "patch_size", None)
        if self.family.frame != "resized" or patch is None or "image_grid_thw" not in batch:
            return
        for image, (_, rows, columns) in zip(images, batch["image_grid_thw"].tolist(), strict=True):
            if (columns * patch, rows * patch) != image.size:
                raise ModelError(
                    f"the model's processor resizes an image of {image.width} × {image.height} pixels to "
                    f"{columns * patch} × {rows * patch}, and boxes in pixels of the resized image would be misread "
                    "(is it of the family's grid?)"
                )

    def _completion(self, ids: list[int], logprobs: list[float] | None) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), None)
        kept = ids if end is None else ids[:end]
        text = self.tokenizer.decode(kept, skip_special_tokens=False)
        reason: FinishReason = "length" if end is None else "stop"
        if logprobs is None:
            return Completion(text, reason)
        return TokenCompletion(text, reason, tuple(logprobs[: len(kept)]), decoded_ends(self.tokenizer, kept, text))


class _Watch:
    """The last of generate's logits processors: changes nothing, keeps the log-probability of the greedy token.

    One number a step and row is kept; ``output_logits`` would keep a vocabulary of them.
    """

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        self.steps.append(scores.max(dim=-1).values.float() - torch.logsumexp(scores.float(), dim=-1))
        return scores

    def of(self, answers: Any) -> list[list[float]]:
        """By row, one number a generated token."""
        import torch

        found: list[list[float]] = torch.stack(self.steps, dim=1)[:, : answers.shape[1]].tolist()
        return found


def read_responses(path: str | Path) -> dict[str, Completion]:
    """Saved answers by sample id: JSON lines with ``id``, ``response`` and, if known, ``finish_reason``.

    Our own ``samples.jsonl`` is such a file.

    Raises:
        DataError: naming file, line and field.
    """
    path = Path(path)
    found: dict[str, Completion] = {}
    for line, row in parse_lines(read_text(path), path):
        if not isinstance(row, dict):
            raise DataError('not an object (expected {"id": …, "response": …})', path=path, line=line)
        for field in ("id", "response"):
            if field not in row:
                raise DataError("is missing", path=path, line=line, field=field)
        if not isinstance(row["response"], str):
            raise DataError("expected text", path=path, line=line, field="response")
        key = str(row["id"])
        if key in found:
            raise DataError(f"{key!r} is there twice (remove one)", path=path, line=line, field="id")
        found[key] = Completion(row["response"], finish_reason(row, path, line))
    if not found:
        raise DataError("the file has no answers (expected one JSON object a line)", path=path)
    return found


def finish_reason(row: Mapping[str, Any], path: object, line: int | None) -> Any:
    """The row's ``finish_reason``, checked: "stop", "length" or absent."""
    value = row.get("finish_reason")
    if value not in (None, "stop", "length"):
        raise DataError(f"{value!r} is not 'stop' or 'length'", path=path, line=line, field="finish_reason")
    return value


def _end_ids(model: Any, tokenizer: Any, family: Family) -> list[int]:
    configured = model.generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    ids += [tokenizer.eos_token_id, *known_ids(tokenizer, family.end_tokens)]
    unique = list(dict.fromkeys(token for token in ids if token is not None))
    if not unique:
        raise ModelError("the tokenizer has no end token, so no answer would ever end")
    return unique


@contextmanager
def _own_settings_off(model: Any) -> Iterator[None]:
    """Without the model's generation_config.json, from which ``generate`` fills in whatever is not named to it."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(bos_token_id=own.bos_token_id)
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    """Dropout off while answering; a model in training goes back to it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
