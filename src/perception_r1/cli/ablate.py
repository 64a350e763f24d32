"""``pr1 ablate``: a grid of changes of one recipe, run in turn, and the table of what each made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer


def ablate(
    grids: Annotated[list[Path], typer.Argument(help="Grids (YAML), or folders of them.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of all runs.", show_default="runs/NAME of the first argument"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A grid, or GRID/CASE with * and ?; may be given again.", metavar="PATTERN"),
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Only these, e.g. 0,1.")] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Start no further run after that time.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change every run, e.g. --set grpo.max_steps=2.", metavar="KEY=VALUE"),
    ] = None,
    doc: Annotated[
        Path | None, typer.Option("--doc", help="Also write the results as a Markdown page with plots beside it.")
    ] = None,
    dry: Annotated[bool, typer.Option("--list", help="Say what would be run, and run nothing.")] = False,
    table_only: Annotated[bool, typer.Option("--table", help="Run nothing; show what has been run so far.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="The trainings' own progress.")] = False,
) -> int:
    """Run a grid of recipe changes and seeds, and show one table with intervals.

    What is done is never done again: the same command goes on after a kill, and may be started several times at once
    (a run that another process works on is passed over). The table is of all runs so far, table.md and table.json in
    --out hold it, and what is missing is said.
    """
    import json

    from perception_r1.analysis.ablate import check_done, run_grid
    from perception_r1.analysis.grid import jobs_of, load_grid
    from perception_r1.analysis.grid_table import grid_rows, markdown, read_published
    from perception_r1.analysis.runs import read_settings
    from perception_r1.errors import UserError

    loaded = [load_grid(path) for path in _files(grids)]
    names = [grid.name for grid in loaded]
    if len(set(names)) < len(names):
        raise UserError(f"two grids have one name ({', '.join(sorted(names))}): their runs would share a folder")
    changes = read_settings(override or [])
    if changes:
        loaded = [grid.model_copy(update={"last": changes}) for grid in loaded]
    try:
        wanted = [int(seed) for seed in seeds.split(",")] if seeds else []
    except ValueError:
        raise UserError(f"--seeds {seeds}: expected numbers with commas between them, e.g. 0,1") from None
    folder = out or Path("runs") / (grids[0].stem if grids[0].suffix else grids[0].name)
    jobs = jobs_of(loaded, folder, only or (), wanted)
    if not jobs:
        raise UserError(f"--only {' '.join(only or [])}: fits no case (grids: {', '.join(names)})")
    if dry:
        for job in jobs:
            typer.echo(f"{'done ' if job.is_done else 'to do'}  {job.title}")
        typer.echo(f"{sum(not job.is_done for job in jobs)} of {len(jobs)} runs to do")
        return 0
    failed = 0
    if unknown := check_done(jobs, folder, _demo_recipe):
        typer.echo(f"note: {unknown} runs were done by an earlier version, which did not record their recipe", err=True)
    if not table_only:
        say = (lambda line: typer.echo(line, err=True)) if as_json else typer.echo
        failed = run_grid(jobs, folder, resolve=_demo_recipe, hours=hours, show_progress=verbose, say=say)
    published = read_published()
    tables = [(grid, grid_rows(grid, folder, published)) for grid in loaded]
    found = {grid.name: [row.to_dict() for row in rows] for grid, rows in tables}
    shown = {grid.name: f"## {grid.title or grid.name}\n\n{markdown(grid, rows)}" for grid, rows in tables}
    chosen = {job.grid.name for job in jobs}
    if folder.is_dir():
        from perception_r1.train.run_folder import write_json, write_text

        write_text(folder / "table.md", "\n\n".join(shown.values()) + "\n")
        write_json(folder / "table.json", found)
    typer.echo(
        json.dumps(found, ensure_ascii=False)
        if as_json
        else "\n\n".join(shown[name] for name in shown if name in chosen)
    )
    if doc is not None:
        from perception_r1.analysis.paper import write_paper

        write_paper(tables, folder, doc, command=_command(grids, folder, doc))
        typer.echo(f"page:   {doc}", err=as_json)
    missing = sum(not job.is_done for job in jobs_of(loaded, folder))
    if missing and not as_json:
        typer.echo(f"{missing} runs of the grid are missing so far (--list names them)")
    return 1 if failed else 0


def _files(paths: list[Path]) -> Iterator[Path]:
    from perception_r1.errors import UserError

    for path in paths:
        if path.is_dir():
            found = sorted(path.glob("*.yaml"))
            if not found:
                raise UserError(f"{path}: holds no grid (*.yaml)")
            yield from found
        else:
            yield path


def _command(grids: list[Path], out: Path, doc: Path) -> str:
    return f"pr1 ablate {' '.join(map(str, grids))} --out {out} --doc {doc}"


def _demo_recipe(name: str, out: Path, seed: int, settings: tuple[str, ...]) -> Any:
    """``demo:TASK``: the packaged recipe of ``pr1 demo``, its model and scenes shared by all runs in ``out``."""
    from perception_r1.data.digits import TASKS as DEMO_TASKS
    from perception_r1.demo import demo_recipe, warm_start
    from perception_r1.errors import RecipeError

    kind, _, task = name.partition(":")
    if kind != "demo" or task not in DEMO_TASKS:
        raise RecipeError(
            f"recipe {name!r}: expected a file, or demo:counting, demo:grounding, demo:detection, demo:ocr"
        )
    (out / "scenes").mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(out / ".warm-start.lock"):
        warm_start(out / "warm-start", rebuild=False, show_progress=False, say=lambda line: None)
    return demo_recipe(task, out, seed, settings)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits for other processes in the same place."""
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
