"""Does the reward pay for answers that did not look? The battery of known hacks, summed up by hack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perception_r1.check.findings import Finding
from perception_r1.tasks import Task
from perception_r1.tasks.hacks import audit
from perception_r1.types import Sample


@dataclass(frozen=True, slots=True)
class HackRow:
    """One hack over some rows.

    ``worst`` is the largest share of the gold answer's reward that it earned, on row ``worst_id``, where ``limit``
    would have been honest; ``n_over`` counts the rows where it earned more than its limit.
    """

    name: str
    n: int
    n_over: int
    worst: float
    limit: float
    worst_id: str

    @property
    def ok(self) -> bool:
        """Whether no row was paid more than its limit."""
        return self.n_over == 0


def check_hacks(task: Task, samples: Iterable[Sample]) -> tuple[tuple[HackRow, ...], tuple[Finding, ...]]:
    """Run the battery over ``samples``; rows whose right answer earns nothing are left to the check of gold answers.

    What PR1's released formulas (preset ``released``) pay for is known and kept, so there it is a warning.
    """
    by_name: dict[str, list[HackRow]] = {}
    for found in audit(task, samples):
        if found.gold <= 0:
            continue
        row = HackRow(
            found.name, 1, 0 if found.ok else 1, found.reward / found.gold, found.limit / found.gold, found.sample_id
        )
        by_name.setdefault(found.name, []).append(row)
    rows = tuple(_sum(name, group) for name, group in by_name.items())
    severity = "warning" if task.reward.preset == "released" and task.reward.function is None else "error"
    findings = tuple(
        Finding(
            "hacks",
            f"'{row.name}' earns up to {row.worst:.0%} of the right answer's reward ({_honest(row.limit)}): "
            f"too much on {row.n_over} of {row.n} rows",
            severity,  # type: ignore[arg-type]
            row.worst_id,
        )
        for row in rows
        if not row.ok
    )
    return rows, findings


def _sum(name: str, rows: list[HackRow]) -> HackRow:
    worst = max(rows, key=lambda row: (not row.ok, row.worst - row.limit))
    return HackRow(name, len(rows), sum(row.n_over for row in rows), worst.worst, worst.limit, worst.worst_id)


def _honest(limit: float) -> str:
    return "it should earn nothing" if limit <= 0 else f"at most {limit:.0%} is honest"
