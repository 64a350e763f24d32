"""A grid of runs: one recipe, a few changes of it, some seeds; run in turn, resumed at will, shown as one table.

A grid is a YAML file. Every (case, seed) is trained in a folder of its own and evaluated on the same samples; what is
done is never done again. The same command may be started several times at once (two cores, four GPUs): a run that
another process works on is passed over.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perception_r1.analysis.runs import as_settings
from perception_r1.config import Recipe, load_recipe, read_yaml
from perception_r1.errors import RecipeError, UserError
from perception_r1.progress import format_duration

_STRICT = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

ResolveRecipe = Callable[[str, Path, int, tuple[str, ...]], Recipe]
"""(name, output folder, seed, settings) → recipe, for recipes that are no files (``demo:counting``)."""


class Published(BaseModel):
    """A figure of ``assets/published.json``: a benchmark's table, a row and a column of it."""

    model_config = _STRICT

    table: str
    column: str
    row: str | None = None
    against: str | None = None


class Case(BaseModel):
    """One row of the table.

    ``set`` changes the recipe (dotted keys or nested tables). ``stage``: ``rl`` (GRPO; after SFT where the recipe says
    ``warm_start: sft``), ``sft``, or ``base`` (evaluation only, one for all seeds). ``after``: start from the model of
    this other case, of the same seed. ``same_as``: not run at all, the results are those of this other case (a row of
    two tables). ``against``: the case that this one is compared with, instead of the grid's ``reference``.
    ``published``: the row of the grid's published table, or table, column, row and the row ``against`` which it stands.
    """

    model_config = _STRICT

    title: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    stage: Literal["rl", "sft", "base"] = "rl"
    after: str | None = None
    same_as: str | None = None
    against: str | None = None
    published: str | Published | None = None
    note: str = ""


class Grid(BaseModel):
    """A whole grid; ``load_grid`` reads one.

    ``also``: further metrics to show, without intervals. ``threads``: of torch, for tiny models on a shared machine.
    ``last``: changes that win over those of the cases (``--set``).
    """

    model_config = _STRICT

    name: str
    title: str = ""
    note: str = ""
    recipe: str
    metric: str
    also: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    threads: int | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    reference: str
    published: Published | None = None
    cases: dict[str, Case]
    last: dict[str, Any] = Field(default_factory=dict, exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _names_exist(self) -> Grid:
        for name, case in self.cases.items():
            for key, other in (("after", case.after), ("against", case.against), ("same_as", case.same_as)):
                if other is not None and other not in self.cases:
                    raise ValueError(f"case {name!r}: {key} names no case ({other!r})")
            if case.after is not None and self.cases[case.after].stage == "base":
                raise ValueError(f"case {name!r}: after {case.after!r}: a case without training has no model")
        if self.reference not in self.cases:
            raise ValueError(f"reference names no case ({self.reference!r})")
        return self

    def against(self, name: str) -> str | None:
        """The case that a case is compared with; None for one that stands alone."""
        other = self.cases[name].against or self.reference
        return None if other == name else other

    def source(self, name: str) -> str:
        """The case whose runs a row shows: itself, or the one that it is the same as."""
        return self.cases[name].same_as or name


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a grid: a case and a seed (None for one that is not trained), and its folder."""

    grid: Grid
    case: str
    seed: int | None
    folder: Path

    @property
    def title(self) -> str:
        """For a line of output."""
        return f"{self.grid.name} {self.case}" + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def results(self) -> Path:
        """Where its evaluation lies."""
        return self.folder / "eval"

    @property
    def is_done(self) -> bool:
        """Whether it was trained and evaluated."""
        return (self.results / "metrics.json").is_file()


def load_grid(path: str | Path) -> Grid:
    """Read a grid.

    Raises:
        RecipeError: no such file, no YAML, or a key or value that is not understood.
    """
    path = Path(path)
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such grid") from None
    except Exception as error:
        raise RecipeError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of keys such as 'recipe' and 'cases'")
    try:
        return Grid(**{**values, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{path}: {f'field {where!r}: ' if where else ''}{message}") from None


def jobs_of(grids: Sequence[Grid], out: str | Path, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """The runs in the order to do them, so that a cut leaves whole tables.

    Rows with a published figure (and what they start from or stand against) before the others; among these seed by
    seed; of one seed grid by grid.

    Args:
        grids: what to run.
        out: a run's folder is ``OUT/GRID/CASE/seed-N`` (``OUT/GRID/CASE`` without a seed).
        only: patterns of ``GRID/CASE``; a bare name means the whole grid. What a chosen case starts from comes along.
        seeds: only these.
    """
    jobs: list[tuple[tuple[int, ...], Job]] = []
    order = list(dict.fromkeys(seed for grid in grids for seed in grid.seeds))
    for place, grid in enumerate(grids):
        cases = list(grid.cases)
        wanted = [name for name in cases if not only or any(_fits(grid.name, name, pattern) for pattern in only)]
        chosen = _with_sources(grid, wanted)
        published = [name for name in cases if grid.cases[name].published is not None]
        first = _with_sources(grid, published, against=True)
        for name in chosen:
            if grid.cases[name].same_as is not None:
                continue
            for seed in (None,) if grid.cases[name].stage == "base" else grid.seeds:
                if seed is not None and seeds and seed not in seeds:
                    continue
                turn = -1 if seed is None else order.index(seed)
                folder = Path(out) / grid.name / name
                job = Job(grid, name, seed, folder if seed is None else folder / f"seed-{seed}")
                jobs.append(((name not in first, turn, place, _depth(grid, name), cases.index(name)), job))
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def job_recipe(job: Job, out: str | Path, resolve: ResolveRecipe | None = None) -> Recipe:
    """The recipe of a run: the grid's, its changes, the case's changes, the seed.

    Raises:
        RecipeError: a change that the recipe does not understand.
    """
    grid, seed = job.grid, job.seed or 0
    settings = [s for changes in (grid.set, grid.cases[job.case].set, grid.last) for s in as_settings(changes)]
    settings.append(f"name={grid.name}-{job.case}")
    if ":" in grid.recipe and resolve is not None:
        return resolve(grid.recipe, Path(out), seed, tuple(settings))
    path = (grid.path.parent if grid.path is not None else Path()) / grid.recipe
    plain = load_recipe(path)
    seeds = [f"{table}.seed={seed}" for table in ("grpo", "sft") if getattr(plain, table) is not None]
    return load_recipe(path, (f"data.seed={seed}", *seeds, *settings))


def run_grid(
    jobs: Sequence[Job],
    out: str | Path,
    *,
    resolve: ResolveRecipe | None = None,
    hours: float | None = None,
    show_progress: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Do every run that is not done; returns how many failed.

    Args:
        jobs: of ``jobs_of``.
        out: the folder of all.
        resolve: makes recipes that are no files.
        hours: start no further run after that time.
        show_progress: the trainings' own progress.
        say: takes a line for the user.
    """
    began = time.monotonic()
    spent: list[float] = []
    failed: set[Path] = set()
    working = True
    while working:  # again, since what a run starts from may be another process's to make
        working = False
        for number, job in enumerate(jobs, start=1):
            if job.is_done or job.folder in failed or not _can_start(job, out):
                continue
            if hours is not None and time.monotonic() - began > 3600 * hours:
                left = sum(not other.is_done for other in jobs)
                say(f"{hours:g} hours are over: {left} runs are left (the same command goes on)")
                return len(failed)
            with _alone(job.folder) as mine:
                if not mine or job.is_done:
                    continue
                working, start = True, time.monotonic()
                try:
                    metrics = run_job(job, out, resolve=resolve, show_progress=show_progress)
                except UserError:
                    raise
                except Exception:
                    # A night's grid goes on without the run that broke; its traceback is kept beside it.
                    (job.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
                    say(f"[{number}/{len(jobs)}] {job.title}: failed, see {job.folder / 'error.txt'}")
                    failed.add(job.folder)
                    continue
            spent.append(time.monotonic() - start)
            value = metrics["metrics"].get(job.grid.metric, {}).get("value", float("nan"))
            time_left = sum(not other.is_done for other in jobs) * sum(spent) / len(spent)
            line = f"[{number}/{len(jobs)}] {job.title}: {job.grid.metric} {value:.3f} in {format_duration(spent[-1])}"
            say(line + (f", about {format_duration(time_left)} left" if time_left else ""))
    return len(failed)


def _can_start(job: Job, out: str | Path) -> bool:
    """Whether the case that a run starts from has its model."""
    before = job.grid.cases[job.case].after
    return before is None or (_model_of(job, before, out) / "config.json").is_file()


def _model_of(job: Job, case: str, out: str | Path) -> Path:
    return Path(out) / job.grid.name / case / f"seed-{job.seed}" / "model"


def run_job(
    job: Job, out: str | Path, *, resolve: ResolveRecipe | None = None, show_progress: bool = False
) -> dict[str, Any]:
    """Train and evaluate one run; goes on where it was stopped. Returns what ``metrics.json`` holds."""
    import torch

    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.evaluate.run import evaluate
    from perception_r1.models.load import load_model
    from perception_r1.train import run_folder, setup
    from perception_r1.train.grpo import train_grpo
    from perception_r1.train.sft import train_sft

    setup.quiet_libraries()
    if job.grid.threads:
        torch.set_num_threads(job.grid.threads)
    recipe, case, folder = job_recipe(job, out, resolve), job.grid.cases[job.case], job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").unlink(missing_ok=True)
    model_path: Path | str = recipe.model
    if case.after is not None:
        model_path = _model_of(job, case.after, out)
    stages: list[tuple[str, Any]] = []
    if case.stage == "sft" or (case.stage == "rl" and recipe.warm_start == "sft"):
        stages.append(("sft", train_sft))
    if case.stage == "rl":
        stages.append(("grpo", train_grpo))
    for name, train in stages:
        place = folder / name
        model_path = train(
            recipe, place, model_path=model_path, resume=(place / "config.json").is_file(), show_progress=show_progress
        )
        run_folder.remove_checkpoints(place / "checkpoints")
        gc.collect()
    family = setup.recipe_family(recipe.model_copy(update={"model": str(model_path)}))
    model, processor = load_model(model_path, device="cuda" if torch.cuda.is_available() else "cpu")
    metrics = evaluate(
        setup.recipe_task(recipe, family),
        setup.recipe_samples(recipe, recipe.data.eval, family),
        TransformersGenerator(model, processor, family, **recipe.eval.model_dump()),
        job.results,
        model_name=job.case,
        progress=show_progress,
    )
    if stages:
        # Others may start from this model; the stage's own copy is the same files.
        link = folder / "model"
        if not link.exists():
            link.symlink_to(Path(model_path).relative_to(folder), target_is_directory=True)
    return metrics


def _with_sources(grid: Grid, names: Sequence[str], *, against: bool = False) -> set[str]:
    """Cases and all that they start from, or show the results of (and, if asked, are compared with)."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            case = grid.cases[name]
            others = [case.after, case.same_as, grid.against(name) if against else None]
            left += [other for other in others if other is not None]
    return found


def _depth(grid: Grid, name: str) -> int:
    depth, before = 0, grid.cases[name].after
    while before is not None and depth < len(grid.cases):
        depth, before = depth + 1, grid.cases[before].after
    return depth


def _fits(grid: str, case: str, pattern: str) -> bool:
    return fnmatchcase(f"{grid}/{case}", pattern if "/" in pattern else f"{pattern}/*")


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether this process is the only one at work in ``folder``; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on this system: one process at a time, then
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
