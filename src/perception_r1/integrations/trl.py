"""Rewards as TRL's ``GRPOTrainer`` calls them.

Components go to TRL's ``log_metric``. TRL hands over text without special tokens, so where a tokenizer is given the
completion is decoded again from its ids with them kept, and an answer without an end token is known to be truncated.

    GRPOTrainer(model, reward_functions({"task": "grounding", "family": "qwen3_vl"}, processor=processor), …)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from perception_r1.integrations.scoring import (
    Settings,
    judge_of,
    metrics_of,
    samples_of,
    score_batch,
    task_of,
    text_of,
    with_processor,
)
from perception_r1.judge.base import Judge
from perception_r1.models.processors import known_ids
from perception_r1.types import Completion, RewardRecord, Sample


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str: ...


OnScored = Callable[[int, list[Sample], list[Completion], list[RewardRecord]], None]
Reward = Callable[..., Awaitable[list[float | None]]]

EVALUATION_COLUMN = "of_evaluation"
"""Dataset column that tells the rows of an evaluation during training from those to train on."""


def completion_of(token_ids: Sequence[int], tokenizer: Tokenizer, end_ids: Iterable[int]) -> Completion:
    """Text with special tokens kept; without an end token it was cut at the limit."""
    ids = list(token_ids)
    ended = bool(ids) and ids[-1] in set(end_ids)
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
    return Completion(text, "stop" if ended else "length")


def reward_functions(settings: Settings, *, tokenizer: Any = None, processor: Any = None) -> list[Reward]:
    """``reward_funcs`` for a ``GRPOTrainer`` of your own; the data set has a column ``row`` or a row's fields.

    Args:
        settings: of the task.
        tokenizer: decodes answers again with their special tokens; without one the text is scored as TRL decodes it.
        processor: the one that the trainer gets: names the tokenizer, and the limits by which it resizes images, which
            the reward of a family that answers in pixels of the resized image needs.

    Raises:
        RecipeError: the processor resizes to another grid than the family's.
    """
    task = task_of(settings)
    if processor is not None:
        task = with_processor(task, processor)
        tokenizer = tokenizer or processor.tokenizer
    ends = {tokenizer.eos_token_id, *known_ids(tokenizer, task.family.end_tokens)} if tokenizer else ()
    return [reward_function(task, tokenizer, [i for i in ends if i is not None], judge=judge_of(settings))]


def reward_function(
    task: Settings,
    tokenizer: Tokenizer | None,
    end_ids: Iterable[int],
    on_scored: OnScored | None = None,
    judge: Judge | None = None,
    on_evaluated: OnScored | None = None,
) -> Reward:
    """A reward function over a column ``row`` or a row's fields; None (not scored) is left out of the group by TRL.

    ``on_scored`` is called once a generation batch with (step, samples, completions, records); for saving rollouts.
    For rows with the column `EVALUATION_COLUMN`, ``on_evaluated`` is called instead, with the steps done so far.
    The verdicts of a ``judge`` (visual perception reward) are awaited first; where it gives none, the answer is not
    scored, and the step goes on.
    """
    task, ends = task_of(task), frozenset(end_ids)

    async def perception_reward(
        *, completions: Sequence[Any] = (), completion_ids: Sequence[list[int]] = (), **context: Any
    ) -> list[float | None]:
        if tokenizer is None:
            found = [Completion(text_of(completion)) for completion in completions]
        else:
            found = [completion_of(ids, tokenizer, ends) for ids in completion_ids]
        samples = samples_of(context, len(found), task)
        records = await score_batch(task, judge, samples, found)
        for name, value in metrics_of(records, judge).items() if context.get("log_metric") else ():
            context["log_metric"](name, value)
        state = context.get("trainer_state")
        done = state.global_step if state else 0
        if EVALUATION_COLUMN in context:
            if on_evaluated is not None:
                on_evaluated(done, samples, found, records)
        elif on_scored is not None:
            on_scored(1 + done, samples, found, records)
        return [record.reward for record in records]

    return perception_reward
