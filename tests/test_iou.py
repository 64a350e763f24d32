"""IoU and generalised IoU: numbers by hand, properties, and parity of the scalar and the matrix forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.boxes import area, center, distance_matrix, giou_matrix, iou, iou_matrix
from perception_r1.types import XYXY

finite = st.floats(-1000, 1000, allow_nan=False)
any_boxes = st.tuples(finite, finite, finite, finite)


def test_iou_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (2, 2, 4, 4)) == pytest.approx(4 / 100)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0  # they touch


def test_small_boxes_are_boxes() -> None:
    """Peers add one pixel to each side, so that equal boxes in 0..1 coordinates get a wrong IoU."""
    assert iou((0.1, 0.1, 0.2, 0.3), (0.1, 0.1, 0.2, 0.3)) == 1


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (5, 5, 9, 5), (9, 9, 1, 1), (9, 1, 1, 9)])
def test_degenerate_and_inverted_boxes_overlap_nothing(box: XYXY) -> None:
    whole = (0.0, 0.0, 10.0, 10.0)
    assert iou(box, box) == iou(box, whole) == iou(whole, box) == 0
    assert iou_matrix([box, whole], [box, whole]).tolist() == [[0, 0], [0, 1]]
    assert area(box) == 0


def test_numbers_too_large_give_zero_not_nan() -> None:
    huge = (-1e308, -1e308, 1e308, 1e308)
    assert iou(huge, huge) == 0
    with np.errstate(all="ignore"):
        assert iou_matrix([huge], [huge]).tolist() == [[0]]


def test_area_and_center() -> None:
    assert area((1, 2, 4, 6)) == 12
    assert center((1, 2, 4, 6)) == (2.5, 4)


@given(any_boxes, any_boxes)
def test_iou_is_symmetric_and_in_0_1(a: XYXY, b: XYXY) -> None:
    assert 0 <= iou(a, b) <= 1 + 1e-12
    assert iou(a, b) == iou(b, a)


@given(st.lists(any_boxes, max_size=6), st.lists(any_boxes, max_size=6))
def test_matrix_equals_scalar_bit_for_bit(pred: list[XYXY], target: list[XYXY]) -> None:
    matrix = iou_matrix(pred, target)
    assert matrix.shape == (len(pred), len(target))
    assert matrix.tolist() == [[iou(a, b) for b in target] for a in pred]


def slow_giou(a: XYXY, b: XYXY) -> float:
    """The definition, for proper boxes."""
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = area(a) + area(b) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull


proper = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), finite, finite, st.floats(0.01, 500), st.floats(0.01, 500))


@given(st.lists(proper, min_size=1, max_size=5), st.lists(proper, min_size=1, max_size=5))
def test_giou_against_its_definition(pred: list[XYXY], target: list[XYXY]) -> None:
    expected = [[slow_giou(a, b) for b in target] for a in pred]
    np.testing.assert_allclose(giou_matrix(pred, target), expected, atol=1e-9)


def test_giou_by_hand() -> None:
    # Unit squares one apart: IoU 0, hull 3, union 2.
    assert giou_matrix([(0, 0, 1, 1)], [(2, 0, 3, 1)])[0, 0] == pytest.approx(-1 / 3)
    assert giou_matrix([(5, 5, 5, 5)], [(5, 5, 5, 5)])[0, 0] == 0


def test_distances() -> None:
    assert distance_matrix([(0, 0), (3, 4)], [(0, 0)]).tolist() == [[0], [5]]
    assert distance_matrix([], [(0, 0)]).shape == (0, 1)
