"""The runs of a grid, done in turn and resumed at will.

Every (case, seed) is trained in a folder of its own and evaluated on the same samples; what is
done is never done again. The same command may be started several times at once (two cores, four GPUs): a run that
another process works on is passed over.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_r1.analysis.grid import Job
from perception_r1.analysis.job_record import check_records, write_record
from perception_r1.analysis.runs import as_settings
from perception_r1.errors import UserError
from perception_r1.progress import format_duration
from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe, load_recipe
from perception_r1.train.preflight import preflight

ResolveRecipe = Callable[[str, Path, int, tuple[str, ...]], Recipe]
"""(name, output folder, seed, settings) → recipe, for recipes that are no files (``demo:counting``)."""


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


def check_done(jobs: Sequence[Job], out: str | Path, resolve: ResolveRecipe | None = None) -> int:
    """Compare the runs that are done with the grid as it is now; returns how many an earlier version did.

    Raises:
        UserError: one was run with another recipe.
    """
    return check_records(
        jobs, out, lambda job: job_recipe(job, out, resolve), lambda job, recipe: _start_of(job, recipe, out)
    )


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
    for job in {(job.grid.name, job.case): job for job in jobs if not job.is_done}.values():
        if (stage := job.grid.cases[job.case].stage) != "base":
            preflight(job_recipe(job, out, resolve), "sft" if stage == "sft" else "grpo", job.folder)
        if warning := too_little_room(job, job_recipe(job, out, resolve)):
            say(f"warning: {warning}")
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


def too_little_room(job: Job, recipe: Recipe) -> str:
    """A sentence where right answers are longer than a run may write (a case that adds thinking, say); else nothing."""
    from perception_r1.models.processors import load_processor

    limits = {"eval.max_new_tokens": recipe.eval.max_new_tokens}
    if job.grid.cases[job.case].stage == "rl" and "max_completion_length" in (recipe.grpo or {}):
        limits["grpo.max_completion_length"] = (recipe.grpo or {})["max_completion_length"]
    family = build.recipe_family(recipe)
    task, tokenizer = build.recipe_task(recipe, family), load_processor(recipe.model).tokenizer
    answers = [task.gold(sample) for sample in build.recipe_samples(recipe, recipe.data.eval, family)]
    lengths = [len(ids) + 1 for ids in tokenizer(answers, add_special_tokens=False)["input_ids"]]  # and the end token
    for key, limit in limits.items():
        cut = sum(length > limit for length in lengths)
        if cut:
            return (
                f"{job.grid.name} {job.case}: {cut} of {len(lengths)} right answers are longer than {key} ({limit} "
                f"tokens; the longest has {max(lengths)}): they will be cut off"
            )
    return ""


def _can_start(job: Job, out: str | Path) -> bool:
    """Whether the case that a run starts from has its model."""
    before = job.grid.cases[job.case].after
    return before is None or (_model_of(job, before, out) / "config.json").is_file()


def _model_of(job: Job, case: str, out: str | Path) -> Path:
    return Path(out) / job.grid.name / case / f"seed-{job.seed}" / "model"


def _start_of(job: Job, recipe: Recipe, out: str | Path) -> Path | str:
    """The model that a run starts from: another case's, or the recipe's."""
    before = job.grid.cases[job.case].after
    return recipe.model if before is None else _model_of(job, before, out)


def run_job(
    job: Job, out: str | Path, *, resolve: ResolveRecipe | None = None, show_progress: bool = False
) -> dict[str, Any]:
    """Train and evaluate one run; goes on where it was stopped. Returns what ``metrics.json`` holds."""
    import torch

    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.evaluate.run import evaluate
    from perception_r1.models.identity import model_identity
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
    model_path = _start_of(job, recipe, out)
    write_record(job, recipe, model_path, out)
    stages: list[tuple[str, Any]] = []
    if case.stage == "sft" or (case.stage == "rl" and recipe.warm_start == "sft"):
        stages.append(("sft", train_sft))
    if case.stage == "rl":
        stages.append(("grpo", train_grpo))
    for name, train in stages:
        place = folder / name
        last = name == stages[-1][0]  # a stage before it hands over its float32 weights
        model_path = train(
            recipe if last else recipe.model_copy(update={"save_dtype": "float32"}),
            place,
            model_path=model_path,
            resume=(place / "config.json").is_file(),
            show_progress=show_progress,
        )
        run_folder.remove_checkpoints(place / "checkpoints")
        gc.collect()
    family = build.recipe_family(recipe.model_copy(update={"model": str(model_path)}))
    model, processor = load_model(model_path, device="cuda" if torch.cuda.is_available() else "cpu")
    metrics = evaluate(
        build.recipe_task(recipe, family),
        build.recipe_samples(recipe, recipe.data.eval, family),
        TransformersGenerator(model, processor, family, **recipe.eval.model_dump()),
        job.results,
        model_name=job.case,
        identity=model_identity(model_path),
        others="replace",
        progress=show_progress,
    )
    if stages:
        # Others may start from this model; the stage's own copy is the same files.
        link = folder / "model"
        if not link.exists():
            link.symlink_to(Path(model_path).relative_to(folder), target_is_directory=True)
    return metrics


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
