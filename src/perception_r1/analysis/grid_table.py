"""The table of a grid: each case over its seeds, its difference from another case, and what was published.

Intervals are of two levels: seeds are drawn with replacement, and so are the evaluated samples, which all models share.
Where both sides of a difference have the same seeds (and so the same training scenes), they are drawn together.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_r1.analysis.grid import Grid, Job, Published, jobs_of
from perception_r1.evaluate.metrics import columns
from perception_r1.evaluate.results import read_json_file, read_results

Floats = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Row:
    """A case: its runs so far, ``metric`` and ``difference`` as {value, low, high}, and the published side."""

    case: str
    title: str
    seeds: tuple[int | None, ...]
    missing: tuple[int | None, ...]
    metric: dict[str, float] | None = None
    by_seed: tuple[float, ...] = ()
    also: dict[str, float] = field(default_factory=dict)
    against: str | None = None
    difference: dict[str, float] | None = None
    published: float | None = None
    published_difference: float | None = None
    direction: str = ""
    note: str = ""
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return asdict(self)


def grid_rows(grid: Grid, out: str | Path, published: Mapping[str, Any] | None = None, *, seed: int = 0) -> list[Row]:
    """The rows of a grid from what has been run so far.

    Args:
        grid: the grid.
        out: the folder of its runs.
        published: of `read_published`.
        seed: of the bootstrap.
    """
    runs: dict[str, list[Job]] = {}
    for job in jobs_of([grid], out):
        runs.setdefault(job.case, []).append(job)
    measured = {name: _measured(grid, [job for job in found if job.is_done]) for name, found in runs.items()}
    rows = []
    for name, case in grid.cases.items():
        source, against = grid.source(name), grid.against(name)
        done = [job for job in runs[source] if job.is_done]
        figure = _published(grid, name, published)
        row: dict[str, Any] = {
            "case": name,
            "title": case.title or name,
            "seeds": tuple(job.seed for job in done),
            "missing": tuple(job.seed for job in runs[source] if not job.is_done),
            "against": against,
            "published": figure,
            "note": case.note,
        }
        if done:
            sides, statistic = measured[source]
            value, low, high = pooled(list(sides.values()), statistic, seed=seed)
            row |= {
                "metric": {"value": value, "low": low, "high": high},
                "by_seed": tuple(float(statistic(side.mean(axis=0))) for side in sides.values()),
                "also": _also(grid, done),
                "seconds": _seconds(done),
            }
            if against is not None and (other := measured[grid.source(against)])[0]:
                change = pooled_difference(other[0], sides, statistic, seed=seed)
                row["difference"] = dict(zip(("value", "low", "high"), change, strict=True))
        if against is not None and figure is not None:
            before = _published_against(grid, name, against, published)
            row["published_difference"] = None if before is None else round(figure - before, 6)
        row["direction"] = direction(row.get("difference"), row.get("published_difference"))
        rows.append(Row(**row))
    return rows


def direction(measured: Mapping[str, float] | None, published: float | None) -> str:
    """Whether the measured difference goes the way of the published one: yes, no, unclear, or nothing to compare.

    ``unclear``: the measured interval holds 0. ``even``: the published figures are equal.
    """
    if measured is None or published is None:
        return ""
    if published == 0:
        return "even"
    if measured["low"] <= 0 <= measured["high"]:
        return "unclear"
    return "yes" if (measured["value"] > 0) == (published > 0) else "no"


def pooled(
    sides: Sequence[Floats], statistic: Callable[[Floats], Floats], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Value and 95 % interval of the statistic of the means over seeds and samples.

    Args:
        sides: one (n, k) array of per-sample columns a seed, rows in the same order.
        statistic: maps (..., k) means to values.
        seed: of the resampling.
        resamples: how many.
    """
    rng = np.random.default_rng(seed)
    value = float(statistic(np.mean([side.mean(axis=0) for side in sides], axis=0)))
    return _interval(value, statistic(_resampled(sides, *_draws(rng, len(sides), len(sides[0]), resamples))))


def pooled_difference(
    before: Mapping[int | None, Floats],
    after: Mapping[int | None, Floats],
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """``statistic(after) − statistic(before)`` with its interval; arguments as in `pooled`, by seed.

    Seeds that both sides have are the only ones used, unless a side was not trained (one run for all seeds).
    """
    common = [key for key in before if key in after]
    if common:
        before, after = ({key: side[key] for key in common} for side in (before, after))
    old, new = list(before.values()), list(after.values())
    rng = np.random.default_rng(seed)
    counts, weights = _draws(rng, len(old), len(old[0]), resamples)
    other = weights if common else _draws(rng, len(new), 1, resamples)[1]
    value = float(
        statistic(np.mean([s.mean(axis=0) for s in new], axis=0))
        - statistic(np.mean([s.mean(axis=0) for s in old], axis=0))
    )
    return _interval(value, statistic(_resampled(new, counts, other)) - statistic(_resampled(old, counts, weights)))


def _draws(rng: np.random.Generator, seeds: int, n: int, resamples: int) -> tuple[Floats, Floats]:
    """How often each sample (R, n) and each seed (R, S) is drawn, as shares."""
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    return counts, rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds


def _resampled(sides: Sequence[Floats], counts: Floats, weights: Floats) -> Floats:
    """Means of the columns (R, k) under the draws."""
    means: Floats = sum(weights[:, index, None] * (counts @ side) for index, side in enumerate(sides))  # type: ignore[assignment]
    return means


def _interval(value: float, values: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return value, min(float(low), value), max(float(high), value)


def _measured(grid: Grid, jobs: Sequence[Job]) -> tuple[dict[int | None, Floats], Callable[[Floats], Floats]]:
    """The metric's per-sample columns by seed, rows by id, and its statistic."""
    sides: dict[int | None, Floats] = {}
    statistic: Callable[[Floats], Floats] = lambda means: means[..., 0]  # noqa: E731
    for job in jobs:
        scored = sorted(((r.sample, r.record) for r in read_results(job.results)), key=lambda pair: pair[0].id)
        column = columns(scored[0][0].task, scored)[grid.metric]
        rows = column.rows()
        sides[job.seed] = rows[:, None] if rows.ndim == 1 else rows
        statistic = column.statistic
    return sides, statistic


def _also(grid: Grid, jobs: Sequence[Job]) -> dict[str, float]:
    tables = [read_json_file(job.results / "metrics.json")["metrics"] for job in jobs]
    return {
        name: statistics.fmean(table[name]["value"] for table in tables)
        for name in grid.also
        if all(name in table for table in tables)
    }


def _seconds(jobs: Sequence[Job]) -> float:
    """Mean time of a run's trainings."""
    total = 0.0
    for job in jobs:
        for file in job.folder.glob("*/run.json"):
            total += float((read_json_file(file) or {}).get("seconds", 0.0))
    return total / len(jobs)


def read_published() -> dict[str, Any]:
    """The figures that the papers publish, by table, row and column: ``{table: {row: {column: value}}}``."""
    text = (files("perception_r1") / "assets" / "published.json").read_text(encoding="utf-8")
    return {
        table["benchmark"]: {row.get("case") or row.get("method"): row["values"] for row in table["rows"]}
        for table in json.loads(text)["tables"]
    }


def _place(grid: Grid, name: str) -> Published | None:
    """Where the published figure of a case stands."""
    case = grid.cases[name]
    if isinstance(case.published, Published):
        return case.published
    if case.published is None or grid.published is None:
        return None
    return grid.published.model_copy(update={"row": case.published})


def _published(grid: Grid, name: str, published: Mapping[str, Any] | None) -> float | None:
    place = _place(grid, name)
    return None if place is None or published is None else _figure(place, place.row, published)


def _published_against(grid: Grid, name: str, against: str, published: Mapping[str, Any] | None) -> float | None:
    """The published figure that a case's is compared with: in its own table where that names one."""
    place = _place(grid, name)
    if place is None or published is None:
        return None
    if place.against is not None:
        return _figure(place, place.against, published)
    return _published(grid, against, published)


def _figure(place: Published, row: str | None, published: Mapping[str, Any]) -> float | None:
    value = published.get(place.table, {}).get(row, {}).get(place.column)
    return None if value is None else float(value)


def markdown(grid: Grid, rows: Sequence[Row], *, percent: bool = True) -> str:
    """The rows as a Markdown table, published figures beside the measured ones."""
    shown = any(row.published is not None for row in rows)
    head = [
        "case",
        "seeds",
        grid.metric,
        "difference",
        *grid.also,
        *(["published", "published difference", "direction agrees"] if shown else []),
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    titles = {row.case: row.title for row in rows}
    for row in rows:
        cells = [
            row.title,
            str(sum(seed is not None for seed in row.seeds)) if row.seeds != (None,) else "–",
            _cell(row.metric, percent),
            _cell(row.difference, percent, sign=True)
            + (f" vs {titles[row.against or row.case]}" if row.difference else ""),
            *(_number(row.also.get(name), percent) for name in grid.also),
        ]
        if shown:
            gap = row.published_difference
            cells += [
                "–" if row.published is None else f"{row.published:.1f}",
                "–" if gap is None else f"{gap:+.1f}".replace("-", "−"),
                row.direction or "–",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(entry: Mapping[str, float] | None, percent: bool, *, sign: bool = False) -> str:
    if entry is None:
        return "–"
    value, low, high = (_number(entry[key], percent, sign=sign) for key in ("value", "low", "high"))
    return f"**{value}** ({low} to {high})"


def _number(value: float | None, percent: bool, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    scaled = 100 * value if percent else value
    text = (
        f"{scaled:+.1f}"
        if sign and percent
        else f"{scaled:.1f}"
        if percent
        else f"{scaled:+.3f}"
        if sign
        else f"{scaled:.3f}"
    )
    return text.replace("-", "−")
