"""Which prediction goes with which target: computed once an answer, read by every component of its reward.

`assign` pairs up a score matrix; the ``match_*`` functions make the matrix of one way to compare and give a `Match`.
P predictions are always all entries of the answer, unusable ones (None) included, so that indices are those of
``Parsed.objects``; M is the number of targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from perception_r1.core.geometry import FloatArray, distance_matrix, giou_matrix, iou, iou_matrix
from perception_r1.types import XY, XYXY, Match

Matching: TypeAlias = Literal["hungarian", "sequential", "greedy"]

NO_BOX: XYXY = (0.0, 0.0, 0.0, 0.0)
"""Stands for an unusable entry in a matrix: it overlaps nothing."""


def assign(scores: FloatArray, method: Matching = "hungarian") -> list[tuple[int, int]]:
    """Pair rows with columns, each at most once: min(P, M) pairs (row, column) by row.

    Args:
        scores: (P, M), higher is better, any sign.
        method: ``hungarian`` maximises the sum; ``greedy`` takes the best pair left, again and again; ``sequential``
            pairs the i-th row with the i-th column, whatever they say (PR1's ablation "without matching").

    Example:
        >>> scores = np.array([[0.9, 0.8], [0.8, 0.1]])
        >>> assign(scores), assign(scores, "greedy")
        ([(0, 1), (1, 0)], [(0, 0), (1, 1)])
    """
    n_pred, n_target = scores.shape
    if n_pred == 0 or n_target == 0:
        return []
    if method == "sequential":
        return [(index, index) for index in range(min(n_pred, n_target))]
    if method == "greedy":
        return _greedy(scores)
    from scipy.optimize import linear_sum_assignment  # half of the start-up time of `pr1 score`; often not needed

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def match_by_iou(
    pred_xyxy: Sequence[XYXY | None],
    target_xyxy: Sequence[XYXY],
    *,
    floor: float,
    method: Matching = "hungarian",
    pred_labels: Sequence[str | None] | None = None,
    target_labels: Sequence[str] = (),
) -> Match:
    """Pairs that maximise Σφ, where φ is the IoU if it reaches the floor and the labels agree, else 0.

    Args:
        pred_xyxy: P boxes, None where unusable.
        target_xyxy: M boxes in the same space.
        floor: smallest IoU that counts as having found something.
        method: see `assign`.
        pred_labels: P labels, compared after `normal_label`; a missing one agrees with nothing. None: labels ignored.
        target_labels: M labels; empty where the targets have none (labels are then ignored).
    """
    n_pred, n_target = len(pred_xyxy), len(target_xyxy)
    labelled = pred_labels is not None and bool(target_labels)
    if n_pred == 1 and n_target == 1:  # most answers to a referring expression: no need for numpy
        box = pred_xyxy[0]
        overlap = 0.0 if box is None else iou(box, target_xyxy[0])
        if overlap < floor or overlap <= 0 or (labelled and not same_label(pred_labels[0], target_labels[0])):  # type: ignore[index]
            return Match(unmatched_pred=(0,), unmatched_target=(0,))
        return Match(((0, 0),), (overlap,), (overlap,))
    if n_pred == 0 or n_target == 0:
        return Match(unmatched_pred=tuple(range(n_pred)), unmatched_target=tuple(range(n_target)))
    ious = iou_matrix([NO_BOX if box is None else box for box in pred_xyxy], target_xyxy)
    keep = ious >= floor
    if labelled:
        codes = {normal_label(label): code for code, label in enumerate(target_labels)}
        found = [codes.get(normal_label(label), -1) if label else -1 for label in pred_labels or ()]
        wanted = [codes[normal_label(label)] for label in target_labels]
        keep &= np.array(found)[:, None] == np.array(wanted)
    phi = np.where(keep, ious, 0.0)
    pairs = assign(phi, method)
    return _match(pairs, ious, phi, n_pred, n_target)


def match_by_distance(
    pred_xy: Sequence[XY | None], target_xy: Sequence[XY], tolerances: Sequence[float], method: Matching = "hungarian"
) -> Match:
    """Pairs that maximise Σφ for points, where φ is `nearness` with each target's own tolerance; ``ious`` are 0."""
    n_pred, n_target = len(pred_xy), len(target_xy)
    if n_pred == 0 or n_target == 0:
        return Match(unmatched_pred=tuple(range(n_pred)), unmatched_target=tuple(range(n_target)))
    distances = distance_matrix([(np.inf, np.inf) if point is None else point for point in pred_xy], target_xy)
    phi = np.clip(2.0 - 2.0 * distances / np.asarray(tolerances), 0.0, 1.0)
    return _match(assign(phi, method), np.zeros_like(phi), phi, n_pred, n_target)


def match_detr(
    pred_xyxy: Sequence[XYXY | None],
    target_xyxy: Sequence[XYXY],
    same_label: Sequence[Sequence[bool]],
    *,
    threshold: float = 0.5,
    n_classes: int = 90,
    method: Matching = "hungarian",
) -> Match:
    """PR1's released matching: least DETR cost (Carion et al., 2020), then only pairs with IoU > ``threshold`` stay.

    Cost: 5 · L1 of (cx, cy, w, h) + 1 · class + 2 · GIoU, where class is −softmax of a one-hot vector of ``n_classes``.
    Boxes are in pixels (of the resized image), so L1 is in the hundreds and swamps the other two: a known flaw, kept.
    A second one is not: the released code compares class indices that are off by one, worth 0.02 beside the L1.

    Args:
        pred_xyxy: P boxes; None for entries that take no part.
        target_xyxy: M boxes.
        same_label: (P, M).
    """
    usable = [index for index, box in enumerate(pred_xyxy) if box is not None]
    n_pred, n_target = len(pred_xyxy), len(target_xyxy)
    if not usable or not n_target:
        return Match(unmatched_pred=tuple(range(n_pred)), unmatched_target=tuple(range(n_target)))
    pred = np.array([pred_xyxy[index] for index in usable], dtype=np.float64)
    target = np.array(target_xyxy, dtype=np.float64)
    agree = np.array([same_label[index] for index in usable])
    peak = math.e / (math.e + n_classes - 1)
    class_score = np.where(agree, peak, peak / math.e)
    l1 = np.abs(_cxcywh(pred)[:, None, :] - _cxcywh(target)[None, :, :]).sum(-1)
    ious = iou_matrix(pred, target)
    pairs = assign(2 * giou_matrix(pred, target) + class_score - 5 * l1, method)
    kept = [(row, column) for row, column in pairs if ious[row, column] > threshold]
    matched = _match(kept, ious, ious, len(usable), n_target)
    taken = {usable[row] for row, _ in matched.pairs}
    return Match(
        tuple((usable[row], column) for row, column in matched.pairs),
        matched.ious,
        matched.phi,
        tuple(index for index in range(n_pred) if index not in taken),
        matched.unmatched_target,
    )


def match_by_l2(pred_xy: Sequence[XY | None], target_xy: Sequence[XY], scale: float, method: Matching) -> Match:
    """PR1's released matching of counting: least total L2, however far. φ = 1 − distance / ``scale``, also below 0."""
    usable = [index for index, point in enumerate(pred_xy) if point is not None]
    n_pred, n_target = len(pred_xy), len(target_xy)
    if not usable or not n_target:
        return Match(unmatched_pred=tuple(range(n_pred)), unmatched_target=tuple(range(n_target)))
    distances = distance_matrix([point for point in pred_xy if point is not None], target_xy)
    pairs = assign(-distances, method)
    taken, reached = {usable[row] for row, _ in pairs}, {column for _, column in pairs}
    return Match(
        tuple((usable[row], column) for row, column in pairs),
        (0.0,) * len(pairs),
        tuple(1.0 - float(distances[row, column]) / scale for row, column in pairs),
        tuple(index for index in range(n_pred) if index not in taken),
        tuple(index for index in range(n_target) if index not in reached),
    )


def nearness(distance: float, tolerance: float) -> float:
    """1 up to half the tolerance, falling in a straight line to 0 at the tolerance.

    Example:
        >>> nearness(5, 10), nearness(7.5, 10), nearness(10, 10)
        (1.0, 0.5, 0.0)
    """
    return min(1.0, max(0.0, 2.0 - 2.0 * distance / tolerance))


@lru_cache(maxsize=65536)
def normal_label(label: str) -> str:
    """A label as it is compared: case and runs of white space do not matter.

    Example:
        >>> normal_label("  Traffic   LIGHT ")
        'traffic light'
    """
    return " ".join(label.casefold().split())


def same_label(label: str | None, target: str) -> bool:
    """Whether a predicted label names the target's class; a missing label names none.

    Example:
        >>> same_label("Traffic  light", "traffic light"), same_label(None, "cat")
        (True, False)
    """
    return label is not None and normal_label(label) == normal_label(target)


def _greedy(scores: FloatArray) -> list[tuple[int, int]]:
    n_pred, n_target = scores.shape
    rows, columns, pairs = set(range(n_pred)), set(range(n_target)), []
    for index in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(index, n_target)
        if row in rows and column in columns:
            rows.remove(row)
            columns.remove(column)
            pairs.append((row, column))
            if not rows or not columns:
                break
    return sorted(pairs)


def _match(pairs: list[tuple[int, int]], ious: FloatArray, phi: FloatArray, n_pred: int, n_target: int) -> Match:
    """A `Match` of the pairs with φ > 0."""
    kept = [pair for pair in pairs if phi.item(pair) > 0.0]
    left, right = set(range(n_pred)), set(range(n_target))
    left.difference_update([row for row, _ in kept])
    right.difference_update([column for _, column in kept])
    return Match(
        tuple(kept),
        tuple([ious.item(pair) for pair in kept]),
        tuple([phi.item(pair) for pair in kept]),
        tuple(sorted(left)),
        tuple(sorted(right)),
    )


def _cxcywh(boxes: FloatArray) -> FloatArray:
    return np.column_stack(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]))
