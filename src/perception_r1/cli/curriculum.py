"""``pr1 curriculum``: a staged recipe, from easy to hard, out of answers that were scored offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def curriculum(
    recipe: Annotated[Path, typer.Argument(help="The recipe to stage.", show_default=False)],
    run: Annotated[
        Path,
        typer.Option("--run", "-r", help="Scored answers to its training questions: of pr1 diagnose or pr1 train."),
    ],
    rollouts: Annotated[
        str, typer.Option("--rollouts", help="Rollouts a prompt of each stage, easiest first; as many stages.")
    ] = "8,16,32",
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges", help="Scores between the stages, from high to low.", show_default="stages of equal size"
        ),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="metric (for detection F1), or reward.")] = "metric",
    keep_solved: Annotated[bool, typer.Option("--keep-solved", help="Keep questions that are answered right.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the stages.", show_default="runs/curriculum-NAME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sort a recipe's questions from easy to hard and write one recipe a stage, rollouts growing.

    Score the questions first: pr1 diagnose RECIPE -n 100000. Questions that are answered right already are left out.
    The stages start from one another; train.sh runs them in turn.
    """
    import json

    from perception_r1.analysis.curriculum import plan_stages, write_stages
    from perception_r1.analysis.rollouts import read_groups
    from perception_r1.analysis.runs import best_reward, check_answers_of, run_recipe
    from perception_r1.errors import UserError
    from perception_r1.recipe.build import recipe_task
    from perception_r1.recipe.schema import load_recipe

    numbers = _numbers("--rollouts", rollouts, int)
    limits = None if edges is None else _numbers("--edges", edges, float)
    if by not in ("metric", "reward"):
        raise UserError(f"--by {by}: expected metric or reward")
    wanted, scored = load_recipe(recipe), run_recipe(run)
    check_answers_of(run, wanted, recipe)
    groups = read_groups(run)
    most = best_reward(recipe_task(scored), [group.sample for group in groups])
    stages, solved = plan_stages(groups, numbers, edges=limits, by=by, keep_solved=keep_solved, most=most)
    folder = out or Path("runs") / f"curriculum-{wanted.name}"
    files = write_stages(recipe, stages, folder)
    if as_json:
        found = [
            {
                "recipe": str(file),
                "questions": len(stage.samples),
                "low": stage.low,
                "high": stage.high,
                "mean": stage.mean,
                "rollouts": stage.rollouts,
            }
            for file, stage in zip(files, stages, strict=True)
        ]
        typer.echo(json.dumps({"stages": found, "solved": len(solved)}))
        return
    for number, (file, stage) in enumerate(zip(files, stages, strict=True), start=1):
        typer.echo(
            f"stage {number}: {len(stage.samples):>6} questions, {by} {stage.high:.3f} to {stage.low:.3f} "
            f"(mean {stage.mean:.3f}), {stage.rollouts:>3} rollouts a prompt   {file}"
        )
    typer.echo(f"left out: {len(solved)} questions that have nothing left to teach")
    typer.echo(f"next:   sh {folder / 'train.sh'}")


def _numbers(option: str, text: str, kind: type) -> list:  # type: ignore[type-arg]
    from perception_r1.errors import UserError

    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: expected numbers with commas between them") from None
    if kind is int and min(found) < 2:
        raise UserError(f"{option} {text}: a group needs two rollouts at least")
    return found
