"""perception-r1: reinforcement learning that teaches vision-language models to see.

`score` is the reward of one answer; everything else is in the modules. Importing the package loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_r1.families import FamilyLike
    from perception_r1.types import Completion, RewardRecord, Target

__all__ = ["score"]


def score(
    task: str,
    response: str | Completion,
    target: Target | Mapping[str, Any],
    *,
    family: FamilyLike,
    image_size: tuple[int, int] | None = None,
    model_size: tuple[int, int] | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    preset: str = "robust",
    thinking: bool = False,
    categories: tuple[str, ...] = (),
) -> RewardRecord:
    """Score one answer of a model, and say why.

    Args:
        task: grounding, counting, detection or ocr.
        response: what the model wrote, special tokens kept; a `Completion` also says whether it was cut off.
        target: a `Target`, or the fields of a row as a mapping: ``boxes`` (with ``labels``), ``points``, ``count`` or
            ``text``, and ``categories``; boxes as [x1, y1, x2, y2] in pixels of the original image.
        family: how the model writes coordinates: qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, pixel, unit, or a table.
        image_size: (width, height) of the original image; text needs none.
        model_size: (width, height) of the image that the model saw, where coordinates are its pixels (Qwen2.5-VL).
        min_pixels, max_pixels: limits of the processor, instead of ``model_size``. Without either, an image that the
            published processor would show at another size than PR1's limits is an error.
        preset: ``robust`` or ``released`` (PR1's formulas; ``paper`` is its earlier name).
        thinking: whether ``<think>`` and ``<answer>`` blocks were asked for.
        categories: labels that may be asked for (detection).

    Returns:
        A record with ``reward``, ``components``, ``status``, ``reason`` and what was read and matched.

    Raises:
        UserError: a target, name or size that makes no sense. An answer never raises.

    Example:
        >>> score("grounding", '[{"bbox_2d": [0, 0, 500, 500]}]', {"boxes": [[0, 0, 320, 480]]},
        ...       family="qwen3_vl", image_size=(640, 480)).reward
        0.5
    """
    from perception_r1.data.row import sample_from_row, target_fields
    from perception_r1.errors import UserError
    from perception_r1.families import get_family
    from perception_r1.tasks import make_task
    from perception_r1.types import Completion

    if not isinstance(response, (str, Completion)):
        raise UserError(f"response: {type(response).__name__} is not an answer (expected text, or a Completion)")
    for name, size in (("image_size", image_size), ("model_size", model_size)):
        if size is not None and (isinstance(size, str) or len(size) != 2):
            raise UserError(f"{name}: {size!r} is not a size (expected (width, height) in pixels)")
    known = get_family(family).with_limits(min_pixels, max_pixels)
    made = make_task(task, family=known, reward=preset, thinking=thinking)
    row = dict(target) if isinstance(target, Mapping) else target_fields(target)
    row = {"id": "score", "question": "object", **row, "task": task}
    if image_size is not None:
        row["width"], row["height"] = image_size
    if model_size is not None:
        row["model_width"], row["model_height"] = model_size
    if categories:
        row["categories"] = list(categories)
    return made.score(sample_from_row(row, path="target", image_required=False, check_image=False), response)
