"""Assignment: parity with brute force, the ablations, labels and the released matchings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_r1.boxes import (
    assign,
    match_by_distance,
    match_by_iou,
    nearness,
)
from perception_r1.rewards.released import match_by_l2, match_detr
from perception_r1.text import normal_label

matrices = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-5, 5, allow_nan=False))
)


def brute_force(scores: np.ndarray) -> float:
    if scores.shape[0] > scores.shape[1]:
        scores = scores.T
    rows, columns = scores.shape
    return max(sum(scores[r, c] for r, c in enumerate(p)) for p in itertools.permutations(range(columns), rows))


@given(matrices)
def test_hungarian_is_the_best_assignment(scores: np.ndarray) -> None:
    pairs = assign(scores)
    assert len(pairs) == min(scores.shape)
    assert len({p for p, _ in pairs}) == len({m for _, m in pairs}) == len(pairs)
    assert sum(scores[pair] for pair in pairs) == pytest.approx(brute_force(scores), abs=1e-9)


@given(matrices)
def test_greedy_is_a_matching_and_never_better(scores: np.ndarray) -> None:
    pairs = assign(scores, "greedy")
    assert len(pairs) == min(scores.shape)
    assert len({p for p, _ in pairs}) == len({m for _, m in pairs}) == len(pairs)
    assert scores.max() == max(scores[pair] for pair in pairs)
    assert sum(scores[pair] for pair in pairs) <= brute_force(scores) + 1e-9


def test_the_three_methods_differ() -> None:
    scores = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]])
    assert assign(scores) == [(0, 1), (1, 0)]
    assert assign(scores, "greedy") == [(0, 0), (1, 1)]
    assert assign(scores, "sequential") == [(0, 0), (1, 1)]
    assert assign(np.zeros((0, 3))) == assign(np.zeros((2, 0)), "greedy") == []


def test_floor_and_indices() -> None:
    a, b, far = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    shifted = (5.0, 0.0, 15.0, 10.0)  # IoU 1/3 with a
    match = match_by_iou([far, None, b, shifted], [a, b], floor=0.3)
    assert match.pairs == ((2, 1), (3, 0))
    assert match.ious == pytest.approx((1, 1 / 3))
    assert match.phi == match.ious
    assert match.unmatched_pred == (0, 1)
    assert match.unmatched_target == ()
    assert match_by_iou([shifted], [a], floor=0.34).pairs == ()
    assert match_by_iou([shifted, far], [a], floor=0.34).pairs == ()
    assert match_by_iou([], [a], floor=0.1).unmatched_target == (0,)


def test_labels_decide() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    for labels, pairs in [
        (("Cat", None), ((0, 0),)),
        ((None, " cat "), ((1, 0),)),
        (("dog", "cats"), ()),
        ((None, None), ()),
    ]:
        found = match_by_iou([box, box], [box], floor=0.1, pred_labels=labels, target_labels=("cat",))
        assert found.pairs == pairs
    assert match_by_iou([box], [box], floor=0.1, pred_labels=["dog"], target_labels=("cat",)).pairs == ()
    assert match_by_iou([box], [box], floor=0.1, pred_labels=[None], target_labels=("cat",)).pairs == ()
    assert match_by_iou([box], [box], floor=0.1, pred_labels=["dog"], target_labels=()).pairs == ((0, 0),)
    assert normal_label(" Traffic\n light") == normal_label("traffic  LIGHT")


def test_a_label_may_cost_a_better_box() -> None:
    """Two cats and a dog in one place: the assignment uses the labels, not the order."""
    box = (0.0, 0.0, 10.0, 10.0)
    match = match_by_iou(
        [box, box, box],
        [box, box, box],
        floor=0.1,
        pred_labels=["dog", "cat", "cat"],
        target_labels=("cat", "dog", "cat"),
    )
    assert len(match.pairs) == 3
    assert (0, 1) in match.pairs


def test_nearness() -> None:
    assert [nearness(d, 8) for d in (0, 4, 5, 6, 8, 100)] == [1, 1, 0.75, 0.5, 0, 0]
    match = match_by_distance([(0, 0), None, (100, 5)], [(100, 0), (0, 0)], (8.0, 8.0))
    assert match.pairs == ((0, 1), (2, 0))
    assert match.phi == pytest.approx((1, 0.75))
    assert match.unmatched_pred == (1,)


def test_l2_keeps_every_pair_however_far() -> None:
    match = match_by_l2([None, (0, 0), (1000, 1000)], [(1000, 1000)], 1000 * math.sqrt(2), "hungarian")
    assert match.pairs == ((2, 0),)
    assert match.phi == (1,)
    match = match_by_l2([(0, 0)], [(1000, 1000)], 1000 * math.sqrt(2), "hungarian")
    assert match.phi == pytest.approx((0,))


def test_detr_in_pixels_prefers_near_over_overlapping() -> None:
    """The flaw that is kept: 5 · L1 in pixels decides alone, so a matching of more total overlap loses."""
    target = [(0.0, 0.0, 100.0, 100.0), (100.0, 0.0, 200.0, 100.0)]
    pred = [(0.0, 0.0, 100.0, 100.0), (100.0, 0.0, 200.0, 100.0)]
    same = [[True, False], [False, True]]
    assert match_detr(pred, target, same).pairs == ((0, 0), (1, 1))
    assert match_detr(pred[::-1], target, same).pairs == ((0, 1), (1, 0))  # labels wrong, places right
    assert match_detr([None, (0.0, 0.0, 100.0, 51.0)], target, same).pairs == ((1, 0),)
    assert match_detr([None, (0.0, 0.0, 100.0, 50.0)], target, same).pairs == ()  # IoU must be over 0.5
    assert match_detr([None], target, [[True, True]]).unmatched_pred == (0,)


def test_detr_cost_by_hand() -> None:
    """Two predictions for one target at the same L1: the label decides, and its weight is softmax of a one-hot."""
    target = [(10.0, 10.0, 110.0, 110.0)]
    pred = [(12.0, 10.0, 112.0, 110.0), (8.0, 10.0, 108.0, 110.0)]  # L1 of 2 each, the same GIoU
    assert match_detr(pred, target, [[False], [True]]).pairs == ((1, 0),)
    assert match_detr(pred, target, [[True], [False]]).pairs == ((0, 0),)
