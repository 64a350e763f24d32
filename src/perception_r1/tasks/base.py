"""A task: what is asked, what would be right, how an answer is read and scored. One path for every use.

Training, evaluation, replay, checks and every adapter call `Task.score`; nothing else computes a reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from perception_r1.core.parsing import parse_objects
from perception_r1.core.rewards import RewardSpec, score_objects
from perception_r1.errors import DataError
from perception_r1.families import Family
from perception_r1.prompts import PromptPreset, render_answer, render_prompt
from perception_r1.types import Completion, Parsed, Prompt, RewardRecord, Sample


@dataclass(frozen=True)
class Task:
    """One task for one family with one reward; made by `make_task`. Immutable, pure, and safe to share and to pickle.

    Attributes:
        family: whose frame and form of answer are used.
        reward: how answers are scored.
        thinking: whether ``<think>`` and ``<answer>`` blocks are asked for, and required.
        prompt_preset: ``paper`` or ``released``.
    """

    family: Family
    reward: RewardSpec
    thinking: bool = False
    prompt_preset: PromptPreset = "paper"

    name: ClassVar[str]
    targets: ClassVar[tuple[type, ...]]
    """Kinds of target that the task can be scored against."""

    def prompt(self, sample: Sample) -> Prompt:
        """The question as the model is asked it."""
        return render_prompt(sample, self.family, thinking=self.thinking, preset=self.prompt_preset)

    def gold(self, sample: Sample) -> str:
        """The right answer in the model's own form and coordinates."""
        self.check(sample)
        return render_answer(sample, self.family, thinking=self.thinking)

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """Read an answer; never raises."""
        return parse_objects(completion.text, finish_reason=completion.finish_reason, thinking=self.thinking)

    def score(
        self, sample: Sample, completion: Completion | str, evidence: Mapping[str, Any] | None = None
    ) -> RewardRecord:
        """Score an answer. Pure and synchronous; a bad answer is never an error.

        Args:
            sample: with a target that the task knows, and the size of its image.
            completion: the answer; bare text stands for one whose end is not known.
            evidence: what had to be fetched from outside (a judge's verdicts); perception tasks need none.

        Raises:
            DataError: the sample cannot be scored (wrong kind of target, no image size).
        """
        if isinstance(completion, str):
            completion = Completion(completion)
        self.check(sample)
        return score_objects(
            self.reward,
            sample,
            completion,
            self.parse(sample, completion),
            self.family.frame_of(sample),
            answer_format=self.family.answer_format,
            thinking=self.thinking,
        )

    def check(self, sample: Sample) -> None:
        """Raise a DataError if the sample's target is not one of this task's."""
        if not isinstance(sample.target, self.targets):
            kinds = " or ".join(kind.__name__ for kind in self.targets)
            raise DataError(
                f"sample {sample.id!r}: {self.name} is scored against {kinds}, not {type(sample.target).__name__}"
            )
