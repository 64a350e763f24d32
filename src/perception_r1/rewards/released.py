"""PR1's rewards as released, flaws included: the presets ``released`` of grounding, counting and detection.

Follows the code of linkangheng/PR1 (Yu et al., arXiv 2504.07954). Nothing of ours imports this file but the tasks.

=========  ==========================================================================================================
grounding  format + IoU² of the first box, in [0, 2]
counting   format (a gate) · min(n)/max(n) · (1 − mean matched L2 / (1000 √2)), in [0, 1]
detection  0.25 · format + 0.75 · F1 + cls + IoU − 0.5 · (FP/n_pred + FN/n_target), clamped to [0, 3]
=========  ==========================================================================================================

Known flaws are named where they arise. Besides: an image without objects never earns anything by saying so; recall
costs little (one perfect box of 20 scores 1.85 of 3); a copy of a box costs little. Where the released code divides by
zero or dies on an answer, the answer scores 0. Coordinates are read in the family's frame here too (the released code
multiplies a box without special tokens by 1000, so it silently scores 0).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perception_r1.boxes import (
    FloatArray,
    Matching,
    assign,
    center,
    distance_matrix,
    giou_matrix,
    iou_matrix,
    match_of,
    no_pairs,
)
from perception_r1.boxes import iou as box_iou
from perception_r1.errors import DataError
from perception_r1.rewards.base import Context
from perception_r1.rewards.objects import centers, charge_truncation, labels_of
from perception_r1.text import same_label
from perception_r1.types import XY, XYXY, BoxTarget, Match, PointTarget, Sample


def count_distance(ctx: Context) -> float:
    """PR1, released: min(n, n_target) / max(n, n_target) · (1 − mean matched L2 / (1000 √2)), L2 in the 0..1000 space.

    Known flaws: random places with the right number earn about 0.77, since the distance is measured against the whole
    diagonal; copies count; an image without objects scores 0 whatever is said.
    """
    if not ctx.match.pairs:
        return 0.0
    share = min(ctx.match.n_pred, ctx.match.n_target) / max(ctx.match.n_pred, ctx.match.n_target)
    return share * math.fsum(ctx.match.phi) / len(ctx.match.phi)


def iou(ctx: Context) -> float:
    """Mean IoU of the matched pairs, 0 without any."""
    return math.fsum(ctx.match.ious) / len(ctx.match.ious) if ctx.match.ious else 0.0


def iou2(ctx: Context) -> float:
    """Mean squared IoU of the matched pairs, 0 without any (PR1's released grounding reward)."""
    return math.fsum(value * value for value in ctx.match.ious) / len(ctx.match.ious) if ctx.match.ious else 0.0


def f1(ctx: Context) -> float:
    """2 · pairs / (n_pred + n_target): the F1 score of the matched pairs; 0 without any."""
    return 2.0 * len(ctx.match.pairs) / (ctx.match.n_pred + ctx.match.n_target) if ctx.match.pairs else 0.0


def cls(ctx: Context) -> float:
    """Share of the matched pairs whose labels agree; 0 without pairs."""
    if not ctx.match.pairs:
        return 0.0
    objects, labels = ctx.parsed.objects, labels_of(ctx.sample)
    if not labels:
        return 1.0
    right = sum(same_label(objects[p].label or "", labels[t]) for p, t in ctx.match.pairs)
    return right / len(ctx.match.pairs)


def missing(ctx: Context) -> float:
    """False positives / n_pred + false negatives / n_target, in [0, 2): to be weighed negatively; 0 without pairs."""
    pairs = len(ctx.match.pairs)
    return (
        (ctx.match.n_pred - pairs) / ctx.match.n_pred + (ctx.match.n_target - pairs) / ctx.match.n_target
        if pairs
        else 0.0
    )


def entry_share(ctx: Context) -> float:
    """Detection's format term: the share of entries with a readable box and a label that may be asked for."""
    objects = ctx.parsed.objects
    return len(released_entries(ctx)) / len(objects) if objects else 0.0


_RELEASED_STARTS = ("<", ">", "object_ref_start", "object_ref_end", "box_start", "box_end", "im_end")


def phrase_format(ctx: Context) -> float:
    """Grounding's format term, 0 or 1.

    For the special-token form this is what PR1's released pattern really accepts: its bars are not escaped, so it is a
    list of alternatives and ``<garbage`` scores 1. For other forms (the released code knows none): at least one usable
    entry. With thinking: the blocks and the answer in them are as asked.
    """
    if ctx.thinking:
        return float(ctx.parsed.format_ok)
    if ctx.answer_format == "qwen_ref_box":
        return float(ctx.completion.text.replace("<|endoftext|>", "").startswith(_RELEASED_STARTS))
    return float(any(entry.issue is None for entry in ctx.parsed.objects))


_BOX_LIST = re.compile(
    r"<\|object_ref_start\|>[^<]*+<\|object_ref_end\|>(?:<\|box_start\|>[^<]*+<\|box_end\|>)++(?=<\|im_end\|>|\s*+\Z)"
)


def list_format(ctx: Context) -> float:
    """Counting's format term, 0 or 1: one phrase, then at least one box, then the end of the answer.

    The released pattern wants the end token; here an answer whose end token was stripped is as good unless it was cut
    at the token limit. What lies between the box tokens is not looked at, as released. Other forms: to the letter.
    """
    if ctx.completion.finish_reason == "length" or ctx.parsed.status == "truncated":
        return 0.0
    if ctx.answer_format == "qwen_ref_box":
        text = ctx.parsed.answer if ctx.thinking else ctx.completion.text.replace("<|endoftext|>", "")
        return float(_BOX_LIST.match(text) is not None and (not ctx.thinking or ctx.parsed.format_ok))
    return float(ctx.parsed.format_ok and bool(ctx.parsed.objects))


_FATALISSUES = ("inverted", "numbers", "non_numeric", "unclosed", "truncated")


def whole(ctx: Context) -> float:
    """PR1's detection, a gate: 1 where the released code gets as far as a score, else 0.

    Known flaws, reproduced: the answer must be a JSON list from its first to its last character (a fence is removed),
    so an answer with a sentence round it, or one that was cut off, scores 0 as a whole; and so does one in which a
    single box of a known label has inverted corners, a number too few or a word in it.
    """
    if ctx.answer_format == "json":
        text = ctx.parsed.answer.replace("```json", "").replace("```", "")
        try:
            if not isinstance(json.loads(text), list):
                return 0.0
        except (ValueError, RecursionError):
            return 0.0
    known = known_labels(ctx.sample)
    fatal = any(entry.issue in _FATALISSUES and (known is None or entry.label in known) for entry in ctx.parsed.objects)
    return float(not fatal and ctx.parsed.status == "ok")


def known_labels(sample: Sample) -> frozenset[str] | None:
    """Labels that may be asked for, as written; None where there are none and any label will do."""
    return frozenset(sample.categories or labels_of(sample)) or None


def released_entries(ctx: Context) -> list[int]:
    """Indices of the entries that PR1's detection reward takes as predictions: a box and a known label."""
    known = known_labels(ctx.sample)
    return [
        index
        for index, entry in enumerate(ctx.parsed.objects)
        if (known is None or entry.label in known)
        and (entry.box_xyxy is not None or entry.issue in ("degenerate", "runaway"))
    ]


def match_first(ctx: Context) -> Match:
    """PR1's grounding: the first entry with the first target; the rest is not looked at."""
    assert isinstance(ctx.sample.target, BoxTarget)
    target_xyxy, n_pred = ctx.sample.target.boxes_xyxy, len(ctx.pred_xyxy)
    box = ctx.pred_xyxy[0] if ctx.pred_xyxy else None
    overlap = box_iou(box, target_xyxy[0]) if box is not None and target_xyxy else 0.0
    match = no_pairs(n_pred, len(target_xyxy))
    if overlap > 0:
        others, more = tuple(range(1, n_pred)), tuple(range(1, len(target_xyxy)))
        match = Match(((0, 0),), (overlap,), (overlap,), others, more, n_pred, len(target_xyxy))
    return charge_truncation(ctx, match)


def match_l2(ctx: Context) -> Match:
    """PR1's counting: least total L2 between centres in the 0..1000 space, however far; see `match_by_l2`.

    Raises:
        DataError: only the number of objects is known.
    """
    target = ctx.sample.target
    if not isinstance(target, (BoxTarget, PointTarget)) or ctx.frame is None:
        raise DataError(
            f"sample {ctx.sample.id!r}: the released reward of counting needs 'points' or 'boxes', not 'count'"
        )
    points = centers(ctx)
    targets = target.points_xy if isinstance(target, PointTarget) else tuple(map(center, target.boxes_xyxy))
    to_x, to_y = (1000 / side for side in ctx.frame.image_size)
    return match_by_l2(
        [None if point is None else (point[0] * to_x, point[1] * to_y) for point in points],
        [(x * to_x, y * to_y) for x, y in targets],
        1000 * math.sqrt(2),
        ctx.reward.matching,
    )


def match_detection(ctx: Context) -> Match:
    """PR1's detection: entries with a known label take part; L1 is in pixels of the image that the model sees."""
    sample, frame = ctx.sample, ctx.frame
    assert isinstance(sample.target, BoxTarget) and frame is not None
    seen = sample.model_size or frame.model_size or frame.image_size
    to_x, to_y = seen[0] / frame.image_size[0], seen[1] / frame.image_size[1]

    def resized(box: XYXY) -> XYXY:
        return box[0] * to_x, box[1] * to_y, box[2] * to_x, box[3] * to_y

    taking_part = set(released_entries(ctx))
    labels = sample.target.labels or ("",) * sample.target.n_objects
    agree = [[not sample.target.labels or entry.label == label for label in labels] for entry in ctx.parsed.objects]
    pred_xyxy = [
        resized(box) if box is not None and index in taking_part else None for index, box in enumerate(ctx.pred_xyxy)
    ]
    return match_detr(
        pred_xyxy,
        [resized(box) for box in sample.target.boxes_xyxy],
        agree,
        n_classes=max(90, len(known_labels(sample) or ())),
        method=ctx.reward.matching,
        n_pred=len(taking_part),
    )


def match_detr(
    pred_xyxy: Sequence[XYXY | None],
    target_xyxy: Sequence[XYXY],
    same_label: Sequence[Sequence[bool]],
    *,
    threshold: float = 0.5,
    n_classes: int = 90,
    method: Matching = "hungarian",
    n_pred: int | None = None,
) -> Match:
    """PR1's matching of detection: least DETR cost (Carion et al., 2020), then pairs with IoU > ``threshold``.

    Cost: 5 · L1 of (cx, cy, w, h) + 1 · class + 2 · GIoU, where class is −softmax of a one-hot vector of ``n_classes``.
    Boxes are in pixels (of the resized image), so L1 is in the hundreds and swamps the other two: a known flaw, kept.
    A second one is not: the released code compares class indices that are off by one, worth 0.02 beside the L1.

    Args:
        pred_xyxy: P boxes; None for entries that take no part.
        target_xyxy: M boxes.
        same_label: (P, M).
        threshold, n_classes, method: see above.
        n_pred: the number of predictions that a score divides by, where it is not P.
    """
    usable = [index for index, box in enumerate(pred_xyxy) if box is not None]
    n_entries, n_target = len(pred_xyxy), len(target_xyxy)
    n_pred = n_entries if n_pred is None else n_pred
    if not usable or not n_target:
        return replace(no_pairs(n_entries, n_target), n_pred=n_pred)
    pred = np.array([pred_xyxy[index] for index in usable], dtype=np.float64)
    target = np.array(target_xyxy, dtype=np.float64)
    agree = np.array([same_label[index] for index in usable])
    peak = math.e / (math.e + n_classes - 1)
    class_score = np.where(agree, peak, peak / math.e)
    l1 = np.abs(_cxcywh(pred)[:, None, :] - _cxcywh(target)[None, :, :]).sum(-1)
    ious = iou_matrix(pred, target)
    pairs = assign(2 * giou_matrix(pred, target) + class_score - 5 * l1, method)
    kept = [(row, column) for row, column in pairs if ious[row, column] > threshold]
    matched = match_of(kept, ious, ious, len(usable), n_target)
    taken = {usable[row] for row, _ in matched.pairs}
    return Match(
        tuple((usable[row], column) for row, column in matched.pairs),
        matched.ious,
        matched.phi,
        tuple(index for index in range(n_entries) if index not in taken),
        matched.unmatched_target,
        n_pred,
        n_target,
    )


def match_by_l2(pred_xy: Sequence[XY | None], target_xy: Sequence[XY], scale: float, method: Matching) -> Match:
    """PR1's matching of counting: least total L2, however far. φ = 1 − distance / ``scale``, also below 0."""
    usable = [index for index, point in enumerate(pred_xy) if point is not None]
    n_entries, n_target = len(pred_xy), len(target_xy)
    if not usable or not n_target:
        return replace(no_pairs(n_entries, n_target), n_pred=len(usable))
    distances = distance_matrix([point for point in pred_xy if point is not None], target_xy)
    pairs = assign(-distances, method)
    taken, reached = {usable[row] for row, _ in pairs}, {column for _, column in pairs}
    return Match(
        tuple((usable[row], column) for row, column in pairs),
        (0.0,) * len(pairs),
        tuple(1.0 - float(distances[row, column]) / scale for row, column in pairs),
        tuple(index for index in range(n_entries) if index not in taken),
        tuple(index for index in range(n_target) if index not in reached),
        len(usable),
        n_target,
    )


def _cxcywh(boxes: FloatArray) -> FloatArray:
    return np.column_stack(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]))
