"""The reward of an EasyR1 run: its batch form, a list of answers in, a list of scores out.

EasyR1 hands a reward nothing but answer and ground truth, so sizes and categories are packed into the ground truth
(a data set made by ``pr1 export easyr1``). It takes no None. Set ``worker.reward.skip_special_tokens=false``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perception_r1.integrations.scoring import scorer_of
from perception_r1.types import FinishReason

REWARD_NAME = "perception_r1"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]],
    *,
    settings: str,
    unscored: float = 0.0,
    max_response_length: int | None = None,
    **_: Any,
) -> list[dict[str, float]]:
    """Scores of a batch.

    Args:
        reward_inputs: each with ``response``, ``response_length`` and ``ground_truth`` (a packed row).
        settings: of the task: a path or JSON.
        unscored: what stands for *not scored*; counted and logged.
        max_response_length: the limit of the run; an answer of that length that does not end was cut.

    Returns:
        ``overall`` (the reward), and for the logs ``format``, ``accuracy`` and every component.
    """
    scorer = scorer_of(settings, unscored)
    ends = scorer.task.family.end_tokens
    texts, rows = (
        [str(item["response"]) for item in reward_inputs],
        [str(item["ground_truth"]) for item in reward_inputs],
    )
    reasons: list[FinishReason | None] = []
    for text, item in zip(texts, reward_inputs, strict=True):
        length = item.get("response_length")
        if max_response_length is None or length is None:
            reasons.append(None)
        else:
            reasons.append("length" if length >= max_response_length and not text.endswith(ends) else "stop")
    scores = []
    for record in scorer.records(texts, rows, reasons):
        reward = scorer.reward(record)
        readable = float(record.status in ("ok", "empty"))
        scores.append({"overall": reward, "format": readable, "accuracy": reward, **scorer.numbers(record)})
    return scores
