"""From a parsed answer to a `RewardRecord`: convert, match once, compute the components, say why.

Two entries: `score_objects` for boxes and points, `score_text` for transcriptions. Both are pure. A bad answer is data
and scores; only a bad sample or a bad reward function raises.

An answer that was cut at the token limit is scored on what it listed before the cut, and counts one prediction more
than that (its unfinished entry, or the one it was about to begin), so stopping always pays and running on never does.
"""

from __future__ import annotations

import math
from functools import lru_cache

from perception_r1.core.components import SAME_POINT, Context, diagonal, known_labels, paper_entries
from perception_r1.core.coords import scales
from perception_r1.core.geometry import center, iou
from perception_r1.core.matching import match_by_distance, match_by_iou, match_by_l2, match_detr
from perception_r1.core.reasons import objects_reason, text_reason
from perception_r1.core.spec import FUNCTION, PRESETS, RewardSpec, load_function, reward_spec
from perception_r1.errors import DataError, RecipeError
from perception_r1.types import (
    XY,
    XYXY,
    BoxTarget,
    Completion,
    CountTarget,
    Frame,
    Match,
    Parsed,
    PointTarget,
    RewardRecord,
    Sample,
)

__all__ = ["PRESETS", "RewardSpec", "point_tolerances", "reward_spec", "score_objects", "score_text"]

LEAST_TOLERANCE = 2 * SAME_POINT
"""As a share of the diagonal: full reward then reaches at least as far as the rounding of a 0..1000 frame."""


def score_objects(
    spec: RewardSpec,
    sample: Sample,
    completion: Completion,
    parsed: Parsed,
    frame: Frame,
    *,
    answer_format: str = "json",
    thinking: bool = False,
) -> RewardRecord:
    """Score an answer that lists boxes or points.

    Args:
        spec: the reward.
        sample: with a target of boxes, points or a count, in original-image pixels.
        completion: as the policy gave it.
        parsed: what `parse_objects` read from it, in ``frame``.
        frame: the frame that the model answers in.
        answer_format: the family's form of answer, which the ``paper`` format terms look at.
        thinking: whether blocks were asked for.

    Raises:
        DataError: the target is none of objects, or sizes are missing.
        RecipeError: the user's function returned something that is no number.
    """
    scale_x, scale_y = scales(frame)
    entries = parsed.objects
    pred_xyxy: tuple[XYXY | None, ...] = tuple(
        [
            None if (box := entry.box_xyxy) is None or entry.issue is not None
            else (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
            for entry in entries
        ]
    )  # fmt: skip
    pred_points: tuple[XY | None, ...] = tuple(
        [
            None if (point := entry.point_xy) is None or entry.issue is not None
            else (point[0] * scale_x, point[1] * scale_y)
            for entry in entries
        ]
    )  # fmt: skip
    match, n_pred, n_target = _match(spec, sample, parsed, frame, pred_xyxy, pred_points)
    ctx = Context(
        sample,
        completion,
        parsed,
        match,
        pred_xyxy,
        pred_points,
        n_pred,
        n_target,
        spec.options,
        answer_format,
        thinking,
    )
    reward, components = combine(spec, ctx)
    n_boxes, n_points = len(entries) - pred_xyxy.count(None), len(entries) - pred_points.count(None)
    if n_boxes and n_points:  # an entry may have both
        n_points = sum(point is not None and box is None for box, point in zip(pred_xyxy, pred_points, strict=True))
    return RewardRecord(
        reward,
        components,
        parsed.status,
        objects_reason(ctx) if reward is not None else "not scored: the reward function gave None",
        n_pred,
        n_boxes + n_points,
        n_target,
        match.pairs,
        () if isinstance(sample.target, PointTarget) else match.ious,
        pred_xyxy,
        pred_points,
        tuple([entry.label for entry in entries]),
        parsed.answer,
    )


def score_text(
    spec: RewardSpec,
    sample: Sample,
    completion: Completion,
    parsed: Parsed,
    *,
    answer_format: str = "json",
    thinking: bool = False,
) -> RewardRecord:
    """Score a transcription against a `TextTarget`; see `components.edit`."""
    ctx = Context(
        sample, completion, parsed, Match(), (), (), 0, 0, spec.options, answer_format, thinking
    )  # fmt: skip
    reward, components = combine(spec, ctx)
    reason = text_reason(ctx, components) if reward is not None else "not scored: the reward function gave None"
    return RewardRecord(reward, components, parsed.status, reason, answer=parsed.answer)


def combine(spec: RewardSpec, ctx: Context) -> tuple[float | None, dict[str, float]]:
    """The reward and its components: clamp(Π gates · Σ weight · component).

    A component that does not apply (None) hands its weight to the others in proportion. A user's function that gives
    None makes the answer *not scored*.
    """
    values: dict[str, float] = {}
    total = weighed = left_out = 0.0
    scored = True
    for name, component, weight in spec.steps:
        value = _user_value(spec, ctx) if component is None else component(ctx)
        if value is None:
            if name == FUNCTION:
                scored = False
            left_out += weight
            continue
        values[name] = value
        weighed += weight
        total += weight * value
    if left_out and weighed:
        total *= (weighed + left_out) / weighed
    for name, gate in spec.gate_steps:
        value = gate(ctx)
        values[name] = 0.0 if value is None else value
        total *= values[name]
    if spec.clamp is not None:
        total = min(max(total, spec.clamp[0]), spec.clamp[1])
    return (total if scored else None), values


def _user_value(spec: RewardSpec, ctx: Context) -> float | None:
    path = spec.function or ""
    value = load_function(path)(ctx.sample, ctx.completion, ctx.parsed, ctx.match)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"reward function {path!r} gave {value!r} for sample {ctx.sample.id!r}, not a number or None")
    return number


def _match(
    spec: RewardSpec,
    sample: Sample,
    parsed: Parsed,
    frame: Frame,
    pred_xyxy: tuple[XYXY | None, ...],
    pred_points: tuple[XY | None, ...],
) -> tuple[Match, int, int]:
    """The pairs, the number of predictions and the number of targets."""
    target, entries = sample.target, parsed.objects
    n_pred = len(entries)
    if spec.pairing == "detr" and isinstance(target, BoxTarget):
        return _match_as_released(spec, sample, parsed, frame, pred_xyxy)
    if spec.pairing == "l2" and isinstance(target, (BoxTarget, PointTarget)):
        points = _centers(pred_xyxy, pred_points)
        targets = target.points_xy if isinstance(target, PointTarget) else tuple(map(center, target.boxes_xyxy))
        to_x, to_y = (1000 / side for side in frame.image_size)
        match = match_by_l2(
            [None if point is None else (point[0] * to_x, point[1] * to_y) for point in points],
            [(x * to_x, y * to_y) for x, y in targets],
            1000 * math.sqrt(2),
            spec.matching,
        )
        return match, sum(point is not None for point in points), len(targets)
    if parsed.status == "truncated" and (not entries or all(entry.issue != "truncated" for entry in entries)):
        n_pred += 1
    if isinstance(target, BoxTarget):
        if spec.pairing == "first":
            return _match_first(pred_xyxy, target), n_pred, len(target.boxes_xyxy)
        labelled = sample.task == "detection"
        match = match_by_iou(
            pred_xyxy,
            target.boxes_xyxy,
            floor=spec.options.get("floor", 0.0),
            method=spec.matching,
            pred_labels=[entry.label for entry in entries] if labelled else None,
            target_labels=target.labels if labelled else (),
        )
        return match, n_pred, len(target.boxes_xyxy)
    if isinstance(target, PointTarget):
        tolerances = point_tolerances(target.points_xy, diagonal(sample), spec.options.get("point_cap", 1.0))
        points = _centers(pred_xyxy, pred_points)
        return match_by_distance(points, target.points_xy, tolerances, spec.matching), n_pred, len(target.points_xy)
    if isinstance(target, CountTarget):
        if spec.pairing == "l2":
            raise DataError(
                f"sample {sample.id!r}: the paper reward of counting needs 'points' or 'boxes', not 'count'"
            )
        return Match(unmatched_pred=tuple(range(len(entries)))), n_pred, target.count
    raise DataError(f"sample {sample.id!r}: task {sample.task!r} cannot be scored against {type(target).__name__}")


def _match_as_released(
    spec: RewardSpec, sample: Sample, parsed: Parsed, frame: Frame, pred_xyxy: tuple[XYXY | None, ...]
) -> tuple[Match, int, int]:
    """PR1's detection: entries with a known label take part; L1 is in pixels of the image that the model sees."""
    target = sample.target
    assert isinstance(target, BoxTarget)
    seen = sample.model_size or frame.model_size or frame.image_size
    to_x, to_y = seen[0] / frame.image_size[0], seen[1] / frame.image_size[1]

    def resized(box: XYXY) -> XYXY:
        return box[0] * to_x, box[1] * to_y, box[2] * to_x, box[3] * to_y

    taking_part = set(paper_entries(sample, parsed))
    n_target = len(target.boxes_xyxy)
    labels = target.labels or ("",) * n_target
    agree = [[not target.labels or entry.label == label for label in labels] for entry in parsed.objects]
    match = match_detr(
        [
            None if box is None or index not in taking_part else resized(box)
            for index, box in enumerate(pred_xyxy)
        ],
        [resized(box) for box in target.boxes_xyxy],
        agree,
        n_classes=max(90, len(known_labels(sample) or ())),
        method=spec.matching,
    )  # fmt: skip
    return match, len(taking_part), n_target


def _match_first(pred_xyxy: tuple[XYXY | None, ...], target: BoxTarget) -> Match:
    """The first entry with the first target; the rest is not looked at (PR1's released grounding)."""
    others, more = tuple(range(1, len(pred_xyxy))), tuple(range(1, len(target.boxes_xyxy)))
    box = pred_xyxy[0] if pred_xyxy else None
    overlap = iou(box, target.boxes_xyxy[0]) if box is not None and target.boxes_xyxy else 0.0
    if overlap <= 0:
        return Match((), (), (), tuple(range(len(pred_xyxy))), tuple(range(len(target.boxes_xyxy))))
    return Match(((0, 0),), (overlap,), (overlap,), others, more)


def _centers(pred_xyxy: tuple[XYXY | None, ...], pred_points: tuple[XY | None, ...]) -> list[XY | None]:
    return [center(box) if box is not None else point for box, point in zip(pred_xyxy, pred_points, strict=True)]


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
