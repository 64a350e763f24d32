"""From a recipe to what runs: its family, its task, its rows, its judge.

Training, evaluation, checks, exports, plans and analyses all come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_r1.data.images import prepare
from perception_r1.data.mix import mix
from perception_r1.data.sources import load_source
from perception_r1.errors import RecipeError
from perception_r1.families import Family, get_family
from perception_r1.models.load import detect_family
from perception_r1.recipe.schema import Recipe, Source, source_names
from perception_r1.tasks import Task, make_task, reward_spec

if TYPE_CHECKING:
    from perception_r1.types import Sample


def recipe_family(recipe: Recipe) -> Family:
    """The recipe's family, or the one its model's configuration belongs to, with the recipe's image limits."""
    family = get_family(recipe.family) if recipe.family is not None else detect_family(recipe.model)
    return family.with_limits(*recipe_limits(recipe, family))


def recipe_limits(recipe: Recipe, family: Family) -> tuple[int, int]:
    """(min_pixels, max_pixels) that images of the recipe are resized by: its own, else the family's."""
    return recipe.image.min_pixels or family.min_pixels, recipe.image.max_pixels or family.max_pixels


def recipe_task(recipe: Recipe, family: Family | None = None, preset: str | None = None) -> Task:
    """The task with the recipe's family, prompt form and reward.

    Args:
        recipe: the recipe.
        family: instead of the recipe's.
        preset: a reward preset instead of the recipe's reward; the recipe's matching and options stay.
    """
    reward = recipe.reward
    spec = reward_spec(
        recipe.task,
        preset or reward.preset,
        matching=reward.matching,
        components=None if preset else reward.components,
        clamp=None if preset else reward.clamp,
        function=None if preset else reward.function,
        options=reward.options or None,
    )
    return make_task(
        recipe.task,
        family=family or recipe_family(recipe),
        reward=spec,
        thinking=recipe.thinking,
        prompt=recipe.prompt,
    )


def recipe_samples(recipe: Recipe, sources: Sequence[Source], family: Family) -> list[Sample]:
    """The rows of ``data.train`` or ``data.eval``: read, mixed by count or share (seeded), with the model's sizes.

    Raises:
        RecipeError: no source is named. DataError: a bad row.
    """
    if not sources:
        part = "data.eval" if sources is recipe.data.eval else "data.train"
        raise RecipeError(f"{recipe.path or recipe.name}: field '{part}': names no source of rows")
    parts = [
        (load_source(source.model_dump(), task=recipe.task, base_dir=recipe.base_dir), source.count, source.share)
        for source in sources
    ]
    total = recipe.data.total if sources is recipe.data.train else None  # the number of rows to train on
    samples = mix(parts, total, recipe.data.seed, names=source_names(recipe, sources))
    known = family.with_limits(*recipe_limits(recipe, family))
    return [prepare(sample, known) for sample in samples]


def recipe_judge(recipe: Recipe, out: Path) -> Any:
    """The recipe's judge, after it has answered a first question; None without one (facts are then matched by words).

    Raises:
        UserError: it cannot be asked.
    """
    if recipe.reward.judge is None:
        return None
    from perception_r1.judge.make import open_judge

    table = recipe.reward.judge.model_dump()
    return open_judge({**table, "cache": table["cache"] or str(out / "judge.sqlite")})
