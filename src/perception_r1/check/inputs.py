"""What ``pr1 check`` is given, a recipe or data, as a task, rows and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perception_r1.check.pictures import row_error
from perception_r1.check.run import Limits
from perception_r1.data.images import prepare
from perception_r1.data.jsonl import read_jsonl
from perception_r1.data.mix import mix
from perception_r1.data.sources import SourceSpec, guess_source, load_source
from perception_r1.errors import DataError, RecipeError, UserError
from perception_r1.recipe.build import recipe_task
from perception_r1.recipe.schema import Recipe, Source, load_recipe, source_names
from perception_r1.tasks import Task, make_task
from perception_r1.types import Sample

RECIPES = {".yaml", ".yml"}


@dataclass
class Inputs:
    """``samples`` are the good rows, prepared; ``evaluation`` those of a recipe's ``data.eval``."""

    task: Task
    samples: list[Sample]
    evaluation: list[Sample] = field(default_factory=list)
    bad: list[DataError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    model: str | None = None


def of_recipe(path: Path, *, family: str | None, preset: str | None, overrides: Sequence[str] = ()) -> Inputs:
    """The recipe's task with its own reward, its training rows as they would be drawn, and its limits.

    Raises:
        RecipeError: the recipe is wrong or names no rows. DataError: a source cannot be opened at all.
    """
    recipe = load_recipe(path, overrides)
    if family is not None:
        recipe = recipe.model_copy(update={"family": family})
    task = recipe_task(recipe, preset=preset)
    grpo, sft = recipe.grpo or {}, recipe.sft or {}
    inputs = Inputs(
        task,
        [],
        limits=Limits(grpo.get("max_completion_length"), sft.get("max_length"), grpo.get("vllm_max_model_length")),
        model=recipe.model,
    )
    if not recipe.data.train and not recipe.data.eval:
        raise RecipeError(f"{path}: field 'data': names no source of rows")
    if grpo or sft or recipe.lora:
        inputs.notes.append("the trainer's settings (grpo, sft, lora) are checked by pr1 train --dry-run, not here")
    inputs.evaluation = _rows(recipe, recipe.data.eval, inputs)
    # A recipe that only evaluates is checked on what it evaluates.
    inputs.samples = _rows(recipe, recipe.data.train, inputs, total=recipe.data.total) or inputs.evaluation
    return inputs


def of_data(
    path: Path,
    *,
    family: str | None,
    preset: str | None,
    task: str | None,
    source: str | None,
    images: Path | None,
    split: str | None,
    thinking: bool,
) -> Inputs:
    """Rows of a file with the task that they, or the user, name.

    Raises:
        UserError: no family, no task, or rows of several tasks. DataError: the file cannot be read at all.
    """
    if family is None:
        raise UserError(
            "which model's coordinates? add --family qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, pixel or unit"
        )
    if path.suffix == ".jsonl" and task is None and source is None:
        bad: list[DataError] = []
        samples = read_jsonl(path, images=images, on_error=bad.append)
        names = sorted({sample.task for sample in samples})
        if len(names) > 1:
            raise UserError(f"{path}: rows of several tasks ({', '.join(names)}): name one with --task")
        if not names:  # nothing but bad rows; the first says what is the matter with them
            raise bad[0]
        inputs = Inputs(make_task(names[0], family=family, reward=preset or "robust", thinking=thinking), [], bad=bad)
    else:
        if task is None:
            raise UserError(f"{path}: which rows of it? add --task grounding, counting, detection or ocr")
        inputs = Inputs(make_task(task, family=family, reward=preset or "robust", thinking=thinking), [])
        samples = _load(_source_of(path, source, images, split), task, inputs)
    inputs.samples = _prepared(samples, inputs)
    return inputs


def evaluation_rows(path: Path, task: str, source: str | None = None) -> list[Sample]:
    """Rows to compare images with: a recipe's ``data.eval``, or a file; images need not be there.

    Raises:
        DataError: no rows.
    """
    if path.suffix in RECIPES:
        recipe = load_recipe(path)
        specs = [_spec(item) for item in recipe.data.eval]
        if not specs:
            raise RecipeError(f"{path}: field 'data.eval': names no source of rows")
        return [row for spec in specs for row in load_source(_kept(spec), task=recipe.task)]
    if path.suffix == ".jsonl" and source is None:
        try:
            return read_jsonl(path, check_images=False)
        except DataError:  # rows without sizes need their images
            return read_jsonl(path)
    return load_source(_kept(_source_of(path, source, None, None)), task=task)


def _rows(recipe: Recipe, sources: Sequence[Source], inputs: Inputs, *, total: int | None = None) -> list[Sample]:
    parts = [(_load(_spec(source), recipe.task, inputs), source.count, source.share) for source in sources]
    n_bad = len(inputs.bad)
    try:
        drawn = mix(parts, total, recipe.data.seed, names=source_names(recipe, sources))
    except DataError:
        if not n_bad:
            raise
        # Training stops at a bad row anyway; so that the others are checked too, take whatever is good.
        drawn = [sample for samples, _, _ in parts for sample in samples]
    return _prepared(drawn, inputs)


def _prepared(samples: Sequence[Sample], inputs: Inputs) -> list[Sample]:
    """Samples with the model's sizes; one whose image the model cannot take is a bad row."""
    found = []
    for sample in samples:
        try:
            found.append(prepare(sample, inputs.task.family))
        except DataError as error:
            inputs.bad.append(row_error(sample, f"row {sample.id!r}: {error}"))
    return found


def _load(spec: SourceSpec, task: str, inputs: Inputs) -> list[Sample]:
    return load_source(spec, task=task, note=inputs.notes.append, on_bad=inputs.bad.append)


def _spec(source: Source) -> SourceSpec:
    return SourceSpec.of(source.model_dump())


def _source_of(path: Path, source: str | None, images: Path | None, split: str | None) -> SourceSpec:
    name = source or guess_source(path)
    options: dict[str, Any] = {}
    return SourceSpec(name, str(path), None if images is None else str(images), split, options=options)


def _kept(spec: SourceSpec) -> SourceSpec:
    """``spec`` without the demand that its images exist."""
    if spec.source == "digits":
        return spec
    return replace(spec, options={**spec.options, "missing": "keep"})
