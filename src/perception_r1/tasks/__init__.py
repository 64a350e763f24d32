"""The perception tasks, and how to make one."""

from __future__ import annotations

from perception_r1.core.spec import RewardSpec, reward_spec
from perception_r1.errors import RecipeError
from perception_r1.families import FamilyLike, get_family
from perception_r1.prompts import PromptPreset
from perception_r1.tasks.base import Task
from perception_r1.tasks.counting import CountingTask
from perception_r1.tasks.detection import DetectionTask
from perception_r1.tasks.geometry import GeometryTask
from perception_r1.tasks.grounding import GroundingTask
from perception_r1.tasks.ocr import OcrTask

__all__ = ["TASKS", "Task", "make_task", "reward_spec"]

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (GroundingTask, CountingTask, DetectionTask, OcrTask, GeometryTask)
}
"""Tasks by name."""


def make_task(
    name: str,
    *,
    family: FamilyLike,
    reward: str | RewardSpec = "robust",
    thinking: bool = False,
    prompt: PromptPreset = "paper",
) -> Task:
    """A task for a family with a reward.

    Args:
        name: grounding, counting, detection, ocr or geometry.
        family: a name, a recipe's table, or a `Family`.
        reward: a preset's name, or what `reward_spec` made.
        thinking: ask for ``<think>`` and ``<answer>`` blocks.
        prompt: ``paper`` or ``released``; for geometry also ``bare`` (the question alone).

    Raises:
        RecipeError: a name that does not exist, or a reward made for another task.

    Example:
        >>> from perception_r1.types import BoxTarget, Sample
        >>> task = make_task("grounding", family="qwen3_vl")
        >>> sample = Sample("1", "grounding", "cat", BoxTarget(((0, 0, 320, 480),)), image_size=(640, 480))
        >>> task.score(sample, '[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]').reward
        0.5
    """
    if name not in TASKS:
        raise RecipeError(f"unknown task {name!r} (known: {', '.join(TASKS)})")
    spec = reward_spec(name, reward) if isinstance(reward, str) else reward
    if spec.task != name:
        raise RecipeError(f"the reward was made for task {spec.task!r}, not for {name!r}")
    known = ("paper", "released", "bare") if name == "geometry" else ("paper", "released")
    if prompt not in known:
        raise RecipeError(f"unknown prompt preset {prompt!r} (known: {', '.join(known)})")
    return TASKS[name](get_family(family), spec, thinking, prompt)
