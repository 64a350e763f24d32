"""What a judge gets and gives, and how its verdicts become the evidence that the pure scorer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from perception_r1.reasoning.reward import judged_text
from perception_r1.types import AnswerTarget, Completion, Sample

if TYPE_CHECKING:
    from perception_r1.tasks import Task


@dataclass(frozen=True, slots=True)
class Case:
    """One response and the facts to look for in it."""

    facts: tuple[str, ...]
    response: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on a case.

    Attributes:
        scores: one a fact, 0..1; None where the judge gave none.
        contradicted: one a fact: the response also says what cannot be true beside it.
        quotes: one a fact: the words that state it ("" where none were given).
        failure: why there are no scores; "" when there are.
    """

    scores: tuple[float | None, ...] = ()
    contradicted: tuple[bool, ...] = ()
    quotes: tuple[str, ...] = ()
    failure: str = ""


class Judge(Protocol):
    """Who gives verdicts."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    async def judge(self, cases: Sequence[Case]) -> list[Verdicts]:
        """Verdicts on every case, in order; never raises for what a server does."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Counters since the last call (requests, cache hits, failures, …), for logs."""
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...


async def gather_evidence(
    judge: Judge, task: Task, samples: Sequence[Sample], completions: Sequence[Completion]
) -> list[dict[str, Any] | None]:
    """The evidence for ``task.score`` of each completion.

    Only facts that count are sent (those that the question gives away are not); None for a sample without any, or
    where the reward does not weigh them.
    """
    evidence: list[dict[str, Any] | None] = [None] * len(samples)
    cases: list[Case] = []
    places: list[tuple[int, tuple[int, ...]]] = []
    if task.reward.components.get("visual"):
        for index, (sample, completion) in enumerate(zip(samples, completions, strict=True)):
            counted = task.counted_facts(sample)
            if not counted or not isinstance(sample.target, AnswerTarget):
                continue
            facts = sample.target.visual_annotations
            cases.append(Case(tuple(facts[i] for i in counted), judged_text(completion)))
            places.append((index, counted))
    if not cases:
        return evidence
    try:
        found = await judge.judge(cases)
    except Exception as error:  # a judge of the user's own may raise: its verdicts are missing, the step goes on
        found = [Verdicts(failure=f"the judge failed: {type(error).__name__}: {error}")] * len(cases)
    for (index, counted), case, verdicts in zip(places, cases, found, strict=True):
        evidence[index] = _evidence(samples[index], counted, case, verdicts, judge.name)
    return evidence


def _evidence(sample: Sample, counted: Sequence[int], case: Case, verdicts: Verdicts, name: str) -> dict[str, Any]:
    if verdicts.failure:
        return {"failure": verdicts.failure, "judge": name}
    if len(verdicts.scores) != len(case.facts):
        return {"failure": f"{len(verdicts.scores)} verdicts for {len(case.facts)} facts", "judge": name}
    assert isinstance(sample.target, AnswerTarget)
    n = len(sample.target.visual_annotations)
    scores: list[float | None] = [None] * n
    contradicted = [False] * n
    for place, index in enumerate(counted):
        scores[index] = verdicts.scores[place]
        contradicted[index] = bool(verdicts.contradicted) and verdicts.contradicted[place]
    return {"scores": scores, "contradicted": contradicted, "judge": name}
