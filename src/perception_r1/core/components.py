"""The terms that a reward is made of: pure functions over one scored answer.

Each returns a number, or None where it does not apply to the kind of target (its weight then goes to the others).
`COMPONENTS` says which exist for which task. "Entries" are everything that the answer lists, usable or not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from perception_r1.core import answers
from perception_r1.core.geometry import center, distance_matrix, iou_matrix
from perception_r1.core.matching import normal_label
from perception_r1.core.text import edit_similarity
from perception_r1.types import XY, XYXY, BoxTarget, Completion, CountTarget, Match, Parsed, PointTarget, Sample
from perception_r1.types import TextTarget as _TextTarget

SAME_POINT = 0.001
"""Two points nearer than this share of the image's diagonal are one point: about one unit of a 0..1000 frame."""

_MOST_COMPARED = 1000
"""With more entries than this an answer is not searched for copies (memory is quadratic); all then count against it."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything about one answer that a component may read.

    Attributes:
        match: of predictions and targets; indices of predictions are those of ``parsed.objects``.
        pred_xyxy, pred_points: P entries in original-image pixels, None where there is none.
        n_pred: entries that count as predictions (for ``robust`` all, and one more for an answer that was cut off).
        n_target: M.
        options: of the `RewardSpec`.
        answer_format: the family's.
        thinking: whether ``<think>`` and ``<answer>`` blocks were asked for.
        evidence: what was fetched from outside (a judge's verdicts), for reasoned answers.
        preset: of the `RewardSpec`, where a component differs by it.
    """

    sample: Sample
    completion: Completion
    parsed: Parsed
    match: Match
    pred_xyxy: tuple[XYXY | None, ...]
    pred_points: tuple[XY | None, ...]
    n_pred: int
    n_target: int
    options: Mapping[str, Any]
    answer_format: str
    thinking: bool
    evidence: Mapping[str, Any] | None = None
    preset: str = "robust"


Component: TypeAlias = Callable[[Context], float | None]


def matched(ctx: Context) -> float | None:
    """2 · Σφ / (n_pred + n_target), in [0, 1]: what was found, shared among everything said and everything there.

    φ is 0 below the floor and for a wrong label, so an entry that finds nothing only adds to n_pred. One more entry
    pays exactly when its φ is more than half of the score so far. With nothing to find: 1 for an explicit empty answer,
    else 0. Does not apply where only the number of objects is known.

    Example: 3 targets, 2 predictions, one with IoU 0.8: 2 · 0.8 / (2 + 3) = 0.32.
    """
    if isinstance(ctx.sample.target, CountTarget):
        return None
    if ctx.n_target == 0:
        return 1.0 if ctx.parsed.status == "empty" else 0.0
    return min(1.0, 2.0 * math.fsum(ctx.match.phi) / (ctx.n_pred + ctx.n_target))


def count(ctx: Context) -> float:
    """min(n, n_target) / max(n + unusable, n_target), n being the number of *different* usable entries; in [0, 1].

    Boxes with IoU ≥ ``same_iou``, or points nearer than `SAME_POINT`, are one object, directly or through others. Such
    a group counts as many as it has members, but at most max(1, targets that coincide with it in the same sense), so
    that repeating a box does not count and two targets in one place do. An entry with a box and a point is one, its
    box. Where only the number is known, nothing else charges for copies, so they count against it as unusable entries
    do. With nothing to find: 1 for an explicit empty answer, else 0.

    Example: 4 targets; 5 entries, of which two are the same box and one is unusable: min(3, 4) / max(3 + 1, 4) = 0.75.
    """
    if ctx.n_target == 0:
        return 1.0 if ctx.parsed.status == "empty" else 0.0
    boxes = [box for box in ctx.pred_xyxy if box is not None]
    points = [
        point for box, point in zip(ctx.pred_xyxy, ctx.pred_points, strict=True) if point is not None and box is None
    ]
    found = _different_boxes(boxes, ctx) + _different_points(points, ctx)
    said = ctx.n_pred if isinstance(ctx.sample.target, CountTarget) else found + ctx.n_pred - len(boxes) - len(points)
    return min(found, ctx.n_target) / max(said, ctx.n_target)


def count_distance(ctx: Context) -> float:
    """PR1, released: min(n, n_target) / max(n, n_target) · (1 − mean matched L2 / (1000 √2)), L2 in the 0..1000 space.

    Known flaws: random places with the right number earn about 0.77, since the distance is measured against the whole
    diagonal; copies count; an image without objects scores 0 whatever is said.
    """
    if not ctx.match.pairs:
        return 0.0
    share = min(ctx.n_pred, ctx.n_target) / max(ctx.n_pred, ctx.n_target)
    return share * math.fsum(ctx.match.phi) / len(ctx.match.phi)


def iou(ctx: Context) -> float:
    """Mean IoU of the matched pairs, 0 without any."""
    return math.fsum(ctx.match.ious) / len(ctx.match.ious) if ctx.match.ious else 0.0


def iou2(ctx: Context) -> float:
    """Mean squared IoU of the matched pairs, 0 without any (PR1's released grounding reward)."""
    return math.fsum(value * value for value in ctx.match.ious) / len(ctx.match.ious) if ctx.match.ious else 0.0


def f1(ctx: Context) -> float:
    """2 · pairs / (n_pred + n_target): the F1 score of the matched pairs; 0 without any."""
    return 2.0 * len(ctx.match.pairs) / (ctx.n_pred + ctx.n_target) if ctx.match.pairs else 0.0


def cls(ctx: Context) -> float:
    """Share of the matched pairs whose labels agree; 0 without pairs."""
    if not ctx.match.pairs:
        return 0.0
    objects, labels = ctx.parsed.objects, _target_labels(ctx.sample)
    if not labels:
        return 1.0
    right = sum(normal_label(objects[p].label or "") == normal_label(labels[t]) for p, t in ctx.match.pairs)
    return right / len(ctx.match.pairs)


def missing(ctx: Context) -> float:
    """False positives / n_pred + false negatives / n_target, in [0, 2): to be weighed negatively; 0 without pairs."""
    pairs = len(ctx.match.pairs)
    return (ctx.n_pred - pairs) / ctx.n_pred + (ctx.n_target - pairs) / ctx.n_target if pairs else 0.0


def entry_share(ctx: Context) -> float:
    """Detection's format term: the share of entries with a readable box and a label that may be asked for."""
    objects = ctx.parsed.objects
    return len(paper_entries(ctx.sample, ctx.parsed)) / len(objects) if objects else 0.0


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


def text_format(ctx: Context) -> float:
    """OCR's format term, 0 or 1: there is text to compare (in its block when thinking)."""
    return float(ctx.parsed.status in ("ok", "truncated"))


_FATAL_ISSUES = ("inverted", "numbers", "non_numeric", "unclosed", "truncated")


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
    fatal = any(
        entry.issue in _FATAL_ISSUES and (known is None or entry.label in known) for entry in ctx.parsed.objects
    )
    return float(not fatal and ctx.parsed.status == "ok")


def edit(ctx: Context) -> float:
    """1 − Levenshtein distance / longer length, by character, of the answer and the text; 1 when both are empty.

    ``whitespace`` (an option, on for ``robust``) compares with runs of white space as one space and none at the ends.
    An answer that was cut off is compared as far as it goes.
    """
    target = ctx.sample.target
    if not isinstance(target, _TextTarget) or ctx.parsed.status == "malformed":
        return 0.0
    answer, text = ctx.parsed.answer, target.text
    if ctx.options.get("whitespace"):
        answer, text = " ".join(answer.split()), " ".join(text.split())
    return edit_similarity(answer, text)


COMPONENTS: dict[str, dict[str, Component]] = {
    "grounding": {"matched": matched, "iou": iou, "iou2": iou2, "format": phrase_format},
    "counting": {"count": count, "matched": matched, "count_distance": count_distance, "format": list_format},
    "detection": {
        "matched": matched,
        "iou": iou,
        "iou2": iou2,
        "f1": f1,
        "cls": cls,
        "missing": missing,
        "format": entry_share,
        "whole": whole,
    },
    "ocr": {"edit": edit, "format": text_format},
    "geometry": {
        "accuracy": answers.accuracy,
        "format": answers.answer_format,
        "visual": answers.visual,
        "repetition": answers.repetition,
    },
}
"""Components by task and name; every task also has ``function``, the user's own."""


def known_labels(sample: Sample) -> frozenset[str] | None:
    """Labels that may be asked for, as written; None where there are none and any label will do."""
    return frozenset(sample.categories or _target_labels(sample)) or None


def paper_entries(sample: Sample, parsed: Parsed) -> list[int]:
    """Indices of the entries that PR1's released detection reward takes as predictions: a box and a known label."""
    known = known_labels(sample)
    return [
        index
        for index, entry in enumerate(parsed.objects)
        if (known is None or entry.label in known)
        and (entry.box_xyxy is not None or entry.issue in ("degenerate", "runaway"))
    ]


def _target_labels(sample: Sample) -> tuple[str, ...]:
    return sample.target.labels if isinstance(sample.target, BoxTarget) else ()


def diagonal(sample: Sample) -> float:
    """Diagonal of the original image in pixels."""
    width, height = sample.image_size or (1, 1)
    return math.hypot(width, height)


def _different_boxes(boxes: Sequence[XYXY], ctx: Context) -> int:
    if len(boxes) < 2 or len(boxes) > _MOST_COMPARED:
        return len(boxes)
    same_iou = ctx.options.get("same_iou", 0.95)
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
