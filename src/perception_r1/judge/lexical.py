"""The judge without a model: normalised matching of facts (`reasoning.facts`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perception_r1.judge.base import Case, Verdicts
from perception_r1.reasoning.facts import verdicts


class LexicalJudge:
    """Says what `reasoning.facts.verdict` says; exact on generated diagrams, blind to paraphrase elsewhere."""

    name = "lexical"

    def __init__(self) -> None:
        self._cases = 0

    async def judge(self, cases: Sequence[Case]) -> list[Verdicts]:
        """Verdicts on every case; nothing is waited for."""
        self._cases += len(cases)
        return [self.verdicts(case) for case in cases]

    def verdicts(self, case: Case) -> Verdicts:
        """The verdicts on one case."""
        found = verdicts(case.response, case.facts)
        return Verdicts(
            tuple(float(one == "stated") for one in found),
            tuple(one == "contradicted" for one in found),
            ("",) * len(found),
        )

    def stats(self) -> Mapping[str, float]:
        """Cases judged since the last call."""
        found, self._cases = {"cases": float(self._cases)}, 0
        return found

    async def close(self) -> None:
        """Nothing to let go of."""
