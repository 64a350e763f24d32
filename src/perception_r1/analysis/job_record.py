"""What a run of a grid was run with, so that a changed grid never shows the figures of the one before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.analysis.grid import Job
from perception_r1.data.files import atomic_write
from perception_r1.errors import UserError
from perception_r1.models.identity import model_identity, weights_of
from perception_r1.recipe.schema import Recipe

FILE = "job.json"
_FREE = ("grpo", "sft", "components", "options")  # tables without defaults of ours


def write_record(job: Job, recipe: Recipe, start: Path | str, out: str | Path) -> None:
    """Keep the recipe of a run and the weights that it starts from in its folder."""
    record = {"stage": job.grid.cases[job.case].stage, "recipe": _plain(recipe, out), "start": _weights(start)}
    with atomic_write(job.folder / FILE) as stream:
        stream.write(json.dumps(record, indent=2) + "\n")


def check_records(
    jobs: Sequence[Job],
    out: str | Path,
    recipe_of: Callable[[Job], Recipe],
    start_of: Callable[[Job, Recipe], Path | str],
) -> int:
    """Compare every run that is done with what the grid says now; returns how many have no record.

    Args:
        jobs: of the grid.
        out: the folder of all; a grid that was moved as a whole is the same.
        recipe_of, start_of: a run's recipe, and the model that it starts from.

    Raises:
        UserError: a run was done with another recipe, or from other weights.
    """
    unknown = 0
    for job in jobs:
        if not job.is_done:
            continue
        file = job.folder / FILE
        if not file.is_file():
            unknown += 1
            continue
        record, recipe = json.loads(file.read_text(encoding="utf-8")), recipe_of(job)
        changed = list(_changed(record["recipe"], _plain(recipe, out)))
        if record["stage"] != job.grid.cases[job.case].stage:
            changed.append("stage")
        start = start_of(job, recipe)
        if Path(start).is_dir() and record["start"] is not None and record["start"] != _weights(start):
            changed.append(f"the weights of {start}")
        if changed:
            raise UserError(
                f"{job.folder}: was run with another recipe (differs in: {', '.join(changed)}); choose another --out, "
                "or remove this folder to run it anew"
            )
    return unknown


def _weights(start: Path | str) -> dict[str, Any] | None:
    return weights_of(model_identity(start)) if Path(start).is_dir() else None


def _plain(recipe: Recipe, out: str | Path) -> dict[str, Any]:
    """The recipe without its name and its own place; paths in the grid's folder are relative to it."""
    values = {key: value for key, value in recipe.model_dump_plain().items() if key not in ("name", "path")}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str).replace(json.dumps(str(out))[1:-1], "OUT"))
    return plain


def _changed(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Dotted keys of values that differ; keys that only one version of this program has are not compared."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        free = name.rpartition(".")[2] in _FREE
        for key in sorted({*before, *now} if free else {*before} & {*now}):
            yield from _changed(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from _changed(*pair, f"{name}.{number}")
    elif before != now:
        yield name
