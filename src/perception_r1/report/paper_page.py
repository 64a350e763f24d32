"""The papers' tables with our rows as HTML (with a gallery of samples), Markdown and JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write
from perception_r1.errors import UserError
from perception_r1.evaluate.benchmarks import BENCHMARKS
from perception_r1.evaluate.results import METRICS, SETTINGS, read_json_file, read_results
from perception_r1.report.gallery import build_gallery
from perception_r1.report.paper import (
    LOWER_IS_BETTER,
    TITLES,
    Row,
    Table,
    benchmark_folders,
    model_names,
    paper_tables,
)
from perception_r1.report.runs import Evaluation

FORMATS = {"html": ".html", "markdown": ".md", "json": ".json"}


def write_paper_report(
    paper: str,
    folders: Iterable[str | Path],
    out: str | Path | None = None,
    *,
    gallery: int = 24,
    seed: int = 0,
) -> list[Path]:
    """Write the tables as HTML, Markdown and JSON.

    Args:
        paper: "pr1" or "vpr".
        folders: evaluations, or folders that hold some.
        out: the page; the others lie beside it. Default ``paper-NAME.html`` in the first folder.
        gallery: how many samples of each benchmark the page shows.
        seed: of the gallery's choice.

    Returns:
        The three files.

    Raises:
        UserError: nothing in the folders belongs into the paper's tables.
    """
    places = [Path(folder) for folder in folders]
    tables = paper_tables(paper, places)
    page = Path(out) if out is not None else _folder(places[0]) / f"paper-{paper}.html"
    if page.suffix != ".html":
        raise UserError(f"--out {page}: expected a name that ends in .html (.md and .json are written beside it)")
    document = {"paper": paper, "tables": [table.to_dict() for table in tables]}
    texts = {
        "html": _html(paper, tables, places, gallery, seed),
        "markdown": markdown(paper, tables),
        "json": json.dumps(document, indent=2, ensure_ascii=False) + "\n",
    }
    written = []
    for name, ending in FORMATS.items():
        path = page.with_suffix(ending)
        with atomic_write(path) as stream:
            stream.write(texts[name].encode("utf-8", "replace").decode("utf-8"))
        written.append(path)
    return written


def markdown(paper: str, tables: Sequence[Table]) -> str:
    """The tables that hold a row of ours, as GitHub's Markdown."""
    lines = [f"# {TITLES[paper]}", "", "Per cent; ours in bold, with 95 % intervals; Δ against the published row.", ""]
    for table in tables:
        if not table.has_ours:
            continue
        named = "" if table.title.startswith(table.name) else f"{table.name}: "
        lines += [f"## {named}{_plain(table.title)}", ""]
        lines.append("| method | " + " | ".join(table.columns) + " |")
        lines.append("|---|" + "---:|" * len(table.columns))
        for row in table.rows:
            name = f"**{_plain(row.name)}** (ours)" if row.ours else _plain(f"{row.name} {row.detail}".strip())
            cells = [_markdown_cell(table, row, column) for column in table.columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {_plain(note)}" for note in table.notes), *([""] if table.notes else [])]
    missing = [table.name for table in tables if not table.has_ours]
    if missing:
        lines += [f"Not evaluated: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def cell(table: Table, row: Row, column: str) -> dict[str, str]:
    """What a cell shows: the value, its interval, and the difference to the published row with a verdict."""
    entry = row.values.get(column)
    if entry is None:
        return {"value": "—", "interval": "", "delta": "", "verdict": ""}
    shown = {"value": f"{entry['value']:.1f}", "interval": "", "delta": "", "verdict": ""}
    if "low" in entry:
        shown["interval"] = f"{entry['low']:.1f} to {entry['high']:.1f}"
    reference = table.reference
    if row.ours and reference is not None and column in reference.values:
        said = reference.values[column]["value"]
        gain = entry["value"] - said
        shown["delta"] = f"{gain:+.1f}".replace("-", "−")
        # Within the interval our figure and the published one are the same as far as these samples can tell.
        outside = "low" in entry and not entry["low"] <= said <= entry["high"]
        good = (gain > 0) != column.startswith(LOWER_IS_BETTER)
        shown["verdict"] = ("better" if good else "worse") if outside else "even"
    return shown


def _markdown_cell(table: Table, row: Row, column: str) -> str:
    shown = cell(table, row, column)
    if not row.ours or shown["value"] == "—":
        return shown["value"]
    span = f" [{shown['interval'].replace(' to ', ', ')}]" if shown["interval"] else ""
    return f"**{shown['value']}**{span}" + (f" Δ {shown['delta']}" if shown["delta"] else "")


def _plain(text: str) -> str:
    """Text that Markdown leaves alone inside a table."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return escaped.replace("*", "\\*").replace("_", "\\_").replace("[", "\\[").replace("`", "\\`")


def _html(paper: str, tables: Sequence[Table], places: Sequence[Path], gallery: int, seed: int) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perception_r1.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = environment.get_template("page.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("paper.html.j2").render(
        title=TITLES[paper].partition(" (")[0],
        source=TITLES[paper],
        script=script,
        script_hash=f"sha256-{digest}",
        tables=[_shown(table) for table in tables if table.has_ours],
        missing=[table.name for table in tables if not table.has_ours],
        galleries=_galleries(places, gallery, seed) if gallery else [],
    )


def _shown(table: Table) -> dict[str, Any]:
    rows = [
        {
            "name": row.name,
            "detail": row.detail,
            "ours": row.ours,
            "reference": row is table.reference,
            "cells": [cell(table, row, column) for column in table.columns],
        }
        for row in table.rows
    ]
    reference = table.reference
    return {
        "name": table.name,
        "title": table.title,
        "columns": table.columns,
        "rows": rows,
        "notes": table.notes,
        "reference": reference.name if reference else "",
    }


def _galleries(places: Sequence[Path], n: int, seed: int) -> list[Mapping[str, Any]]:
    """One gallery a benchmark, with every model that answered it side by side."""
    by_name: dict[str, list[Path]] = {}
    for name, folder in benchmark_folders(places):
        by_name.setdefault(name, []).append(folder)
    called = model_names([folder for folders in by_name.values() for folder in folders])
    found: list[Mapping[str, Any]] = []
    for number, (name, folders) in enumerate(by_name.items()):
        evaluations = []
        for folder in folders:
            metrics, settings = read_json_file(folder / METRICS), read_json_file(folder / SETTINGS) or {}
            evaluations.append(Evaluation(called[folder], metrics, read_results(folder), settings))
        made = build_gallery(evaluations, n=n, seed=seed)
        for card in made["cards"]:
            card["ref"] = f"g{number}-{card['ref']}"
        titles = [evaluation.title for evaluation in evaluations]
        found.append({**made, "heading": BENCHMARKS[name].title, "titles": titles})
    return found


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent
