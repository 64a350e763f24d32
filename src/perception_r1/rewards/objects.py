"""Rewards of boxes and points: the score of places, the count, their matchers, and the sentence that says why.

An answer that was cut at the token limit is scored on what it listed before the cut and is charged one extra prediction
(its unfinished entry, or the one it was about to begin). "Entries" are everything that the answer lists, usable or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from perception_r1.boxes import assign, center, distance_matrix, iou_matrix, match_by_distance, match_by_iou
from perception_r1.errors import DataError
from perception_r1.rewards.base import Context, Option, is_share
from perception_r1.text import same_label
from perception_r1.types import XY, XYXY, BoxTarget, CountTarget, Match, PointTarget, RewardRecord, Sample

SAME_POINT = 0.001
"""Two points nearer than this share of the image's diagonal are one point: about one unit of a 0..1000 frame."""
LEAST_TOLERANCE = 2 * SAME_POINT
"""As a share of the diagonal: full reward then reaches at least as far as the rounding of a 0..1000 frame."""

_MOST_COMPARED = 1000
"""With more entries than this an answer is not searched for copies (memory is quadratic); all then count against it."""

FLOOR = Option(is_share, "the smallest IoU that counts, 0 to 1")
SAME_IOU = Option(is_share, "the IoU from which two boxes are one, 0 to 1")
POINT_CAP = Option(
    lambda value: is_share(value) and value > 0,
    "the largest tolerance of a point, as a share of the image's diagonal, over 0 and up to 1",
)


def match_places(ctx: Context) -> Match:
    """Pair boxes by IoU, or points by nearness, labels ignored; where only the number is known nothing is paired.

    Raises:
        DataError: the target has no objects.
    """
    return _match(ctx, labelled=False)


def match_labelled(ctx: Context) -> Match:
    """Pair boxes by IoU where the labels agree.

    Raises:
        DataError: the target has no objects.
    """
    return _match(ctx, labelled=True)


def _match(ctx: Context, *, labelled: bool) -> Match:
    target, entries, options = ctx.sample.target, ctx.parsed.objects, ctx.reward.options
    pred_labels = [entry.label for entry in entries] if labelled else None
    target_labels = target.labels if labelled and isinstance(target, (BoxTarget, PointTarget)) else ()
    if isinstance(target, BoxTarget):
        match = match_by_iou(
            ctx.pred_xyxy,
            target.boxes_xyxy,
            floor=options.get("floor", 0.0),
            method=ctx.reward.matching,
            pred_labels=pred_labels,
            target_labels=target_labels,
        )
    elif isinstance(target, PointTarget):
        tolerances = point_tolerances(target.points_xy, diagonal(ctx.sample), options.get("point_cap", 1.0))
        match = match_by_distance(
            centers(ctx), target.points_xy, tolerances, ctx.reward.matching, pred_labels, target_labels
        )
    elif isinstance(target, CountTarget):
        match = Match(unmatched_pred=tuple(range(len(entries))), n_pred=len(entries), n_target=target.count)
    else:
        raise DataError(
            f"sample {ctx.sample.id!r}: task {ctx.sample.task!r} cannot be scored against {type(target).__name__}"
        )
    return charge_truncation(ctx, match)


def charge_truncation(ctx: Context, match: Match) -> Match:
    """Charge a truncated answer one extra prediction, unless its last entry already stands for the cut."""
    if ctx.parsed.status == "truncated" and all(entry.issue != "truncated" for entry in ctx.parsed.objects):
        return replace(match, n_pred=match.n_pred + 1)
    return match


def centers(ctx: Context) -> list[XY | None]:
    """Where each entry is: the centre of its box, or its point; P entries in original-image pixels."""
    return [
        center(box) if box is not None else point for box, point in zip(ctx.pred_xyxy, ctx.pred_points, strict=True)
    ]


def matched(ctx: Context) -> float | None:
    """2 · Σφ / (n_pred + n_target), in [0, 1]: what was found, shared among everything said and everything there.

    φ is 0 below the floor and for a wrong label, so an entry that finds nothing only adds to n_pred. One more entry
    pays exactly when its φ is more than half of the score so far. With nothing to find: 1 for an explicit empty answer,
    else 0. Does not apply where only the number of objects is known.

    Example: 3 targets, 2 predictions, one with IoU 0.8: 2 · 0.8 / (2 + 3) = 0.32.
    """
    if isinstance(ctx.sample.target, CountTarget):
        return None
    if ctx.match.n_target == 0:
        return 1.0 if ctx.parsed.status == "empty" else 0.0
    return min(1.0, 2.0 * math.fsum(ctx.match.phi) / (ctx.match.n_pred + ctx.match.n_target))


def count(ctx: Context) -> float:
    """min(n, n_target) / max(n + unusable, n_target), n being the number of *different* usable entries; in [0, 1].

    Boxes with IoU ≥ ``same_iou``, or points nearer than `SAME_POINT`, are one object, directly or through others. Such
    a group counts as many as it has members, but at most max(1, targets that coincide with it in the same sense), so
    that repeating a box does not count and two targets in one place do. An entry with a box and a point is one, its
    box. Where only the number is known, nothing else charges for copies, so they count against it as unusable entries
    do. With nothing to find: 1 for an explicit empty answer, else 0.

    Example: 4 targets; 5 entries, of which two are the same box and one is unusable: min(3, 4) / max(3 + 1, 4) = 0.75.
    """
    if ctx.match.n_target == 0:
        return 1.0 if ctx.parsed.status == "empty" else 0.0
    boxes = [box for box in ctx.pred_xyxy if box is not None]
    points = [
        point for box, point in zip(ctx.pred_xyxy, ctx.pred_points, strict=True) if point is not None and box is None
    ]
    found = _different_boxes(boxes, ctx) + _different_points(points, ctx)
    said = (
        ctx.match.n_pred
        if isinstance(ctx.sample.target, CountTarget)
        else found + ctx.match.n_pred - len(boxes) - len(points)
    )
    return min(found, ctx.match.n_target) / max(said, ctx.match.n_target)


@lru_cache(maxsize=4096)
def point_tolerances(points: tuple[XY, ...], diagonal_px: float, cap: float) -> tuple[float, ...]:
    """How far a prediction may lie from each click to find it, in pixels.

    Half the distance to the nearest other click (clicks in the same place do not count as other), at most ``cap`` of
    the image's diagonal, since an object that stands alone has no neighbour to measure by, and at least
    `LEAST_TOLERANCE` of it. Full reward reaches half as far.

    Example:
        >>> point_tolerances(((0, 0), (100, 0), (400, 0)), 1000, 0.1)
        (50.0, 50.0, 100.0)
    """
    same, low, high = SAME_POINT * diagonal_px, LEAST_TOLERANCE * diagonal_px, cap * diagonal_px
    found = []
    for x, y in points:
        distances = (math.hypot(x - other_x, y - other_y) for other_x, other_y in points)
        nearest = min((distance for distance in distances if distance > same), default=math.inf)
        found.append(max(low, min(high, nearest / 2)))
    return tuple(found)


def hits(
    sample: Sample, record: RewardRecord, threshold: float = 0.5, *, labelled: bool = False
) -> tuple[tuple[int, int], ...]:
    """Find the most one-to-one pairs (prediction, target) with IoU ≥ ``threshold``.

    Metrics count them and pictures draw them. The record's own pairs are not used: they depend on the preset (PR1's
    are class-agnostic).

    Args:
        sample: with a `BoxTarget`; any other target has no hits.
        record: of an answer to it; indices of predictions are those of ``record.pred_xyxy``.
        threshold: smallest IoU of a hit.
        labelled: whether the labels must agree.
    """
    target_xyxy = sample.target.boxes_xyxy if isinstance(sample.target, BoxTarget) else ()
    usable = [(index, box) for index, box in enumerate(record.pred_xyxy) if box is not None]
    if not target_xyxy or not usable:
        return ()
    pred = [index for index, _ in usable]
    iou_pm = iou_matrix([box for _, box in usable], target_xyxy)
    hit_pm = iou_pm >= threshold
    if labelled and isinstance(sample.target, BoxTarget) and sample.target.labels:
        labels = record.pred_labels or (None,) * len(record.pred_xyxy)
        hit_pm &= np.array([[same_label(labels[p], name) for name in sample.target.labels] for p in pred], dtype=bool)
    # 1 a pair makes the number of pairs what is maximised; the IoU only breaks ties.
    pairs = assign(hit_pm * (1.0 + 1e-3 * iou_pm))
    return tuple((pred[p], m) for p, m in pairs if hit_pm[p, m])


def labels_of(sample: Sample) -> tuple[str, ...]:
    """Labels of the target's boxes, parallel to them; empty where it has none."""
    return sample.target.labels if isinstance(sample.target, BoxTarget) else ()


def diagonal(sample: Sample) -> float:
    """Diagonal of the original image in pixels."""
    width, height = sample.image_size or (1, 1)
    return math.hypot(width, height)


def _different_boxes(boxes: Sequence[XYXY], ctx: Context) -> int:
    if len(boxes) < 2 or len(boxes) > _MOST_COMPARED:
        return len(boxes)
    same_iou = ctx.reward.options.get("same_iou", 0.95)
    same = iou_matrix(boxes, boxes) >= same_iou
    if int(same.sum()) == len(boxes):
        return len(boxes)
    target = ctx.sample.target
    if isinstance(target, BoxTarget):
        on_target = iou_matrix(boxes, target.boxes_xyxy) >= same_iou
    elif isinstance(target, PointTarget):
        centers = [center(box) for box in boxes]
        on_target = distance_matrix(centers, target.points_xy) <= SAME_POINT * diagonal(ctx.sample)
    else:
        on_target = None
    return _count_groups(same.tolist(), None if on_target is None else on_target.tolist())


def _different_points(points: Sequence[XY], ctx: Context) -> int:
    if len(points) < 2 or len(points) > _MOST_COMPARED:
        return len(points)
    tiny = SAME_POINT * diagonal(ctx.sample)
    same = distance_matrix(points, points) <= tiny
    if int(same.sum()) == len(points):
        return len(points)
    target = ctx.sample.target
    on_target = distance_matrix(points, target.points_xy) <= tiny if isinstance(target, PointTarget) else None
    return _count_groups(same.tolist(), None if on_target is None else on_target.tolist())


def _count_groups(same: list[list[bool]], on_target: list[list[bool]] | None) -> int:
    """Connected components of ``same`` (P, P), each worth min(size, max(1, targets that its members are on)).

    ``on_target`` is (P, M), or None where targets have no places.
    """
    left, total = set(range(len(same))), 0
    while left:
        stack = [left.pop()]
        members = []
        while stack:
            index = stack.pop()
            members.append(index)
            near = {other for other in left if same[index][other]}
            left -= near
            stack.extend(near)
        reached = 0
        if on_target is not None:
            reached = sum(any(column) for column in zip(*(on_target[index] for index in members), strict=True))
        total += min(len(members), max(1, reached))
    return total


ISSUES = {
    "inverted": "inverted corners",
    "degenerate": "no area",
    "numbers": "wrong number of coordinates",
    "non_numeric": "something that is not a number",
    "runaway": "run-away digits",
    "unclosed": "an unclosed bracket",
    "missing": "no coordinates",
    "yxyx": "y before x (box_2d)",
    "truncated": "cut off",
    "think_missing": "no <think> block",
    "think_duplicate": "more than one <think> block",
    "think_unclosed": "the <think> block never ends",
    "answer_missing": "no <answer> block",
    "answer_duplicate": "more than one <answer> block",
    "answer_unclosed": "the <answer> block never ends",
    "blocks_order": "<think> and <answer> blocks in the wrong order",
    "foreign": "another model family's coordinates",
}


def objects_reason(ctx: Context) -> str:
    """Why an answer of boxes or points scored so."""
    parsed = ctx.parsed
    n_target, n_pairs = ctx.match.n_target, len(ctx.match.pairs)
    if parsed.status == "malformed":
        return f"unreadable: {issues_text(parsed.issues) or 'no box, point or explicit empty answer'}"
    if parsed.status == "empty":
        return "rightly says that nothing is there" if n_target == 0 else f"says that nothing is there; {n_target} are"
    if not parsed.objects:
        return f"cut off before any box{': ' + issues_text(parsed.issues) if parsed.issues else ''}"
    target = ctx.sample.target
    if n_target == 0:
        text = f"nothing to find, but {_counted(len(parsed.objects), 'entry', 'entries')} given"
    elif isinstance(target, CountTarget):
        text = f"lists {len(parsed.objects)}; {n_target} are there"
    elif n_pairs == n_target == len(parsed.objects) == 1 and ctx.match.ious[0] > 0:
        text = f"found with IoU {ctx.match.ious[0]:.2f}"
    else:
        kind = "point" if isinstance(target, PointTarget) else "box"
        text = f"{n_pairs} of {_counted(n_target, kind, kind + 's' if kind == 'point' else 'boxes')} matched"
        extra = len(parsed.objects) - n_pairs
        if n_target > n_pairs:
            text += f"; {_counted(n_target - n_pairs, 'target', 'targets')} missed"
        if extra:
            text += f"; {_counted(extra, 'entry', 'entries')} without a target"
    if parsed.issues:
        for index, entry in enumerate(parsed.objects):
            if entry.issue is not None:
                text += f"; entry {index + 1}: {ISSUES.get(entry.issue, entry.issue)}"
                break
    return text + "; cut off at the token limit" if parsed.status == "truncated" else text


def issues_text(codes: tuple[str, ...]) -> str:
    """Issue codes in words."""
    return ", ".join(ISSUES.get(code, code) for code in codes)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
