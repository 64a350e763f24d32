"""Coordinates between frames and original pixels: numbers by hand, both ways, and what rounding may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1 import boxes as coords
from perception_r1.boxes import iou
from perception_r1.errors import DataError
from perception_r1.types import Frame

KINDS = ("norm1000", "resized", "original", "unit")
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
frames = st.builds(Frame, st.sampled_from(KINDS), sizes, sizes)


@st.composite
def boxes_in_frames(draw: st.DrawFn) -> tuple[tuple[float, float, float, float], Frame]:
    frame = draw(frames)
    width, height = frame.image_size
    x1, y1 = draw(st.floats(0, width * 0.999)), draw(st.floats(0, height * 0.999))
    x2 = draw(st.floats(x1 + 1e-4, width))
    y2 = draw(st.floats(y1 + 1e-4, height))
    return (x1, y1, x2, y2), frame


def test_by_hand() -> None:
    size = (640, 480)
    box = (64.0, 48.0, 320.0, 480.0)
    assert coords.from_image_box(box, Frame("norm1000", size)) == pytest.approx((100, 100, 500, 1000))
    assert coords.from_image_box(box, Frame("unit", size)) == pytest.approx((0.1, 0.1, 0.5, 1.0))
    assert coords.from_image_box(box, Frame("original", size)) == box
    assert coords.from_image_box(box, Frame("resized", size, (320, 960))) == pytest.approx((32, 96, 160, 960))
    assert coords.to_image_point((500, 250), Frame("norm1000", size)) == (320, 120)
    assert coords.to_image_point((0.5, 0.25), Frame("unit", size)) == (320, 120)


def test_resized_needs_the_size_that_the_model_sees() -> None:
    with pytest.raises(DataError, match="model_width"):
        coords.to_image_box((0, 0, 1, 1), Frame("resized", (640, 480)))


@given(boxes_in_frames())
def test_there_and_back(case: tuple[tuple[float, float, float, float], Frame]) -> None:
    box, frame = case
    back = coords.to_image_box(coords.from_image_box(box, frame), frame)
    assert back == pytest.approx(box, rel=1e-9, abs=1e-9)
    x, y = coords.to_image_point(coords.from_image_point(box[:2], frame), frame)
    assert (x, y) == pytest.approx(box[:2], rel=1e-9, abs=1e-9)


@given(boxes_in_frames())
def test_rounding_costs_at_most_one_unit_a_side(case: tuple[tuple[float, float, float, float], Frame]) -> None:
    """IoU ≥ (1 − u_x/w)(1 − u_y/h), u being one unit of the frame in original pixels."""
    box, frame = case
    written = coords.round_box(coords.from_image_box(box, frame), frame)
    unit_x, unit_y = coords.units(frame)
    width, height = box[2] - box[0], box[3] - box[1]
    bound = max(0.0, 1 - unit_x / width) * max(0.0, 1 - unit_y / height)
    assert iou(coords.to_image_box(written, frame), box) >= bound - 1e-9


@given(boxes_in_frames())
def test_rounding_never_collapses_a_box_nor_leaves_the_image(
    case: tuple[tuple[float, float, float, float], Frame],
) -> None:
    box, frame = case
    x1, y1, x2, y2 = coords.round_box(coords.from_image_box(box, frame), frame)
    assert x2 > x1
    assert y2 > y1
    limit_x, limit_y = coords.limits(frame)
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= limit_x + 1e-9
    assert y2 <= limit_y + 1e-9
    if frame.kind != "unit":
        assert all(isinstance(value, int) for value in (x1, y1, x2, y2))


def test_thin_boxes_become_the_unit_they_lie_in() -> None:
    frame = Frame("norm1000", (640, 480))
    assert coords.round_box((10.2, 10.0, 10.4, 20.0), frame) == (10, 10, 11, 20)
    assert coords.round_box((999.6, 0, 999.9, 20), frame) == (999, 0, 1000, 20)
    assert coords.round_box((1000, 0, 1000, 20), frame) == (1000, 0, 1000, 20)  # no area before, none after
