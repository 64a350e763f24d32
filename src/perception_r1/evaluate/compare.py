"""Two models on the same samples: paired differences, McNemar's test, and which samples changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perception_r1.data.files import read_records
from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.metrics import columns, compare, paired_rows
from perception_r1.evaluate.results import METRICS, SAMPLES, Result, read_json_file, read_results
from perception_r1.stats import mcnemar_exact, mcnemar_midp
from perception_r1.tasks import task_class
from perception_r1.tasks.base import Scored

# How good an answer must be to count as right: IoU 0.5 in grounding, and everything right elsewhere.


@dataclass(frozen=True, slots=True)
class Change:
    """A sample whose answer became right (``gained``), wrong (``lost``), or better or worse without crossing over."""

    id: str
    outcome: str
    before: float
    after: float
    question: str = ""
    said_before: str = ""
    said_after: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A over the samples that both scored.

    Attributes:
        names: of A and B.
        task: of the samples; "labels" when files of labels were compared.
        n: common samples; ``left_out`` are those that only one scored.
        metrics: by name, A's and B's values and the difference with its 95 % interval.
        both, only_a, only_b, neither: how many samples are right in which.
        right: what "right" means.
        exact, mid: McNemar's p values.
        changes: samples that changed, gained and lost first, the largest changes first.
        notes: what a reader must know.
    """

    names: tuple[str, str]
    task: str
    n: int
    left_out: int
    metrics: dict[str, dict[str, float]]
    both: int
    only_a: int
    only_b: int
    neither: int
    right: str
    exact: float
    mid: float
    changes: list[Change]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return asdict(self)


def compare_runs(a: str | Path, b: str | Path, *, right_from: float | None = None, seed: int = 0) -> Comparison:
    """Compares two folders of evaluations, or two files of labels.

    A file of labels is a list or lines of JSON with ``id`` and ``right`` (true, false, 1, 0), as people make who look
    at answers one by one.

    Args:
        a, b: the evaluations, or the files.
        right_from: how good an answer must be to count as right: IoU, F1 of an image, or similarity of a text; default
            `Task.right_from`.
        seed: of the bootstrap.

    Raises:
        UserError: two tasks, nothing in common, or a file without labels.
    """
    a, b = Path(a), Path(b)
    if a.is_file() and b.is_file():
        return _of_labels(a, b)
    for path in (a, b):
        if not (path / SAMPLES).is_file():
            raise UserError(f"{path}: holds no evaluation (expected a folder with {SAMPLES}, or a file of labels)")
    before, after = read_results(a), read_results(b)
    tasks = {result.sample.task for result in (*before, *after)}
    if len(tasks) != 1:
        raise UserError(f"{a}, {b}: hold evaluations of different tasks ({', '.join(sorted(tasks))})")
    (task,) = tasks
    old, new = _scored(before), _scored(after)
    ids = [key for key in old if key in new and old[key].sample.target == new[key].sample.target]
    if not ids:
        raise UserError(f"{a}, {b}: no sample was scored in both (are they of the same data?)")
    threshold = task_class(task).right_from if right_from is None else right_from
    grades = [(_grade(old[key]), _grade(new[key])) for key in ids]
    changes = [
        Change(
            key,
            _outcome(x, y, threshold),
            round(x, 6),
            round(y, 6),
            new[key].sample.question,
            old[key].completion.text,
            new[key].completion.text,
        )
        for key, (x, y) in zip(ids, grades, strict=True)
        if abs(x - y) > 1e-9
    ]
    changes.sort(key=lambda change: (change.outcome in ("better", "worse"), -abs(change.after - change.before)))
    pairs = [_pair(old[key]) for key in ids], [_pair(new[key]) for key in ids]
    values = [(read_json_file(path / METRICS) or {}) for path in (a, b)]
    metrics, notes = _metrics(task, pairs, values, seed)
    counts = _table([(x >= threshold, y >= threshold) for x, y in grades])
    left_out = len({*old, *new}) - len(ids)
    name = task_class(task).grade_name
    right = f"{name} ≥ {threshold:g}" if name else "the answer is right"
    titles = [str(value.get("model") or path.name) for path, value in zip((a, b), values, strict=True)]
    if titles[0] == titles[1]:
        titles = [a.name, b.name] if a.name != b.name else [str(a), str(b)]
    return Comparison(
        (titles[0], titles[1]),
        task,
        len(ids),
        left_out,
        metrics,
        *counts,
        right,
        mcnemar_exact(counts[1], counts[2]),
        mcnemar_midp(counts[1], counts[2]),
        changes,
        notes,
    )


def paired_folders(a: str | Path, b: str | Path) -> list[tuple[str, Path, Path]]:
    """What there is to compare: the two themselves, named "", or the evaluations of equal names in both.

    The second is what ``pr1 eval`` writes for a group of benchmarks.

    Raises:
        UserError: folders of evaluations that have no name in common.
    """
    a, b = Path(a), Path(b)
    inside = [sorted(path.parent.name for path in place.glob(f"*/{SAMPLES}")) for place in (a, b)]
    if not all(inside) or any((place / SAMPLES).is_file() for place in (a, b)):
        return [("", a, b)]
    common = [name for name in inside[0] if name in inside[1]]
    if not common:
        raise UserError(f"{a}, {b}: hold no evaluation of one name ({', '.join(inside[0])}; {', '.join(inside[1])})")
    return [(name, a / name, b / name) for name in common]


def _metrics(
    task: str, pairs: tuple[list[Scored], list[Scored]], values: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, dict[str, float]], list[str]]:
    found = compare(task, *pairs, seed=seed)
    notes = ["differences: B − A over the same samples, 95 % paired bootstrap intervals"]
    tables = [columns(task, side) for side in pairs]
    for name, entry in found.items():
        sides = paired_rows(tables[0][name], tables[1][name])
        for key, table, rows in zip(("a", "b"), tables, sides, strict=True):
            entry[key] = float(table[name].statistic(rows.mean(axis=0) if rows.ndim == 2 else rows.mean(keepdims=True)))
    if task_class(task).has_coco_figures:
        try:
            from perception_r1.evaluate.coco import coco_differences

            found |= coco_differences(*pairs, seed=seed)
            notes.append("COCO figures: ground truth of the samples' own boxes, score 1.0 for each box")
        except ModuleNotFoundError:
            notes.append("no COCO figures: hotcoco is not installed (pip install 'perception-r1[eval]')")
    return found, notes


def _scored(results: Sequence[Result]) -> dict[str, Result]:
    return {result.sample.id: result for result in results if result.record.reward is not None}


def _pair(result: Result) -> Scored:
    return result.sample, result.record


def _grade(result: Result) -> float:
    """How good an answer is, 0 to 1, before any threshold."""
    return 0.0 if result.record.reward is None else task_class(result.sample.task).grade(result.sample, result.record)


def _outcome(before: float, after: float, threshold: float) -> str:
    was, is_now = before >= threshold, after >= threshold
    if was != is_now:
        return "gained" if is_now else "lost"
    return "better" if after > before else "worse"


def _table(rights: Sequence[tuple[bool, bool]]) -> tuple[int, int, int, int]:
    """(both, only the first, only the second, neither)."""
    return tuple(rights.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))  # type: ignore[return-value]


def _of_labels(a: Path, b: Path) -> Comparison:
    old, new = _labels(a), _labels(b)
    ids = [key for key in old if key in new]
    if not ids:
        raise UserError(f"{a}, {b}: have no id in common")
    counts = _table([(old[key], new[key]) for key in ids])
    changes = [
        Change(key, "gained" if new[key] else "lost", float(old[key]), float(new[key]))
        for key in ids
        if old[key] != new[key]
    ]
    return Comparison(
        (a.stem, b.stem),
        "labels",
        len(ids),
        len({*old, *new}) - len(ids),
        {},
        *counts,
        "labelled so",
        mcnemar_exact(counts[1], counts[2]),
        mcnemar_midp(counts[1], counts[2]),
        changes,
        [],
    )


def _labels(path: Path) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for line, row in read_records(path):
        for field in ("id", "right"):
            if field not in row:
                raise DataError('is missing (expected {"id": …, "right": true})', path=path, line=line, field=field)
        if row["right"] not in (True, False):
            raise DataError(f"{row['right']!r} is neither true nor false", path=path, line=line, field="right")
        if str(row["id"]) in found:
            raise DataError(f"{row['id']!r} is there twice (remove one)", path=path, line=line, field="id")
        found[str(row["id"])] = bool(row["right"])
    return found
