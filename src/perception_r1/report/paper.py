"""Our figures beside every published row of the two Perception-R1 papers (``assets/published.json``).

An evaluation that was made with ``--benchmark`` knows its place in the tables; results of lmms-eval are taken by their
task's name. Figures are per cent, as in the papers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from perception_r1.errors import UserError
from perception_r1.evaluate.benchmarks import BENCHMARKS, SIZES
from perception_r1.evaluate.lmms_results import read_lmms_results
from perception_r1.evaluate.results import METRICS, SAMPLES, read_json_file
from perception_r1.models.identity import identity_tag

PAPERS = {
    "pr1": ("refcoco", "refcoco+", "refcocog", "pixmo-count", "pageocr", "coco2017", "general", "ablation"),
    "vpr": ("vpr", "vpr-ablation"),
}
TITLES = {
    "pr1": "Perception-R1: Pioneering Perception Policy with Reinforcement Learning (arXiv 2504.07954)",
    "vpr": "Perception-R1: Visual Perception Reward (arXiv 2506.07218)",
}
NAMES = {
    "refcoco": "RefCOCO",
    "refcoco+": "RefCOCO+",
    "refcocog": "RefCOCOg",
    "pixmo-count": "PixMo-Count",
    "pageocr": "PageOCR",
    "coco2017": "COCO 2017",
    "general": "General understanding",
    "ablation": "Ablation",
    "vpr": "Reasoning",
    "vpr-ablation": "Ablation",
}
# The row that an evaluation is held against, where it has one.
REFERENCE = ("Perception-R1", "Perception-R1-7B", "full")
LOWER_IS_BETTER = ("edit_distance",)
# A column of the ablation table is one of the main tables': Acc@0.5 on val, F1 on English, accuracy, AP.
_ABLATION = {
    "refcoco": ("refcoco", "val@50"),
    "refcoco+": ("refcoco+", "val@50"),
    "refcocog": ("refcocog", "val@50"),
    "pageocr": ("pageocr", "f1/en"),
    "pixmo/val": ("pixmo-count", "val"),
    "pixmo/test": ("pixmo-count", "test"),
    "coco2017": ("coco2017", "AP"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    ``values`` by column, each with ``value`` and, of ours, ``low``, ``high``, ``n`` (samples that were scored),
    ``whole`` (samples of the whole benchmark) and ``task`` (of lmms-eval, where that made it).
    """

    name: str
    ours: bool
    values: Mapping[str, Mapping[str, Any]]
    detail: str = ""


@dataclass(slots=True)
class Table:
    """A published table with our rows below its own."""

    key: str
    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What people call it."""
        return NAMES.get(self.key, self.key)

    @property
    def has_ours(self) -> bool:
        """Whether a row of ours is in the table."""
        return any(row.ours for row in self.rows)

    @property
    def reference(self) -> Row | None:
        """The published row that ours are held against."""
        return next((row for row in self.rows if not row.ours and row.name in REFERENCE), None)

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return {
            "benchmark": self.key,
            "title": self.title,
            "columns": self.columns,
            "notes": self.notes,
            "rows": [
                {
                    "method": row.name,
                    "source": "ours" if row.ours else "published",
                    "detail": row.detail,
                    "values": {name: dict(entry) for name, entry in row.values.items()},
                }
                for row in self.rows
            ],
        }


@cache
def published() -> dict[str, Any]:
    """The published tables."""
    text = (files("perception_r1") / "assets" / "published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def paper_tables(paper: str, folders: Iterable[str | Path]) -> list[Table]:
    """Every table of a paper, with our rows.

    Args:
        paper: "pr1" or "vpr".
        folders: evaluations made with ``--benchmark``, results of lmms-eval, or folders that hold some.

    Raises:
        UserError: an unknown paper, or nothing in the folders that belongs into its tables.
    """
    if paper not in PAPERS:
        raise UserError(f"--paper {paper}: expected {' or '.join(PAPERS)}")
    places = [Path(folder) for folder in folders]
    ours, seen = _ours(places)
    raw = {table["benchmark"]: table for table in published()["tables"]}
    tables = []
    for key in PAPERS[paper]:
        rows = [_published_row(row) for row in raw[key]["rows"]]
        for model, by_table in ours.items():
            values = by_table.get(key, {})
            if key == "ablation":
                pairs = {column: by_table.get(table, {}).get(name) for column, (table, name) in _ABLATION.items()}
                values = {column: entry for column, entry in pairs.items() if entry}
            if key == "vpr-ablation":
                values = {c: entry for c, entry in by_table.get("vpr", {}).items() if c in raw[key]["columns"]}
            if values:
                rows.append(Row(model, True, values))
        notes = [note for row in rows for note in (_partial(row), _by_lmms_eval(row)) if note]
        tables.append(Table(key, raw[key]["title"], list(raw[key]["columns"]), rows, notes))
    if not any(table.has_ours for table in tables):
        known = f"their benchmarks: {', '.join(sorted(seen))}" if seen else "none of them names its benchmark"
        raise UserError(
            f"{', '.join(map(str, places))}: no evaluation belongs into the tables of {paper} ({known}; evaluate with "
            "pr1 eval --benchmark, or make bench-general)"
        )
    return tables


def benchmark_folders(folders: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """(benchmark, folder) of every evaluation that names one, in the order of ``BENCHMARKS``."""
    found = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise UserError(f"{folder}: no such run folder")
        for path in sorted(folder.rglob(METRICS)):
            metrics = read_json_file(path)
            name = metrics.get("benchmark") if isinstance(metrics, dict) else None
            if name in BENCHMARKS and (path.parent / SAMPLES).is_file():
                found.append((name, path.parent))
    order = list(BENCHMARKS)
    return sorted(found, key=lambda item: order.index(item[0]))


def model_names(folders: Sequence[Path]) -> dict[Path, str]:
    """What each evaluation's model is called: where several weights have one name, with their tag.

    Evaluations without an identity (of earlier versions, or of saved answers) go by the name.
    """
    found: dict[Path, tuple[str, str]] = {}
    for folder in folders:
        metrics = read_json_file(folder / METRICS)
        identity = metrics.get("identity")
        known = identity and "responses" not in identity
        found[folder] = str(metrics["model"]), identity_tag(identity) if known else ""
    tags: dict[str, set[str]] = {}
    for name, tag in found.values():
        tags.setdefault(name, set()).add(tag)
    return {folder: f"{name} ({tag})" if tag and len(tags[name]) > 1 else name for folder, (name, tag) in found.items()}


def _ours(
    places: Sequence[Path],
) -> tuple[dict[str, dict[str, dict[str, dict[str, Any]]]], set[str]]:
    """model → table → column → entry; and the benchmarks that were seen."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    seen: set[str] = set()
    folders = benchmark_folders(places)
    names = model_names([folder for _, folder in folders])
    for name, folder in folders:
        metrics = read_json_file(folder / METRICS)
        ours = BENCHMARKS[name]
        seen.add(name)
        row = found.setdefault(names[folder], {}).setdefault(ours.table, {})
        for metric, column in ours.columns.items():
            entry = metrics["metrics"].get(metric)
            if entry:
                row[column] = {key: 100 * entry[key] for key in ("value", "low", "high") if key in entry}
                row[column] |= {"n": entry.get("n", metrics["n_scored"]), "whole": SIZES[name]}
    for place in places:
        for result in read_lmms_results(place):
            seen.add(result.task)
            made: dict[str, Any] = {"value": 100 * result.value if result.is_share else result.value}
            made |= {"n": result.n, "whole": result.whole, "task": result.task}
            if result.stderr is not None:
                half = 1.96 * result.stderr * (100 if result.is_share else 1)
                made |= {"low": made["value"] - half, "high": made["value"] + half}
            found.setdefault(result.model, {}).setdefault(result.table, {})[result.column] = made
    return found, seen


def _partial(row: Row) -> str:
    """Which figures of a row are over a part of their benchmark only."""
    parts: dict[tuple[int, int], list[str]] = {}
    for column, entry in row.values.items():
        n, whole = int(entry.get("n", 0)), int(entry.get("whole", 0))
        if 0 < n < whole:
            parts.setdefault((n, whole), []).append(column)
    said = "; ".join(f"{', '.join(columns)} on {n:,} of {whole:,} samples" for (n, whole), columns in parts.items())
    return said and f"{row.name}: {said}"


def _by_lmms_eval(row: Row) -> str:
    """Which task of lmms-eval each figure is of: there are several to a benchmark."""
    tasks: dict[str, list[str]] = {}
    for column, entry in row.values.items():
        if "task" in entry:
            tasks.setdefault(entry["task"], []).append(column)
    said = ", ".join(f"{task} ({', '.join(columns)})" for task, columns in tasks.items())
    return said and f"{row.name}: by lmms-eval, {said}"


def _published_row(row: Mapping[str, Any]) -> Row:
    name = str(row.get("method") or row.get("case"))
    detail = ", ".join(str(row[key]) for key in ("size", "llm") if row.get(key))
    if row.get("epochs"):
        detail += f"{', ' if detail else ''}{row['epochs']:g} epoch{'' if row['epochs'] == 1 else 's'}"
    values = {column: {"value": float(value)} for column, value in row["values"].items() if value is not None}
    return Row(name, False, values, detail)
