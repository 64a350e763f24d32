"""All checks over one set of rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perception_r1.check.findings import Finding, several
from perception_r1.check.frames import Answer, FrameFit, fit_frames
from perception_r1.check.gold import GoldReport, check_gold
from perception_r1.check.hacks import HackRow, check_hacks
from perception_r1.check.lengths import LengthReport, TokenCounter, check_lengths
from perception_r1.data.overlap import SharedImage, overlap
from perception_r1.errors import DataError
from perception_r1.tasks import Task
from perception_r1.types import Sample

HACK_ROWS = 32
"""Rows that the battery of hacks is run on: it writes some dozen answers for each."""

SHOWN_IMAGES = 3

NO_ROW = "no good row is left"


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of a recipe; None is no limit. ``sft``: prompt and answer together. ``context``: vLLM's."""

    answer: int | None = None
    sft: int | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``pr1 check`` found; ``hacks`` is the battery over ``hack_rows`` of the rows."""

    task: str
    family: str
    n_rows: int
    gold: GoldReport
    lengths: LengthReport | None
    hack_rows: int
    hacks: tuple[HackRow, ...]
    frame: FrameFit | None
    shared: tuple[SharedImage, ...] | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form; the parts' own findings are in ``findings`` only."""
        plain = {"ok": self.ok, **asdict(self)}
        for part in ("gold", "lengths", "frame"):
            if plain[part] is not None:
                del plain[part]["findings"]
        return plain


def run_checks(
    task: Task,
    samples: Sequence[Sample],
    *,
    bad: Sequence[DataError] = (),
    counter: TokenCounter | None = None,
    tokenizer: Sequence[Finding] = (),
    limits: Limits | None = None,
    answers: Sequence[Answer] | None = None,
    against: Sequence[Sample] | None = None,
    own_evaluation: bool = False,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> CheckReport:
    """Run every check that the arguments allow.

    Args:
        task: with the recipe's own reward.
        samples: the good rows, prepared (image size and model size known).
        bad: what was wrong with the others.
        counter: counts tokens; default an estimate.
        tokenizer: what is wrong with the model's tokenizer and template (see ``check_tokenizer``).
        limits: token limits.
        answers: real answers of a model, for the coordinate frame.
        against: an evaluation set, for shared images.
        own_evaluation: whether that is the recipe's own ``data.eval``: shared images are then a warning.
        seed: of the rows that hacks are tried on.
        advance: called after each row.
    """
    limits = limits or Limits()
    gold = check_gold(task, samples, advance)
    lengths = check_lengths(
        task,
        samples,
        counter or TokenCounter.estimate(),
        max_answer=limits.answer,
        max_sft=limits.sft,
        max_context=limits.context,
    )
    rows = random.Random(seed).sample(list(samples), min(HACK_ROWS, len(samples)))
    hacks, hack_findings = check_hacks(task, rows)
    frame = None if answers is None else fit_frames(task, answers)
    shared = None if against is None else tuple(overlap(samples, against))
    findings = [Finding("rows", str(error)) for error in bad]
    if not samples:
        findings.append(Finding("rows", NO_ROW))
    findings += gold.findings
    findings += hack_findings
    findings += tokenizer
    findings += lengths.findings if lengths else ()
    findings += frame.findings if frame else ()
    if shared:
        first = ", ".join(image.image_a.rsplit("/", 1)[-1] for image in shared[:SHOWN_IMAGES])
        more = "" if len(shared) <= SHOWN_IMAGES else f" and {len(shared) - SHOWN_IMAGES:,} more"
        findings.append(
            Finding(
                "overlap",
                f"{several(len(shared), 'image')} of the evaluation set in training: {first}{more} (leave them out)",
                severity="warning" if own_evaluation else "error",
                sample=shared[0].ids_a[0],
            )
        )
    return CheckReport(
        task=task.name,
        family=task.family.name,
        n_rows=len(samples),
        gold=gold,
        lengths=lengths,
        hack_rows=len(rows),
        hacks=hacks,
        frame=frame,
        shared=shared,
        findings=tuple(findings),
    )
