"""``pr1 export ENGINE RECIPE OUT``: a recipe as another engine's data, configuration and reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_r1.cli.train import Overrides, RecipeFile

export_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write a recipe out for another engine.",
)

Out = Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)]
Gpus = Annotated[int, typer.Option(min=1, help="Devices a machine; they decide the batch, as under TRL.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Unscored = Annotated[
    float, typer.Option(help="Reward of an answer that could not be scored (counted and logged): no None is possible.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@export_app.command()
def verl(
    recipe: RecipeFile,
    out: Out,
    gpus: Gpus = 8,
    nodes: Nodes = 1,
    strategy: Annotated[str, typer.Option(help="fsdp2, fsdp or megatron.")] = "fsdp2",
    unscored: Unscored = 0.0,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """verl on Ray: parquet, Hydra overrides, reward.py, launch.sh (bash OUT/launch.sh).

    Example: pr1 export verl recipes/detection/rl.yaml exports/detection --gpus 8 --nodes 4
    """
    from perception_r1.errors import UserError
    from perception_r1.export.verl import STRATEGIES

    if strategy not in STRATEGIES:
        raise UserError(f"--strategy {strategy!r}: expected {', '.join(STRATEGIES)}")
    _export("verl", recipe, out, override, as_json, gpus=gpus, nodes=nodes, strategy=strategy, unscored=unscored)


@export_app.command()
def swift(
    recipe: RecipeFile, out: Out, gpus: Gpus = 8, nodes: Nodes = 1, override: Overrides = None, as_json: AsJson = False
) -> None:
    """ms-swift: JSON lines, plugin.py with the reward, launch.sh."""
    _export("swift", recipe, out, override, as_json, gpus=gpus, nodes=nodes)


@export_app.command()
def easyr1(
    recipe: RecipeFile,
    out: Out,
    gpus: Gpus = 8,
    nodes: Nodes = 1,
    unscored: Unscored = 0.0,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """EasyR1: parquet, config.yaml, reward.py, launch.sh."""
    _export("easyr1", recipe, out, override, as_json, gpus=gpus, nodes=nodes, unscored=unscored)


@export_app.command("vlm-r1")
def vlm_r1(
    recipe: RecipeFile, out: Out, unscored: Unscored = 0.0, override: Overrides = None, as_json: AsJson = False
) -> None:
    """VLM-R1: JSON lines, reward.py, arguments.txt."""
    _export("vlm-r1", recipe, out, override, as_json, unscored=unscored)


@export_app.command("lmms-eval")
def lmms_eval(
    benchmark: Annotated[str, typer.Argument(help="A benchmark or group of pr1 eval: refcoco, pixmo-count, …")],
    out: Out,
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder of its official files, or the file.")],
    family: Annotated[str, typer.Option("--family", "-f", help="Of the model: whose frame its boxes are read in.")],
    images: Annotated[Path | None, typer.Option("--images", help="Root of the image paths.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="training, or evaluation (PR1's).")] = "evaluation",
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", min=1, show_default="the family's")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="The first so many samples.")] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out samples without their image.")
    ] = False,
) -> None:
    """lmms-eval: benchmarks as a folder of its tasks (lmms_eval --include_path OUT), scored by us.

    Example: pr1 export lmms-eval coco2017 tasks --data coco --images coco/val2017 --family qwen2_5_vl
    """
    from typing import cast

    from perception_r1.evaluate.benchmarks import expand, load_benchmark
    from perception_r1.integrations.lmms_eval.tasks import write_tasks

    names = []
    for item in expand(benchmark):
        found = load_benchmark(item, data, images, missing="skip" if skip_missing else "error")
        names.append(
            write_tasks(
                item,
                found.samples[:limit],
                out,
                family=family,
                prompt=cast("Any", prompt),
                max_pixels=max_pixels,
                annotations=found.annotations,
            )
        )
        for note in found.notes:
            typer.echo(f"note: {note}", err=True)
    typer.echo(f"{len(names)} task{'' if len(names) == 1 else 's'} → {out}")
    typer.echo(f"next: make bench-general MODEL=… TASKS={','.join(names)} LMMS_TASKS={out}")


def _export(engine: str, recipe_file: Path, out: Path, override: list[str] | None, as_json: bool, **options) -> None:  # type: ignore[no-untyped-def]
    from perception_r1.export import export
    from perception_r1.recipe.schema import load_recipe

    done = export(load_recipe(recipe_file, override or ()), engine, out, **options)
    if as_json:
        summary = {"out": str(out), "train": done.n_train, "eval": done.n_eval, "notes": list(done.notes)}
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    typer.echo(f"{done.n_train:,} training and {done.n_eval:,} evaluation rows → {out}")
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    if (out / "launch.sh").is_file():
        typer.echo(f"next: bash {out / 'launch.sh'}")
