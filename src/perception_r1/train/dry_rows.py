"""A few rows of each source of a recipe, with their pictures decoded: what a dry run trains on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from perception_r1.data.images import model_image, prepare
from perception_r1.data.jsonl import write_jsonl
from perception_r1.data.mix import mix
from perception_r1.data.sources import GENERATED, load_source
from perception_r1.errors import DataError
from perception_r1.families import Family
from perception_r1.recipe.schema import Recipe, Source, source_names
from perception_r1.types import Sample

DRAWN = 4
"""Rows of a source: that many at random, and the one with the largest picture."""


def few_rows(recipe: Recipe, sources: Sequence[Source], family: Family, folder: Path) -> tuple[tuple[Source, ...], int]:
    """Read every source whole, as the run does, and write a few rows of each into ``folder``.

    Scenes and diagrams that are drawn by us are drawn into ``folder``, a few only.

    Args:
        recipe: task, counts and shares, which must add up.
        sources: ``data.train`` or ``data.eval`` of it.
        family: with the recipe's image limits.
        folder: for rows and drawn pictures.

    Returns:
        The sources to train on instead, and the number of their rows.

    Raises:
        DataError: a file that is not there, a bad row, counts that do not add up, a picture that does not decode.
    """
    parts = [_read(recipe, source, folder) for source in sources]
    if not any(source.source in GENERATED for source in sources):
        numbers = [(part, source.count, source.share) for part, source in zip(parts, sources, strict=True)]
        total = recipe.data.total if sources is recipe.data.train else None
        mix(numbers, total, recipe.data.seed, names=source_names(recipe, sources))
    few: list[Source] = []
    n_rows = 0
    for part in parts:
        rows = _picked(part, family, recipe.data.seed)
        file = folder / f"rows-{len(list(folder.glob('rows-*.jsonl')))}.jsonl"
        n_rows += write_jsonl(file, rows)
        few.append(Source(source="jsonl", path=str(file)))
    return tuple(few), n_rows


def _read(recipe: Recipe, source: Source, folder: Path) -> list[Sample]:
    if source.source in GENERATED:
        options = {**source.options, "n": min(int(source.options.get("n", 8)), 8)}
        source = source.model_copy(update={"path": str(folder), "options": options, "count": None})
    return load_source(source.model_dump(), task=recipe.task, base_dir=recipe.base_dir)


def _picked(samples: Sequence[Sample], family: Family, seed: int) -> list[Sample]:
    """A few samples whose pictures decode, as they were read."""

    def area(index: int) -> int:
        width, height = prepared[index].model_size or (0, 0)
        return width * height

    prepared = [prepare(sample, family) for sample in samples]
    largest = max(range(len(samples)), key=area)
    others = [index for index in range(len(samples)) if index != largest]
    chosen = [largest, *random.Random(seed).sample(others, min(DRAWN, len(others)))]
    for index in chosen:
        try:
            model_image(prepared[index])
        except DataError as error:
            path, line = prepared[index].origin or (None, None)
            raise DataError(str(error), path=path, line=line, field="image") from None
    return [samples[index] for index in chosen]
