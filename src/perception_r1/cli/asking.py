"""Options of ``pr1 eval`` and ``pr1 predict``: benchmarks, family, task, samples, decoding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_r1.evaluate.backends import Decoding
    from perception_r1.evaluate.benchmarks import Benchmark
    from perception_r1.evaluate.checkpoints import Checkpoint
    from perception_r1.families import Family
    from perception_r1.recipe.schema import Recipe
    from perception_r1.tasks import Task
    from perception_r1.types import Sample


def benchmarks_of(
    names: str | None, checkpoint: Checkpoint | None, data: Path | None, task: str | None
) -> list[Benchmark]:
    """The benchmarks that were named; a published checkpoint's own where only the folder of its data was."""
    from perception_r1.errors import UserError
    from perception_r1.evaluate.benchmarks import expand

    if names is None:
        if checkpoint is None or data is None or data.is_file() or task is not None:
            return []
        if not checkpoint.benchmarks:
            raise UserError(
                f"{checkpoint.model} is made for reasoning, which lmms-eval evaluates: make bench-general "
                f"MODEL={checkpoint.model} (or name a --benchmark)"
            )
        names = checkpoint.benchmarks
    chosen = expand(names)
    tasks = sorted({item.task for item in chosen} | ({task} if task else set()))
    if len(tasks) > 1:
        raise UserError(f"--benchmark {names}: one task at a time ({', '.join(tasks)})")
    return chosen


def decoding_of(
    recipe: Recipe | None,
    checkpoint: Checkpoint | None,
    chosen: list[Benchmark],
    max_new_tokens: int | None,
    batch_size: int | None,
    repetition_penalty: float | None,
    box_scores: str,
) -> Decoding:
    """What was asked for, else the checkpoint's, the recipe's or the benchmark's."""
    from perception_r1.evaluate.backends import Decoding
    from perception_r1.recipe.schema import Eval

    plain = recipe.eval if recipe else Eval()
    limit, penalty = plain.max_new_tokens, plain.repetition_penalty
    if checkpoint is not None:
        limit, penalty = checkpoint.max_new_tokens, checkpoint.repetition_penalty
    elif recipe is None and chosen:
        limit = max(item.max_new_tokens for item in chosen)
    return Decoding(
        max_new_tokens or limit, batch_size or plain.batch_size, repetition_penalty or penalty, box_scores == "logprob"
    )


def json_object(option: str, text: str | None) -> dict[str, Any]:
    """The JSON object that an option gives; empty without the option."""
    import json

    from perception_r1.errors import UserError

    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"{option}: not valid JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(value, dict):
        raise UserError(f'{option}: expected a JSON object such as {{"name": 1}}')
    return value


def family_of(family: str | None, recipe: Recipe | None, model: str | None, backend: str) -> Any:
    """As told, or the recipe's, or that of the model's own configuration."""
    from perception_r1.errors import UserError
    from perception_r1.families import get_family

    like = family or (recipe.family if recipe else None)
    if like is not None:
        return get_family(like)
    if model is None:
        raise UserError("saved answers do not say which model wrote them: give --family")
    if backend == "openai" and not Path(model).is_dir():
        raise UserError("a server does not say of which family its model is: give --family")
    from perception_r1.models.load import detect_family

    return detect_family(model)


def limits_of(
    recipe: Recipe | None,
    checkpoint: Checkpoint | None,
    family: Family,
    own: tuple[int, int] | None,
    min_pixels: int | None,
    max_pixels: int | None,
) -> tuple[int | None, int | None]:
    """Limits of the image that the model sees, as told or from the recipe, the published evaluation, the model's files.

    A recipe that names none trains by the family's, and so they are its evaluation's, too. (None, None): not known.
    """
    if recipe is not None:
        from perception_r1.recipe.build import recipe_limits

        low, high = recipe_limits(recipe, family)
    elif checkpoint is not None:
        low, high = checkpoint.min_pixels, checkpoint.max_pixels
    else:
        return min_pixels or (own[0] if own else None), max_pixels or (own[1] if own else None)
    return min_pixels or low, max_pixels or high


def own_limits(model: str | None, backend: str) -> tuple[int, int] | None:
    """Limits in the processor's files of the model that answers; of a server's only where it is named by its folder."""
    if model is None or backend == "replay" or (backend == "openai" and not Path(model).is_dir()):
        return None
    from perception_r1.models.limits import stored_limits

    return stored_limits(model)


def other_sizes(
    samples: list[Sample], family: Family, limits: tuple[int | None, int | None], own: tuple[int, int] | None
) -> str | None:
    """A sentence where images are seen at another size than by the limits stored with the model; else None."""
    if own is None or limits == own:
        return None
    sizes = [sample.image_size for sample in samples if sample.image_size is not None]
    n_other = sum(family.model_size(size, *limits) != family.model_size(size, *own) for size in sizes)
    if not n_other:
        return None
    low, high = limits[0] or family.min_pixels, limits[1] or family.max_pixels
    return (
        f"{n_other} of {len(samples)} images are shown at another size than by the model's own processor "
        f"({own[0]:,} to {own[1]:,} pixels; here {low:,} to {high:,})"
    )


def task_of(
    name: str, family: Family, recipe: Recipe | None, preset: str | None, prompt: str | None, thinking: bool
) -> Task:
    """The task; options win over the recipe, whose reward is taken whole (weights, matching, own function)."""
    from typing import cast

    from perception_r1.tasks import make_task

    if recipe is not None:
        from perception_r1.recipe.build import recipe_task

        changes: dict[str, Any] = {"thinking": thinking or recipe.thinking}
        if prompt is not None:
            changes["prompt"] = prompt
        if preset is not None:
            changes["reward"] = type(recipe.reward)(preset=cast("Any", preset))
        return recipe_task(recipe.model_copy(update=changes), family)
    return make_task(
        name, family=family, reward=preset or "robust", thinking=thinking, prompt=cast("Any", prompt or "training")
    )


def samples_of(data: Path | None, images: Path | None, task: Task, recipe: Recipe | None) -> list[Sample]:
    """Rows of ``--data``, or of the recipe's ``data.eval`` (mixed by count or share, as in training)."""
    from perception_r1.data.jsonl import read_jsonl
    from perception_r1.errors import UserError

    if data is not None:
        return read_jsonl(data, task.name, images=images)
    if recipe is None or not recipe.data.eval:
        raise UserError("say what to evaluate on: --data FILE.jsonl (or a recipe with data.eval)")
    import typer

    from perception_r1.recipe.build import recipe_samples
    from perception_r1.recipe.schema import trained_on

    for file in trained_on(recipe):
        typer.echo(f"note: {file} is in data.train, too: models trained by this recipe have seen these rows", err=True)
    return recipe_samples(recipe, recipe.data.eval, task.family)


def limited(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    """``limit`` samples drawn at random, in the data's order: the first ones are often of one kind."""
    if limit is None or limit >= len(samples):
        return samples
    import random

    picked = set(random.Random(seed).sample(range(len(samples)), limit))
    return [sample for index, sample in enumerate(samples) if index in picked]
