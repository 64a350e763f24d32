"""Metrics of an evaluation, with intervals, from scored samples; each task declares which (`Task.metrics`).

Records already hold predictions in original-image pixels, so nothing is parsed or converted again. Metrics do not read
the reward: the same answers give the same figures whichever preset scored them (but for reasoned answers, which each
preset grades, and whose facts it counts, in its own way). An answer that cannot be parsed counts as wrong; a sample
that was *not scored* (``reward is None``) is left out and shows in ``n_scored``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_r1.stats import Column, Floats, column, interval, paired_difference
from perception_r1.tasks import task_class
from perception_r1.tasks.base import Scored
from perception_r1.types import RewardRecord, Sample, TextTarget


def columns(task: str, scored: Sequence[Scored]) -> dict[str, Column]:
    """Every metric of ``task`` as per-sample columns, over samples that were scored (see :func:`keep_scored`).

    Raises:
        RecipeError: there is no such task.
    """
    return {**task_class(task).metrics(scored), "reward": column([record.reward for _, record in scored])}


def summarise(task: str, scored: Sequence[Scored], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Metrics with 95 % bootstrap intervals over samples, ready for ``metrics.json``.

    Returns:
        ``{task, n, n_scored, unparsable: {reason: count}, primary, metrics: {name: {value, low, high, n}}}``.
        A metric without samples (a count that never occurs) is left out; all are when nothing was scored.
    """
    kept = keep_scored(scored)
    metrics: dict[str, Any] = {}
    for name, values in columns(task, kept).items() if kept else ():
        rows = values.rows()
        if len(rows):
            value, low, high = interval(rows, values.statistic, resamples=resamples, seed=seed)
            metrics[name] = {"value": value, "low": low, "high": high, "n": len(rows)}
    return {
        "task": task,
        "n": len(scored),
        "n_scored": len(kept),
        "unparsable": unparsable(scored),
        "primary": task_class(task).primary,
        "metrics": metrics,
    }


def compare(
    task: str, before: Sequence[Scored], after: Sequence[Scored], *, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Paired differences ``after − before`` of every metric, over the samples that both scored, by id.

    Returns:
        ``{name: {value, low, high, n}}`` with 95 % intervals; empty without a common sample.
    """
    old = {sample.id: (sample, record) for sample, record in keep_scored(before)}
    new = {sample.id: (sample, record) for sample, record in keep_scored(after)}
    ids = [key for key in old if key in new]
    if not ids:
        return {}
    tables = [columns(task, [side[key] for key in ids]) for side in (old, new)]
    found = {}
    for name, values in tables[0].items():
        if name not in tables[1]:
            continue
        rows, others = paired_rows(values, tables[1][name])
        if len(rows):
            value, low, high = paired_difference(rows, others, values.statistic, resamples=resamples, seed=seed)
            found[name] = {"value": value, "low": low, "high": high, "n": len(rows)}
    return found


def paired_rows(before: Column, after: Column) -> tuple[Floats, Floats]:
    """The columns of the samples that a metric covers on both sides (two presets may count different facts)."""
    masks = [column.mask for column in (before, after) if column.mask is not None]
    if not masks:
        return before.values, after.values
    both = np.logical_and.reduce(masks)
    return before.values[both], after.values[both]


def quality(sample: Sample, record: RewardRecord) -> float:
    """How good one answer is, 0 to 1, by the primary metric of its task; 0 for one that was not scored."""
    return 0.0 if record.reward is None else task_class(sample.task).quality(sample, record)


def keep_scored(scored: Sequence[Scored]) -> list[Scored]:
    """Those with a reward; *not scored* is never 0."""
    return [pair for pair in scored if pair[1].reward is not None]


def unparsable(scored: Sequence[Scored]) -> dict[str, int]:
    """Why answers gave nothing usable, most frequent first, with counts; unreadable ones by what is wrong with them."""
    counts: Counter[str] = Counter()
    for sample, record in scored:
        if record.reward is None:
            counts[f"not scored: {record.reason}" if record.reason else "not scored"] += 1
        elif record.status == "malformed":
            counts[record.reason or "malformed"] += 1
        elif record.status == "truncated":
            counts[
                "cut at the limit (what came before is kept)"
                if record.n_valid or (isinstance(sample.target, TextTarget) and record.answer)
                else "cut at the limit"
            ] += 1
        elif record.n_pred and not record.n_valid:
            counts["no usable entry"] += 1
    return dict(counts.most_common())
