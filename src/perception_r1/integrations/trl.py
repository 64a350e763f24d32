"""Rewards as TRL's ``GRPOTrainer`` calls them.

Components go to TRL's ``log_metric``. TRL hands over text without special tokens, so where a tokenizer is given the
completion is decoded again from its ids with them kept, and an answer without an end token is known to be truncated.

    GRPOTrainer(model, reward_functions({"task": "grounding", "family": "qwen3_vl"}, processor=processor), …)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from perception_r1.errors import UserError
from perception_r1.integrations.scoring import (
    ROW_COLUMN,
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
from perception_r1.models.limits import limits_of
from perception_r1.models.processors import known_ids
from perception_r1.types import Completion, RewardRecord, Sample


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        ...


OnScored = Callable[[int, list[Sample], list[Completion], list[RewardRecord]], None]
Reward = Callable[..., Awaitable[list[float | None]]]

EVALUATION_COLUMN = "of_evaluation"
"""Dataset column that tells the rows of an evaluation during training from those to train on."""


# Of a generation_config.json: what says nothing of the tokens that are chosen, or is TRL's own to set.
_NO_SAMPLING = ("_", "output_", "return_", "use_cache", "cache_", "max_", "transformers_", "eos_", "bos_", "pad_")


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

    perception_reward.task, perception_reward.tokenizer = task, tokenizer  # type: ignore[attr-defined]  # `check_trainer`
    return perception_reward


def check_trainer(trainer: Any) -> None:
    """Refuse a ``GRPOTrainer`` of your own that would train on something else than it seems to, without an error.

    Looks at the padding side, the processor's image limits, special tokens that rewards do not see, image tokens that
    vLLM may sample, and sampling settings that rollouts take from the model's ``generation_config.json``.

    Raises:
        UserError: one line with everything that is wrong, and what to write instead.
    """
    processor = trainer.processing_class
    if not hasattr(processor, "image_processor"):
        raise UserError("trainer: processing_class is a tokenizer, so no image reaches the model: give AutoProcessor's")
    faults = []
    if processor.tokenizer.padding_side != "left":
        faults.append(
            "the processor pads on the right, beside ids that TRL pads on the left (positions are wrong where prompts "
            "differ in length): processor.tokenizer.padding_side = 'left'"
        )
    rewards = [function for function in trainer.reward_funcs if hasattr(function, "task")]
    for reward in rewards:
        faults += _reward_faults(reward.task, reward.tokenizer, processor, trainer.train_dataset)
    faults += _sampling_faults(trainer, rewards)
    if faults:
        raise UserError(f"trainer: {'; '.join(dict.fromkeys(faults))}")


def _reward_faults(task: Any, tokenizer: Any, processor: Any, dataset: Any) -> list[str]:
    faults = []
    if tokenizer is None:
        faults.append(
            "rewards see answers without their special tokens, and cannot tell one that was cut: "
            "reward_functions(…, processor=processor)"
        )
    family, limits = task.family, limits_of(processor)
    stored = {ROW_COLUMN, "model_width"} & set(getattr(dataset, "column_names", None) or ())
    if family.frame == "resized" and not stored and limits not in (None, (family.min_pixels, family.max_pixels)):
        faults.append(
            f"rewards take images to be resized to {family.min_pixels:,} to {family.max_pixels:,} pixels, the "
            f"processor resizes to {limits[0]:,} to {limits[1]:,}: reward_functions(…, processor=processor)"
        )
    return faults


def _sampling_faults(trainer: Any, rewards: Sequence[Any]) -> list[str]:
    if trainer.args.use_vllm:
        banned = (trainer.args.generation_kwargs or {}).get("logit_bias", {})
        tokenizer = trainer.processing_class.tokenizer
        names = {name for reward in rewards for name in reward.task.family.image_tokens}
        free = [token for token in known_ids(tokenizer, sorted(names)) if token not in banned]
        bias = dict.fromkeys(free, -100.0)
        return [f"vLLM may sample image tokens: generation_kwargs={{'logit_bias': {bias}}}"] if free else []
    asked = trainer.generation_config
    own = trainer.accelerator.unwrap_model(trainer.model).generation_config.to_diff_dict()
    taken = sorted(
        name
        for name, value in own.items()
        if value not in (None, False) and getattr(asked, name, value) is None and not name.startswith(_NO_SAMPLING)
    )
    if not taken:
        return []
    return [
        f"rollouts take {', '.join(taken)} from the model's generation_config.json and are not its policy's: "
        "perception_r1.models.generation.sample_plainly(model)"
    ]
