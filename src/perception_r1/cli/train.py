"""``pr1 train`` and ``pr1 sft``: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file (see recipes/).", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/NAME of the recipe")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out from its last checkpoint.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a value of the recipe, e.g. grpo.max_steps=10, or many by a file: @configs/recipe/lora.yaml.",
        metavar="KEY=VALUE",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="One step on a few of the recipe's own rows with a tiny model like its own; downloads nothing.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        help="Processes to start, a GPU each (DDP). Under torchrun or accelerate launch nothing is started.",
        show_default="one for each visible GPU",
        min=1,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def train(
    ctx: typer.Context,
    recipe: RecipeFile,
    out: Out = None,
    resume: Resume = False,
    override: Overrides = None,
    dry_run: DryRun = False,
    processes: Processes = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe with GRPO on verifiable rewards (TRL).

    The run's folder gets config.json, environment.json, metrics.jsonl, rollouts/*.parquet, checkpoints/ and model/.
    """
    from perception_r1.train.run import run_grpo

    _run(ctx, run_grpo, recipe, out, resume, override, dry_run, processes, quiet)


def sft(
    ctx: typer.Context,
    recipe: RecipeFile,
    out: Out = None,
    resume: Resume = False,
    override: Overrides = None,
    dry_run: DryRun = False,
    processes: Processes = None,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a recipe's model on the gold answers (TRL)."""
    from perception_r1.train.run import run_sft

    _run(ctx, run_sft, recipe, out, resume, override, dry_run, processes, quiet)


def _run(
    ctx: typer.Context,
    stage: object,
    recipe_file: Path,
    out: Path | None,
    resume: bool,
    override: list[str] | None,
    dry: bool,
    processes: int | None,
    quiet: bool,
) -> None:
    from perception_r1.errors import UserError
    from perception_r1.recipe.schema import load_recipe
    from perception_r1.train.preflight import preflight

    recipe = load_recipe(recipe_file, override or ())
    folder = out or Path("runs") / recipe.name
    name = "sft" if ctx.info_name == "sft" else "grpo"
    if dry:
        from perception_r1.train.dry_run import dry_run

        problem: UserError | None = None
        try:
            preflight(recipe, name, folder)
        except UserError as error:  # much of it is replaced in a dry run
            problem = error
        try:
            typer.echo(dry_run(stage, recipe))  # type: ignore[arg-type]
        except ImportError as error:
            raise problem or error from None
        if problem is not None:
            typer.echo(f"  here the run itself would stop: {problem}")
        return
    from perception_r1.train import launch

    preflight(recipe, name, folder)
    table = (recipe.sft if name == "sft" else recipe.grpo) or {}
    n = launch.n_to_start(processes, table)
    if n > 1:
        typer.echo(launch.announcement(n, table, processes, written_for=recipe.machine.sharding), err=True)
        root = ["--traceback"] if ctx.find_root().params.get("traceback") else []
        settings = [part for item in override or () for part in ("--set", item)]
        options = ["--out", str(folder), *settings, *(["--resume"] * resume), *(["--quiet"] * quiet)]
        raise typer.Exit(launch.start(n, [*root, str(ctx.info_name), str(recipe_file), *options]))
    from perception_r1.train.distributed import is_main, run_guarded

    model = run_guarded(lambda: stage(recipe, folder, resume=resume, show_progress=not quiet))  # type: ignore[operator]
    if is_main():
        typer.echo(f"model:  {model}")
        typer.echo(f"next:   pr1 eval {recipe_file} --model {model}   pr1 report {folder}")
