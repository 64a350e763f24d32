"""Between a model's coordinate frame and pixels of the original image: the only place where coordinates change space.

Every frame maps to original pixels by one factor a side (no offset), so a frame is fully described by `scales`. Nothing
is clipped: a box that a model writes outside the image stays outside and loses IoU by it.
"""

from __future__ import annotations

from math import floor

from perception_r1.errors import DataError
from perception_r1.types import XY, XYXY, Frame

UNIT_DECIMALS = 4
"""Decimals written in the ``unit`` frame: one unit is a ten-thousandth of a side."""


def scales(frame: Frame) -> XY:
    """Original-image pixels that one coordinate step of the frame is worth, (x, y).

    Raises:
        DataError: a ``resized`` frame without the size that the model sees.

    Example:
        >>> scales(Frame("norm1000", (640, 480)))
        (0.64, 0.48)
    """
    width, height = frame.image_size
    if frame.kind == "norm1000":
        return width / 1000, height / 1000
    if frame.kind == "original":
        return 1.0, 1.0
    if frame.kind == "unit":
        return float(width), float(height)
    if frame.model_size is None:
        raise DataError("coordinates in pixels of the resized image need model_width and model_height")
    return width / frame.model_size[0], height / frame.model_size[1]


def units(frame: Frame) -> XY:
    """Size of the smallest step that is *written* in the frame, in original-image pixels, (x, y).

    It bounds what rounding costs: a perfect box of w × h keeps an IoU of at least (1 − u_x/w)(1 − u_y/h).
    """
    x, y = scales(frame)
    return (x / 10**UNIT_DECIMALS, y / 10**UNIT_DECIMALS) if frame.kind == "unit" else (x, y)


def to_image_box(box: XYXY, frame: Frame) -> XYXY:
    """A box in the frame, in original-image pixels.

    Example:
        >>> to_image_box((0, 500, 1000, 1000), Frame("norm1000", (640, 480)))
        (0.0, 240.0, 640.0, 480.0)
    """
    x, y = scales(frame)
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def to_image_point(point: XY, frame: Frame) -> XY:
    """A point in the frame, in original-image pixels."""
    x, y = scales(frame)
    return point[0] * x, point[1] * y


def from_image_box(box: XYXY, frame: Frame) -> XYXY:
    """A box in original-image pixels, in the frame (not rounded: see `round_box`)."""
    x, y = scales(frame)
    return box[0] / x, box[1] / y, box[2] / x, box[3] / y


def from_image_point(point: XY, frame: Frame) -> XY:
    """A point in original-image pixels, in the frame (not rounded: see `round_point`)."""
    x, y = scales(frame)
    return point[0] / x, point[1] / y


def round_box(box: XYXY, frame: Frame) -> XYXY:
    """A box of the frame rounded to what is written: integers, or `UNIT_DECIMALS` decimals in the ``unit`` frame.

    A box with a positive side never collapses: it becomes the one unit it lies in. One inside the image stays inside.

    Example:
        >>> round_box((10.2, 10.6, 10.4, 20.4), Frame("norm1000", (640, 480)))
        (10, 11, 11, 20)
    """
    steps = 10**UNIT_DECIMALS if frame.kind == "unit" else 1
    limit_x, limit_y = limits(frame)
    x1, x2 = _round_side(box[0] * steps, box[2] * steps, limit_x * steps)
    y1, y2 = _round_side(box[1] * steps, box[3] * steps, limit_y * steps)
    return (x1, y1, x2, y2) if steps == 1 else (x1 / steps, y1 / steps, x2 / steps, y2 / steps)


def round_point(point: XY, frame: Frame) -> XY:
    """A point of the frame rounded to what is written."""
    steps = 10**UNIT_DECIMALS if frame.kind == "unit" else 1
    x, y = floor(point[0] * steps + 0.5), floor(point[1] * steps + 0.5)
    return (x, y) if steps == 1 else (x / steps, y / steps)


def _round_side(low: float, high: float, limit: float) -> tuple[int, int]:
    start, end = floor(low + 0.5), floor(high + 0.5)
    if end > start or high <= low:
        return start, end
    start = floor((low + high) / 2)
    return (start - 1, start) if start + 1 > limit else (start, start + 1)


def limits(frame: Frame) -> XY:
    """Coordinates of the image's bottom right corner in the frame."""
    x, y = scales(frame)
    return frame.image_size[0] / x, frame.image_size[1] / y
