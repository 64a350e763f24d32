"""Reasoning about a picture (geometry, and any problem with one final answer): the visual perception reward.

Reward: 0.9 · accuracy + 0.1 · format + 0.7 · visual + repetition (see `core.answers`). Metric: accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perception_r1.core.answers import parse_answer, score_answer
from perception_r1.core.equivalence import unboxed
from perception_r1.errors import DataError
from perception_r1.tasks.base import Task
from perception_r1.types import AnswerTarget, Completion, Parsed, Prompt, RewardRecord, Sample

SUFFIX = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The "
    "reasoning process MUST BE enclosed within <think> </think> tags, and the answer process MUST BE enclosed within "
    "<answer> </answer> tags. The final answer MUST BE put in \\boxed{} in <answer> </answer> tags."
)
"""What the paper appends to each problem; the format reward asks for exactly this."""


class GeometryTask(Task):
    """Solve a problem about a picture, thinking first. Blocks are always asked for: ``thinking`` changes nothing."""

    name: ClassVar[str] = "geometry"
    targets: ClassVar[tuple[type, ...]] = (AnswerTarget,)

    def prompt(self, sample: Sample) -> Prompt:
        """The problem and how to answer, in one user turn; with the preset ``bare`` the problem alone."""
        text = sample.question.strip()
        if self.prompt_preset != "bare":
            text = f"{text} {SUFFIX}"
        return Prompt(text, has_image=sample.image is not None)

    def gold(self, sample: Sample) -> str:
        """The row's own ``response`` where it has one (a chain of thought), else the facts and the boxed answer."""
        self.check(sample)
        if sample.response:
            return sample.response
        assert isinstance(sample.target, AnswerTarget)
        facts = [fact.rstrip(". ") for fact in sample.target.visual_annotations]
        seen = ". ".join(facts) + "." if facts else "I look at the picture."
        return f"<think>\n{seen}\n</think>\n<answer>\n\\boxed{{{unboxed(sample.target.answer)}}}\n</answer>"

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """The boxed answer; never raises."""
        return parse_answer(completion)

    def score(
        self, sample: Sample, completion: Completion | str, evidence: Mapping[str, Any] | None = None
    ) -> RewardRecord:
        """Score an answer; see `Task.score`.

        Args:
            sample: with an `AnswerTarget`; the image's size is not needed.
            completion: the answer.
            evidence: a judge's verdicts (`core.answers` says in which form). None: facts are looked for in the text.
        """
        if isinstance(completion, str):
            completion = Completion(completion)
        self.check(sample)
        if not sample.target.answer.strip():  # type: ignore[union-attr]
            raise DataError(f"sample {sample.id!r}: its answer is empty")
        return score_answer(self.reward, sample, completion, self.parse(sample, completion), evidence)
