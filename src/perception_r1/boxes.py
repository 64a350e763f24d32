"""Everything that two boxes can do to each other: frames, IoU, distances, matching.

A box is (x1, y1, x2, y2), x to the right and y down; it is proper when x2 > x1 and y2 > y1. A degenerate or inverted
box overlaps nothing, so its IoU with anything, itself included, is 0. This is the only IoU of the project.

Frames. Every frame maps to original-image pixels by one factor a side (no offset), so `scales` describes it fully.
Nothing is clipped: a box that a model writes outside the image stays outside and loses IoU by it.

Matching. `assign` pairs up a score matrix; the ``match_*`` functions make the matrix of one way to compare and give a
`Match`. P predictions are always all entries of the answer, unusable ones (None) included, so that indices are those of
``Parsed.objects``; M is the number of targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_r1.errors import DataError
from perception_r1.text import normal_label, same_label
from perception_r1.types import XY, XYXY, Frame, Match

FloatArray = NDArray[np.float64]
Matching: TypeAlias = Literal["hungarian", "sequential", "greedy"]

UNIT_DECIMALS = 4
"""Decimals written in the ``unit`` frame: one unit is a ten-thousandth of a side."""
NO_BOX: XYXY = (0.0, 0.0, 0.0, 0.0)
"""Stands for an unusable entry in a matrix: it overlaps nothing."""


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


def area(box: XYXY) -> float:
    """Area of a box, 0 when degenerate or inverted.

    Example:
        >>> area((0, 0, 4, 5)), area((4, 0, 0, 5))
        (20, 0.0)
    """
    width, height = box[2] - box[0], box[3] - box[1]
    return width * height if width > 0 and height > 0 else 0.0


def center(box: XYXY) -> XY:
    """Centre (x, y) of a box.

    Example:
        >>> center((0, 0, 4, 5))
        (2.0, 2.5)
    """
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def iou(a: XYXY, b: XYXY) -> float:
    """Intersection over union of two boxes in the same space, in [0, 1]; 0 when either is degenerate.

    Scalar Python: for one pair it is ten times faster than numpy, and bit for bit equal to `iou_matrix`.

    Example:
        >>> iou((0, 0, 2, 2), (1, 0, 3, 2))  # 2 / (4 + 4 - 2)
        0.3333333333333333
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    if width <= 0:
        return 0.0
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if height <= 0:
        return 0.0
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    return intersection / union if 0.0 < union < inf else 0.0


def iou_matrix(pred_xyxy: ArrayLike, target_xyxy: ArrayLike) -> FloatArray:
    """IoU of every prediction with every target.

    Args:
        pred_xyxy: (P, 4); P may be 0.
        target_xyxy: (M, 4) in the same space; M may be 0.

    Returns:
        (P, M) in [0, 1]; rows and columns of degenerate boxes are 0.
    """
    pred, target = _boxes(pred_xyxy), _boxes(target_xyxy)
    intersection, union = _overlaps(pred, target)
    overlap = intersection > 0.0
    overlap &= union < inf
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=overlap)


def giou_matrix(pred_xyxy: ArrayLike, target_xyxy: ArrayLike) -> FloatArray:
    """Generalised IoU (Rezatofighi et al., 2019): IoU − (hull − union) / hull.

    Args:
        pred_xyxy: (P, 4).
        target_xyxy: (M, 4) in the same space.

    Returns:
        (P, M) in [−1, 1]. Where the hull of two degenerate boxes has no area, 0.
    """
    pred, target = _boxes(pred_xyxy), _boxes(target_xyxy)
    intersection, union = _overlaps(pred, target)
    top_left = np.minimum(pred[:, None, :2], target[None, :, :2])
    bottom_right = np.maximum(pred[:, None, 2:], target[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0.0)
    hull = sides[..., 0] * sides[..., 1]
    iou_ = np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0.0)
    empty = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0.0)
    giou: FloatArray = iou_ - empty
    return giou


def distance_matrix(pred_xy: ArrayLike, target_xy: ArrayLike) -> FloatArray:
    """Euclidean distance of every predicted point to every target point: (P, 2) and (M, 2) give (P, M)."""
    pred = np.asarray(pred_xy, dtype=np.float64).reshape(-1, 2)
    target = np.asarray(target_xy, dtype=np.float64).reshape(-1, 2)
    delta = pred[:, None, :] - target[None, :, :]
    distances: FloatArray = np.hypot(delta[..., 0], delta[..., 1])
    return distances


def _boxes(boxes: ArrayLike) -> FloatArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _overlaps(pred: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intersection and union areas, (P, M) each; the same operations in the same order as `iou`.

    Column by column: for tens of boxes that is twice as fast as slicing (P, M, 2) arrays.
    """
    px1, py1, px2, py2 = np.ascontiguousarray(pred.T)[:, :, None]
    tx1, ty1, tx2, ty2 = np.ascontiguousarray(target.T)
    width = np.minimum(px2, tx2)
    width -= np.maximum(px1, tx1)
    height = np.minimum(py2, ty2)
    height -= np.maximum(py1, ty1)
    np.maximum(width, 0.0, out=width)
    np.maximum(height, 0.0, out=height)
    intersection: FloatArray = width * height
    pred_area = np.maximum(px2 - px1, 0.0) * np.maximum(py2 - py1, 0.0)
    target_area = np.maximum(tx2 - tx1, 0.0) * np.maximum(ty2 - ty1, 0.0)
    union: FloatArray = pred_area + target_area
    union -= intersection
    return intersection, union


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
            return no_pairs(1, 1)
        return Match(((0, 0),), (overlap,), (overlap,), n_pred=1, n_target=1)
    if n_pred == 0 or n_target == 0:
        return no_pairs(n_pred, n_target)
    ious = iou_matrix([NO_BOX if box is None else box for box in pred_xyxy], target_xyxy)
    agree = _labels_agree(pred_labels or (), target_labels) if labelled else None
    return match_matrix(ious, floor=floor, method=method, agree=agree)


def match_matrix(
    iou_pm: FloatArray, *, floor: float, method: Matching = "hungarian", agree: NDArray[np.bool_] | None = None
) -> Match:
    """Pairs that maximise Σφ, where φ is the IoU if it reaches the floor and ``agree`` allows the pair, else 0.

    Args:
        iou_pm: (P, M) IoUs.
        floor: smallest IoU that counts.
        method: see `assign`.
        agree: (P, M), whether the labels agree; None: every pair is allowed.
    """
    keep = iou_pm >= floor
    if agree is not None:
        keep &= agree
    phi = np.where(keep, iou_pm, 0.0)
    return match_of(assign(phi, method), iou_pm, phi, *iou_pm.shape)


def _labels_agree(pred_labels: Sequence[str | None], target_labels: Sequence[str]) -> NDArray[np.bool_]:
    """(P, M): whether the labels are the same; a missing one agrees with nothing."""
    codes = {normal_label(label): code for code, label in enumerate(target_labels)}
    pred = [codes.get(normal_label(label), -1) if label else -1 for label in pred_labels]
    target = [codes[normal_label(label)] for label in target_labels]
    agree: NDArray[np.bool_] = np.array(pred)[:, None] == np.array(target)
    return agree


def match_by_distance(
    pred_xy: Sequence[XY | None],
    target_xy: Sequence[XY],
    tolerances: Sequence[float],
    method: Matching = "hungarian",
    pred_labels: Sequence[str | None] | None = None,
    target_labels: Sequence[str] = (),
) -> Match:
    """Pairs that maximise Σφ for points, where φ is `nearness` with each target's own tolerance; ``ious`` are 0.

    Labels as in `match_by_iou`.
    """
    n_pred, n_target = len(pred_xy), len(target_xy)
    if n_pred == 0 or n_target == 0:
        return no_pairs(n_pred, n_target)
    distances = distance_matrix([(np.inf, np.inf) if point is None else point for point in pred_xy], target_xy)
    phi = np.clip(2.0 - 2.0 * distances / np.asarray(tolerances), 0.0, 1.0)
    if pred_labels is not None and target_labels:
        phi = np.where(_labels_agree(pred_labels, target_labels), phi, 0.0)
    return match_of(assign(phi, method), np.zeros_like(phi), phi, n_pred, n_target)


def nearness(distance: float, tolerance: float) -> float:
    """1 up to half the tolerance, falling in a straight line to 0 at the tolerance.

    Example:
        >>> nearness(5, 10), nearness(7.5, 10), nearness(10, 10)
        (1.0, 0.5, 0.0)
    """
    return min(1.0, max(0.0, 2.0 - 2.0 * distance / tolerance))


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


def match_of(pairs: list[tuple[int, int]], ious: FloatArray, phi: FloatArray, n_pred: int, n_target: int) -> Match:
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
        n_pred,
        n_target,
    )


def no_pairs(n_pred: int, n_target: int) -> Match:
    """A `Match` in which nothing is paired."""
    return Match((), (), (), tuple(range(n_pred)), tuple(range(n_target)), n_pred, n_target)
