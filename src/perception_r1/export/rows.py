"""The rows of a recipe for an engine: prompts as text, images by path, the packed row that is scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from perception_r1.data.images import is_upright, model_image
from perception_r1.errors import DataError, RecipeError
from perception_r1.families import Family
from perception_r1.integrations.scoring import pack, settings_of, task_of
from perception_r1.progress import progress
from perception_r1.recipe.build import recipe_family, recipe_samples
from perception_r1.recipe.schema import Recipe
from perception_r1.tasks import Task
from perception_r1.types import Sample

PLACEHOLDER = "<image>"
"""Where verl, ms-swift and EasyR1 put the picture."""


@dataclass(frozen=True)
class Rows:
    """A recipe's rows, prepared; ``eval`` is empty where the recipe has none."""

    task: Task
    family: Family
    settings: dict[str, Any]
    train: tuple[Sample, ...]
    eval: tuple[Sample, ...]


def rows_of(recipe: Recipe, *, evaluation: bool = True) -> Rows:
    """Read, mix and prepare what a recipe trains on, and what it evaluates on unless told otherwise.

    Raises:
        RecipeError: no training rows are named, or the family is not known without the model's files.
        DataError: a bad row, or a question that contains the engines' placeholder for images.
    """
    family = recipe_family(recipe)
    settings = settings_of(recipe, family.name)
    task = task_of(settings)
    if not recipe.data.train:
        raise RecipeError(f"{recipe.path or recipe.name}: field 'data.train': names no source of rows")
    train = tuple(recipe_samples(recipe, recipe.data.train, family))
    found = tuple(recipe_samples(recipe, recipe.data.eval, family)) if recipe.data.eval and evaluation else ()
    for sample in (*train, *found):
        if PLACEHOLDER in task.prompt(sample).user:
            raise DataError(f"sample {sample.id!r}: its question contains {PLACEHOLDER!r}, which engines replace")
    return Rows(task, family, settings, train, found)


def messages_of(task: Task, sample: Sample) -> list[dict[str, str]]:
    """System and user turn as text, the picture's placeholder first."""
    prompt = task.prompt(sample)
    head = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*head, {"role": "user", "content": (PLACEHOLDER if prompt.has_image else "") + prompt.user}]


def packed(samples: Iterable[Sample]) -> list[str]:
    """What each answer is scored with."""
    return [pack(sample) for sample in samples]


def engine_images(samples: Sequence[Sample], family: Family, folder: Path) -> list[str]:
    """Paths of images for an engine that opens and resizes them itself.

    An engine that does not know EXIF shows a rotated picture, and one that resizes by other limits moves the
    coordinates of a family that answers in pixels of the resized image. Such images are written into ``folder`` as the
    model is to see them (PNG, so no pixel changes); the others stay where they are.
    """
    paths: list[str] = []
    with progress("images", len(samples)) as advance:
        for sample in samples:
            path = sample.image or ""
            with Image.open(path) as opened:
                as_stored = opened.size
            needed = sample.model_size if family.frame == "resized" else sample.image_size
            if as_stored != needed or not is_upright(path):
                target = folder / f"{len(paths):07d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                model_image(sample).save(target)
                path = str(target.absolute())
            paths.append(path)
            advance()
    return paths
