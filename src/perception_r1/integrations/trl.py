"""Rewards as TRL's ``GRPOTrainer`` calls them.

One ``async def`` returns ``RewardRecord.reward``; the components go to TRL's ``log_metric``. TRL hands over text
without special tokens, so the completion is decoded again from its ids with them kept, and an answer without an end
token is known to be truncated.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from perception_r1.data.rows import sample_from_row
from perception_r1.types import Completion, RewardRecord, Sample

if TYPE_CHECKING:
    from perception_r1.tasks import Task

ROW_COLUMN = "row"
"""Dataset column that holds the canonical row of a sample as JSON."""


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str: ...


OnScored = Callable[[int, list[Sample], list[Completion], list[RewardRecord]], None]


@lru_cache(maxsize=4096)
def sample_of(row: str) -> Sample:
    """The sample of a row in JSON; a group's rollouts share one."""
    return sample_from_row(json.loads(row), path="training rows", check_image=False)


def completion_of(token_ids: Sequence[int], tokenizer: Tokenizer, end_ids: Iterable[int]) -> Completion:
    """Text with special tokens kept; without an end token it was cut at the limit."""
    ids = list(token_ids)
    ended = bool(ids) and ids[-1] in set(end_ids)
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
    return Completion(text, "stop" if ended else "length")


def reward_function(
    task: Task, tokenizer: Tokenizer, end_ids: Iterable[int], on_scored: OnScored | None = None
) -> Callable[..., Awaitable[list[float | None]]]:
    """A reward function for ``GRPOTrainer(reward_funcs=…)`` over rows made by ``train.dataset``.

    Args:
        task: scores each completion (``task.score``, the single path).
        tokenizer: decodes ``completion_ids``.
        end_ids: token ids that end an answer.
        on_scored: called once a generation batch with (step, samples, completions, records); for saving rollouts.

    Returns:
        ``async (completion_ids, row, …) -> rewards``; None for a completion that could not be scored, which TRL leaves
        out of the group's baseline.
    """
    ends = frozenset(end_ids)

    async def perception_reward(
        *, completion_ids: list[list[int]], row: list[str], **context: Any
    ) -> list[float | None]:
        samples = [sample_of(text) for text in row]
        completions = [completion_of(ids, tokenizer, ends) for ids in completion_ids]
        records = [task.score(sample, completion) for sample, completion in zip(samples, completions, strict=True)]
        log_metric = context.get("log_metric")
        if log_metric is not None:
            for name, value in mean_components(records).items():
                log_metric(f"components/{name}", value)
        if on_scored is not None:
            state = context.get("trainer_state")
            on_scored(1 + (state.global_step if state else 0), samples, completions, records)
        return [record.reward for record in records]

    return perception_reward


def mean_components(records: Sequence[RewardRecord]) -> dict[str, float]:
    """The mean of each component over the records that have it, and the share of each parse status."""
    sums: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.components.items():
            sums.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    for status in ("malformed", "truncated"):
        means[f"share_{status}"] = sum(record.status == status for record in records) / max(len(records), 1)
    return means
