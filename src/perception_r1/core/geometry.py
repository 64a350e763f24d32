"""Boxes: areas, centres, IoU and generalised IoU.

A box is (x1, y1, x2, y2), x to the right and y down; it is proper when x2 > x1 and y2 > y1. A degenerate or inverted
box overlaps nothing, so its IoU with anything, itself included, is 0. This is the only IoU of the project.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_r1.types import XY, XYXY

FloatArray = NDArray[np.float64]


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
