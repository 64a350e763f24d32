"""``pr1 eval``: a model, or answers saved earlier, against data, with the field's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_r1.config import Recipe
    from perception_r1.families import Family
    from perception_r1.tasks import Task
    from perception_r1.types import Sample


def eval_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe: its task, family, image limits and data.eval are used.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or hub id of the model.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="grounding, counting, detection, ocr.")] = None,
    family: Annotated[
        str | None, typer.Option("--family", "-f", help="The model's family.", show_default="from its configuration")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Rows to evaluate on (JSON lines).")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Root of the image paths.", show_default="the folder of --data")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results.", show_default="runs/eval-TASK-MODEL")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="transformers, or replay (saved answers).")] = (
        "transformers"
    ),
    responses: Annotated[
        Path | None, typer.Option("--responses", help="Saved answers (id, response): JSON lines, for replay.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Reward preset of the records.", show_default="robust")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="paper, or released (PR1's evaluation code).", show_default="paper"),
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Ask for <think> and <answer> blocks.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, show_default="1024")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, show_default="16")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="That many samples, drawn at random.")] = (
        None
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of --limit and of the bootstrap.")] = 0,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="Detection: COCO's official annotation file.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", show_default="cuda where there is one")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with answers already in --out.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Evaluate a model, or saved responses, with the field's metrics.

    Greedy answers are written to samples.jsonl as they come; started again, a killed evaluation goes on. metrics.json
    has each figure with its 95 % bootstrap interval.
    """
    import json

    from perception_r1.errors import UserError
    from perception_r1.evaluate.run import evaluate

    if backend not in ("transformers", "replay"):
        raise UserError(f"--backend {backend}: expected transformers or replay")
    if backend == "replay" and responses is None:
        raise UserError("--backend replay needs the saved answers: --responses FILE.jsonl")
    settings = None
    if recipe is not None:
        from perception_r1.config import load_recipe

        settings = load_recipe(recipe)
    task_name = task or (settings.task if settings else None)
    if task_name is None:
        raise UserError("say which task: --task grounding|counting|detection|ocr (or give a recipe)")
    if settings and settings.task != task_name:
        raise UserError(f"--task {task_name}: the recipe's task is {settings.task}")
    name = model or (settings.model if settings else None)
    if backend == "transformers" and name is None:
        raise UserError("say which model: --model FOLDER_OR_ID (or --backend replay --responses FILE)")

    scorer = _task(task_name, _family(family, settings, name), settings, preset, prompt, thinking)
    samples = _limited(_samples(data, images, scorer, settings), limit, seed)
    shown_name = Path(name).name if name and Path(name).exists() else name or Path(str(responses)).stem
    folder = out or Path("runs") / f"eval-{task_name}-{shown_name.replace('/', '--')}"
    answers: Any
    if backend == "replay":
        from perception_r1.evaluate.generate import read_responses

        answers = read_responses(Path(str(responses)))
    else:
        answers = _generator(name, scorer.family, settings, max_new_tokens, batch_size, device)
    metrics = evaluate(
        scorer,
        samples,
        answers,
        folder,
        model_name=str(shown_name),
        resume=resume,
        progress=not quiet,
        min_pixels=settings.image.min_pixels if settings else None,
        max_pixels=settings.image.max_pixels if settings else None,
        annotations=annotations,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps({**metrics, "out": str(folder)}, ensure_ascii=False))
    else:
        typer.echo(metrics_table(metrics))
        typer.echo(f"results: {folder}   next: pr1 report {folder}")


def metrics_table(metrics: dict[str, Any]) -> str:
    """Metrics as aligned text: the primary one first, values with their intervals."""
    lines = [f"{metrics['model']} · {metrics['task']} · {metrics['n_scored']} of {metrics['n']} samples scored"]
    primary = metrics["primary"]
    names = sorted(metrics["metrics"], key=lambda name: name != primary)
    width = max((len(name) for name in names), default=0)
    for name in names:
        entry = metrics["metrics"][name]
        span = f"   [{entry['low']:.4f}, {entry['high']:.4f}]" if "low" in entry else ""
        lines.append(f"  {name:<{width}}  {entry['value']:8.4f}{span}{'   ← primary' if name == primary else ''}")
    if metrics["unparsable"]:
        lines.append("  not usable: " + ", ".join(f"{reason} {n}" for reason, n in metrics["unparsable"].items()))
    return "\n".join(lines)


def _family(family: str | None, recipe: Recipe | None, model: str | None) -> Any:
    """As told, or the recipe's, or that of the model's own configuration."""
    from perception_r1.errors import UserError
    from perception_r1.families import get_family

    like = family or (recipe.family if recipe else None)
    if like is not None:
        return get_family(like)
    if model is None:
        raise UserError("saved answers do not say which model wrote them: give --family")
    from perception_r1.models.load import detect_family

    return detect_family(model)


def _task(
    name: str, family: Family, recipe: Recipe | None, preset: str | None, prompt: str | None, thinking: bool
) -> Task:
    """The task; options win over the recipe, whose reward is taken whole (weights, matching, own function)."""
    from typing import cast

    from perception_r1.tasks import make_task

    if recipe is not None:
        from perception_r1.train.setup import recipe_task

        changes: dict[str, Any] = {"thinking": thinking or recipe.thinking}
        if prompt is not None:
            changes["prompt"] = prompt
        if preset is not None:
            changes["reward"] = type(recipe.reward)(preset=cast("Any", preset))
        return recipe_task(recipe.model_copy(update=changes), family)
    return make_task(
        name, family=family, reward=preset or "robust", thinking=thinking, prompt=cast("Any", prompt or "paper")
    )


def _samples(data: Path | None, images: Path | None, task: Task, recipe: Recipe | None) -> list[Sample]:
    """Rows of ``--data``, or of the recipe's ``data.eval`` (mixed by count or share, as in training)."""
    from perception_r1.data.rows import read_jsonl
    from perception_r1.errors import UserError

    if data is not None:
        return read_jsonl(data, task.name, images=images)
    if recipe is None or not recipe.data.eval:
        raise UserError("say what to evaluate on: --data FILE.jsonl (or a recipe with data.eval)")
    from perception_r1.train.setup import recipe_samples

    return recipe_samples(recipe, recipe.data.eval, task.family)


def _limited(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    """``limit`` samples drawn at random, in the data's order: the first ones are often of one kind."""
    if limit is None or limit >= len(samples):
        return samples
    import random

    picked = set(random.Random(seed).sample(range(len(samples)), limit))
    return [sample for index, sample in enumerate(samples) if index in picked]


def _generator(
    name: str | None,
    family: Any,
    recipe: Recipe | None,
    max_new_tokens: int | None,
    batch_size: int | None,
    device: str | None,
) -> Any:
    from perception_r1.models.load import check_model_path

    check_model_path(str(name))
    import torch

    from perception_r1.config import Eval
    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.models.load import load_model

    defaults = recipe.eval if recipe else Eval()
    model, processor = load_model(str(name), device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return TransformersGenerator(
        model,
        processor,
        family,
        max_new_tokens=max_new_tokens or defaults.max_new_tokens,
        batch_size=batch_size or defaults.batch_size,
        repetition_penalty=defaults.repetition_penalty,
    )
