"""From easy to hard, with more rollouts where it is harder: a staged recipe out of answers that were scored offline.

Perception-R1 trains detection so: it scores the training images with the base model, sorts them into buckets by that
score, and goes from the easy ones to the hard ones while the number of rollouts grows. It publishes no thresholds; here
the buckets are of equal size unless edges are given.
"""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from perception_r1.analysis.diagnose import group_verdict
from perception_r1.analysis.rollouts import Group
from perception_r1.data.files import atomic_write
from perception_r1.data.jsonl import write_jsonl
from perception_r1.errors import RecipeError, UserError
from perception_r1.evaluate.metrics import quality
from perception_r1.recipe.schema import Recipe, load_recipe
from perception_r1.types import Sample


@dataclass(frozen=True, slots=True)
class Stage:
    """A bucket of questions, easy ones first; ``low`` and ``high`` are the scores of its hardest and easiest."""

    samples: tuple[Sample, ...]
    low: float
    high: float
    mean: float
    rollouts: int


def question_scores(
    groups: Sequence[Group], *, by: str = "metric", most: float = 1.0
) -> dict[str, tuple[Sample, float]]:
    """How well each question is answered, 0 to 1, by its id: the mean of its latest group.

    Args:
        groups: of a run.
        by: ``metric`` (for detection the F1 of the image) or ``reward`` (as a share of ``most``).
        most: the best reward that the task can give.
    """
    scores = {}
    for group in groups:
        values = [
            quality(group.sample, r.record) if by == "metric" else r.record.reward / most
            for r in group.rollouts
            if r.record.reward is not None
        ]
        if values:
            scores[group.sample.id] = group.sample, statistics.fmean(values)
    return scores


def plan_stages(
    groups: Sequence[Group],
    rollouts: Sequence[int],
    *,
    edges: Sequence[float] | None = None,
    by: str = "metric",
    keep_solved: bool = False,
    most: float = 1.0,
) -> tuple[list[Stage], list[Sample]]:
    """Buckets from easy to hard, one for each number of rollouts, and the questions left out as solved.

    Args:
        groups: answers that were scored offline.
        rollouts: rollouts a prompt of each stage, first the easiest's.
        edges: scores between the buckets, descending, one fewer than stages; None: buckets of equal size.
        by: see `question_scores`.
        keep_solved: keep questions that are answered right already, too.
        most: the best reward that the task can give.

    Raises:
        UserError: a stage would be empty, or numbers do not fit.
    """
    if edges is not None and (len(edges) != len(rollouts) - 1 or list(edges) != sorted(edges, reverse=True)):
        raise UserError(f"{len(rollouts)} stages need {len(rollouts) - 1} edges, from high to low, for example 0.7,0.3")
    scores = question_scores(groups, by=by, most=most)
    latest = {group.sample.id: group for group in groups}
    solved = (
        {} if keep_solved else {key: scores[key][0] for key in scores if group_verdict(latest[key], most) == "drop"}
    )
    left = sorted((value for key, value in scores.items() if key not in solved), key=lambda pair: -pair[1])
    n = len(rollouts)
    if edges is None:
        cuts = [round(i * len(left) / n) for i in range(n + 1)]
        parts = [left[a:b] for a, b in pairwise(cuts)]
    else:
        limits = [float("inf"), *edges, float("-inf")]
        parts = [[p for p in left if low <= p[1] < high] for high, low in pairwise(limits)]
    for number, part in enumerate(parts, start=1):
        if not part:
            raise UserError(
                f"stage {number} would be empty: {len(left)} questions are left to learn from, {len(solved)} are "
                "solved already (fewer --rollouts, other --edges, or --keep-solved)"
            )
    stages = [
        Stage(
            tuple(sample for sample, _ in part), part[-1][1], part[0][1], statistics.fmean(v for _, v in part), number
        )
        for part, number in zip(parts, rollouts, strict=True)
    ]
    return stages, list(solved.values())


def write_stages(
    recipe_file: str | Path, stages: Sequence[Stage], out: str | Path, runs: str | Path = "runs"
) -> list[Path]:
    """Write ``stage-N.jsonl`` and ``stage-N.yaml`` of each stage, and ``train.sh`` that runs them in turn.

    Each stage extends the recipe, starts from the model of the one before, and keeps the number of prompts a step: the
    rollouts that are more come as accumulation steps. ``max_steps``, where the recipe has it, is shared out by size.

    Raises:
        RecipeError: the recipe has no ``grpo`` table, or a number of rollouts is not a multiple of its own.
    """
    recipe_file, out = Path(recipe_file), Path(out)
    recipe = load_recipe(recipe_file)
    if recipe.grpo is None:
        raise RecipeError(f"{recipe_file}: no 'grpo' table: a curriculum is one of GRPO")
    total = sum(len(stage.samples) for stage in stages)
    files: list[Path] = []
    for number, stage in enumerate(stages, start=1):
        rows = out / f"stage-{number}.jsonl"
        write_jsonl(rows, list(stage.samples))
        values: dict[str, Any] = {
            "extends": os.path.relpath(recipe_file, out),
            "name": f"{recipe.name}-stage-{number}",
            "data": {"total": None, "train": [{"source": "jsonl", "path": str(rows)}]},
            "grpo": _grpo(recipe, stage, len(stage.samples) / total),
        }
        if number > 1:
            values |= {"model": str(Path(runs) / f"{recipe.name}-stage-{number - 1}" / _model(recipe, number - 1))}
            values["warm_start"] = None
        if number < len(stages):
            values["save_dtype"] = "float32"  # the next stage goes on from the weights themselves
        path = out / f"stage-{number}.yaml"
        head = (
            f"# Stage {number} of {len(stages)}: {len(stage.samples)} questions that score {stage.low:.3f} to "
            f"{stage.high:.3f}, {stage.rollouts} rollouts a prompt.\n"
        )
        with atomic_write(path) as stream:
            stream.write(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        load_recipe(path)  # what was written must be a recipe
        files.append(path)
    lines = [
        shlex.join(["pr1", "train", str(path), "--out", str(Path(runs) / f"{recipe.name}-stage-{number}"), "--resume"])
        for number, path in enumerate(files, start=1)
    ]
    with atomic_write(out / "train.sh") as stream:
        stream.write("set -e\n" + "\n".join(lines) + "\n")
    return files


def _grpo(recipe: Recipe, stage: Stage, share: float) -> dict[str, Any]:
    table = recipe.grpo or {}
    own = int(table.get("num_generations", 8))
    if stage.rollouts % own:
        raise RecipeError(f"{stage.rollouts} rollouts: expected a multiple of the recipe's num_generations, {own}")
    values: dict[str, Any] = {"num_generations": stage.rollouts}
    factor = stage.rollouts // own
    if factor > 1:
        values["gradient_accumulation_steps"] = factor * int(table.get("gradient_accumulation_steps", 1))
    if int(table.get("max_steps", -1)) > 0:
        values["max_steps"] = max(1, round(share * int(table["max_steps"])))
    return values


def _model(recipe: Recipe, number: int) -> str:
    """Where ``pr1 train`` leaves a stage's model: below ``grpo`` when SFT came first."""
    return "grpo/model" if recipe.warm_start == "sft" and number == 1 else "model"
