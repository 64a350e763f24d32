"""Reasoning about a picture (geometry, and any problem with one final answer): the visual perception reward.

Reward: 0.9 · accuracy + 0.1 · format + 0.7 · visual + repetition; ``released`` is the same sum with the components of
Xiao et al. as released. Metric: accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perception_r1.reasoning import released
from perception_r1.reasoning import reward as robust
from perception_r1.reasoning.equivalence import unboxed
from perception_r1.rewards.base import Context, RewardSpec
from perception_r1.stats import Column, array, column, ratio
from perception_r1.tasks.base import Hack, Scored, Task
from perception_r1.tasks.reasoning_hacks import answer_hacks
from perception_r1.types import AnswerTarget, Completion, Parsed, Prompt, RewardRecord, Sample

SUFFIX = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The "
    "reasoning process MUST BE enclosed within <think> </think> tags, and the answer process MUST BE enclosed within "
    "<answer> </answer> tags. The final answer MUST BE put in \\boxed{} in <answer> </answer> tags."
)
"""What the paper appends to each problem; the format reward asks for exactly this."""
WEIGHTS = {"accuracy": 0.9, "format": 0.1, "visual": 0.7, "repetition": 1.0}
ROBUST = {
    "accuracy": robust.accuracy,
    "format": robust.answer_format,
    "visual": robust.visual,
    "repetition": robust.repetition,
}
RELEASED = {
    "accuracy": released.accuracy,
    "format": released.answer_format,
    "visual": released.visual,
    "repetition": released.repetition,
}


class GeometryTask(Task):
    """Solve a problem about a picture, thinking first. Blocks are always asked for: ``thinking`` changes nothing."""

    has_own_blocks = True
    name = "geometry"
    targets = (AnswerTarget,)
    questions = {"training": "{question} " + SUFFIX, "evaluation": "{question} " + SUFFIX, "bare": "{question}"}
    presets = {
        "robust": RewardSpec("geometry", "robust", WEIGHTS, ROBUST, robust.match_facts),
        "released": RewardSpec(
            "geometry", "released", WEIGHTS, RELEASED, released.match_facts, options={robust.EVERY_FACT: True}
        ),
    }
    question_says = "the problem"
    example_question = "Find x."
    nothing = AnswerTarget("?")
    primary = "accuracy"

    def prompt(self, sample: Sample) -> Prompt:
        """The problem and how to answer, in one user turn; with the preset ``bare`` the problem alone."""
        return Prompt(self.question(sample), has_image=sample.image is not None)

    def question(self, sample: Sample) -> str:
        """The problem with the suffix of its preset."""
        return self.questions[self.prompt_preset].replace("{question}", sample.question.strip(), 1)

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
        return robust.parse_answer(completion)

    def record(self, ctx: Context, reward: float | None, components: dict[str, float], why: str) -> RewardRecord:
        """The record of an answer: ``n_target`` visual facts count and ``n_valid`` of them are stated."""
        n_facts = ctx.match.n_target
        n_stated = sum(score >= 0.5 for score in ctx.match.phi)  # also where the reward does not pay: it is a metric
        paid = bool(self.reward.components.get("visual")) and n_facts > 0
        reason = robust.answer_reason(ctx.parsed, components, n_stated, n_facts if paid else None)
        return RewardRecord(
            reward,
            components,
            ctx.parsed.status,
            f"not scored: {why}" if why else reason,
            n_valid=n_stated,
            n_target=n_facts,
            answer=ctx.parsed.answer,
        )

    def counted_facts(self, sample: Sample) -> tuple[int, ...]:
        """Indices of the visual facts that the reward counts."""
        return robust.counted_facts(sample, every=bool(self.reward.options.get(robust.EVERY_FACT)))

    def hacks(self, sample: Sample) -> list[Hack]:
        """Reasoned answers that neither look nor solve."""
        return [Hack(*row) for row in answer_hacks(sample, self.prompt(sample).user)]

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """Accuracy and, where facts are known, how many of them the responses state."""
        table = {"accuracy": column([answer_right(*pair) for pair in scored])}
        n_facts = array([record.n_target for _, record in scored])
        if n_facts.any():
            stated = array([record.n_valid for _, record in scored])
            table["visual"] = Column(ratio(stated, n_facts), mask=n_facts > 0)
            table["perception"] = Column((stated == n_facts).astype(float), mask=n_facts > 0)
        return table

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """1 for the right answer."""
        return answer_right(sample, record)


def answer_right(sample: Sample, record: RewardRecord) -> float:
    """1 for the right final answer: as the preset graded it, or graded here where the reward does not look at it."""
    known: Mapping[str, Any] = record.components
    if "accuracy" not in known and isinstance(sample.target, AnswerTarget):
        return float(robust.is_right(record.status, record.answer, sample.target.answer))
    return float(known.get("accuracy") or 0.0)
