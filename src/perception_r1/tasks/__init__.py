"""The tasks, and how to make one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_r1.errors import RecipeError
from perception_r1.families import FamilyLike, get_family
from perception_r1.rewards.base import RewardSpec
from perception_r1.tasks.base import Task
from perception_r1.tasks.counting import CountingTask
from perception_r1.tasks.detection import DetectionTask
from perception_r1.tasks.geometry import GeometryTask
from perception_r1.tasks.grounding import GroundingTask
from perception_r1.tasks.ocr import OcrTask

__all__ = ["TASKS", "Task", "make_task", "reward_spec", "task_class"]

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (GroundingTask, CountingTask, DetectionTask, OcrTask, GeometryTask)
}
"""Tasks by name."""

PRESET_ALIASES = {"paper": "released"}
"""Earlier names of reward presets."""
PROMPT_ALIASES = {"paper": "training", "released": "evaluation"}
"""Earlier names of prompt presets."""


def task_class(name: str) -> type[Task]:
    """The class of a task by its name.

    Raises:
        RecipeError: there is none.
    """
    if name not in TASKS:
        raise RecipeError(f"unknown task {name!r} (known: {', '.join(TASKS)})")
    return TASKS[name]


def reward_spec(
    task: str,
    preset: str = "robust",
    *,
    matching: str | None = None,
    components: Mapping[str, float] | None = None,
    clamp: tuple[float, float] | None = None,
    function: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> RewardSpec:
    """A preset with a recipe's changes.

    Args:
        task: grounding, counting, detection, ocr or geometry.
        preset: ``robust`` or ``released`` (PR1's formulas, flaws included; ``paper`` is its earlier name).
        matching: ``hungarian``, ``sequential`` or ``greedy`` instead of the preset's.
        components: weights by name, *instead of* the preset's. PR1's detection steps are {format: 0.25}, then + iou: 1,
            + cls: 1, + f1: 0.75, + missing: -0.5 of ``released``.
        clamp: limits of the reward instead of the preset's.
        function: ``package.module:name`` of ``fn(sample, completion, parsed, match) -> float | None``, added as the
            component ``function`` with weight 1 unless ``components`` gives it another; None means *not scored*.
        options: floor, same_iou, point_cap, whitespace, where the task has them.

    Raises:
        RecipeError: a name that does not exist, a function that cannot be loaded, a value out of range.

    Example:
        >>> reward_spec("grounding", "released").components
        {'format': 1.0, 'iou2': 1.0}
    """
    kind = task_class(task)
    preset = PRESET_ALIASES.get(preset, preset)
    if preset not in kind.presets:
        raise RecipeError(f"unknown reward preset {preset!r} (known: {', '.join(kind.presets)})")
    return kind.presets[preset].adapted(
        matching=matching,
        components=components,
        clamp=clamp,
        function=function,
        options=options,
        known_options=kind.options,
    )


def make_task(
    name: str,
    *,
    family: FamilyLike,
    reward: str | RewardSpec = "robust",
    thinking: bool = False,
    prompt: str = "training",
) -> Task:
    """A task for a family with a reward.

    Args:
        name: grounding, counting, detection, ocr or geometry.
        family: a name, a recipe's table, or a `Family`.
        reward: a preset's name, or what `reward_spec` made.
        thinking: ask for ``<think>`` and ``<answer>`` blocks.
        prompt: ``training`` or ``evaluation`` (earlier names: ``paper``, ``released``); for geometry also ``bare`` (the
            question alone).

    Raises:
        RecipeError: a name that does not exist, or a reward made for another task.

    Example:
        >>> from perception_r1.types import BoxTarget, Sample
        >>> task = make_task("grounding", family="qwen3_vl")
        >>> sample = Sample("1", "grounding", "cat", BoxTarget(((0, 0, 320, 480),)), image_size=(640, 480))
        >>> task.score(sample, '[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]').reward
        0.5
    """
    kind = task_class(name)
    spec = reward_spec(name, reward) if isinstance(reward, str) else reward
    if spec.task != name:
        raise RecipeError(f"the reward was made for task {spec.task!r}, not for {name!r}")
    prompt = PROMPT_ALIASES.get(prompt, prompt)
    if prompt not in kind.questions:
        raise RecipeError(f"unknown prompt preset {prompt!r} (known: {', '.join(kind.questions)})")
    return kind(get_family(family), spec, thinking, prompt)  # type: ignore[arg-type]
