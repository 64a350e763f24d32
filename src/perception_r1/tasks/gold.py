"""A target's objects as a family writes them: in its frame, rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perception_r1.answers.formats import WrittenEntry
from perception_r1.boxes import from_image_box, from_image_point, limits, round_box, round_point
from perception_r1.errors import RecipeError
from perception_r1.families import Family
from perception_r1.types import XY, XYXY, BoxTarget, CountTarget, Frame, PointTarget, Sample


def gold_entries(sample: Sample, family: Family) -> list[WrittenEntry]:
    """The target's objects in the family's frame, rounded as they are written.

    Where a family only writes boxes, a point becomes a small box centred on it. Of a count-only target only the number
    is known: the boxes then lie on a grid, places made up, good for checking a reward and never for training.

    Raises:
        RecipeError: the target has no objects.
    """
    frame = family.frame_of(sample)
    target = sample.target
    if isinstance(target, BoxTarget):
        labels: Sequence[str | None] = target.labels or (None,) * len(target.boxes_xyxy)
        return [
            (round_box(from_image_box(box, frame), frame), label)
            for box, label in zip(target.boxes_xyxy, labels, strict=True)
        ]
    if isinstance(target, PointTarget):
        points = [round_point(from_image_point(point, frame), frame) for point in target.points_xy]
        places = points if family.form.writes_points else [_box_round_point(point, frame) for point in points]
        return list(zip(places, target.labels or (None,) * len(places), strict=True))
    if isinstance(target, CountTarget):
        return [(box, None) for box in _grid_boxes(target.count, frame)]
    raise RecipeError(f"task {sample.task!r}: a target of type {type(target).__name__} has no boxes to write")


def _box_round_point(point: XY, frame: Frame) -> XYXY:
    """A small box whose centre is the point; half a unit off only where the point lies on the image's edge."""
    spans = []
    for value, limit in zip(point, limits(frame), strict=True):
        unit, reach = (1e-4, 0.005) if frame.kind == "unit" else (1, 5)
        reach = min(reach, value, limit - value)
        if reach <= 0:
            spans.append((0, unit) if value <= 0 else (value - unit, value))
        else:
            spans.append((value - reach, value + reach))
    (x1, x2), (y1, y2) = spans
    return round_box((x1, y1, x2, y2), frame)


def _grid_boxes(count: int, frame: Frame) -> list[XYXY]:
    """``count`` boxes, all different, on a square grid over the image, in the frame."""
    width, height = frame.image_size
    side = max(1, math.ceil(math.sqrt(count)))
    cells = [divmod(index, side) for index in range(count)]
    return [
        round_box(
            from_image_box(
                (
                    width * column / side,
                    height * row / side,
                    width * (column + 0.8) / side,
                    height * (row + 0.8) / side,
                ),
                frame,
            ),
            frame,
        )
        for row, column in cells
    ]
