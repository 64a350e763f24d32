"""The group inspector: every group of rollouts of a training, to be looked at answer by answer.

What the page needs is packed (JSON, deflate, base64) into the page itself and drawn a few groups at a time, so that
10,000 rollouts open at once. Texts only ever become text nodes there.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from perception_r1.analysis.rollouts import SAME, Group, Rollout, count_rollouts, is_zero, read_groups, zero_reason
from perception_r1.data.images import open_image
from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.metrics import quality
from perception_r1.progress import progress
from perception_r1.report import words
from perception_r1.report.charts import line_chart
from perception_r1.tasks import task_class
from perception_r1.types import BoxTarget, PointTarget, Sample

LIMIT = 16_000
"""Rollouts a page holds by default; of more, whole steps are left out evenly."""

_SIDE = 224  # pixels of a thumbnail's longer side
_PICTURE_BYTES = 24_000_000
_TEXT = 4000  # characters of an answer
_ZERO, _FLAT, _UNREAD, _AGAINST, _UNSCORED = (1 << i for i in range(5))
FILTERS = (
    (_ZERO, "All zero", "every answer of the group earned 0: nothing to learn from"),
    (_FLAT, "Zero spread", "all answers earned the same: the advantages, and the gradient, are 0"),
    (_UNREAD, "Unparsable", "at least one answer could not be read, or was cut at the limit"),
    (_AGAINST, "Reward up, metric down", "in the group, answers with a higher reward have a lower metric"),
    (_UNSCORED, "Not scored", "at least one answer has no reward"),
)


def build_inspector(
    folder: str | Path, *, title: str = "", limit: int = LIMIT, show_progress: bool = False
) -> dict[str, Any] | None:
    """What the template shows of a run's rollouts, or None where there are none.

    Args:
        folder: of the run; see ``analysis.rollouts.rollout_files``.
        title: of the training.
        limit: rollouts to hold at most (about).
        show_progress: on standard error, while pictures are made.
    """
    if limit <= 0:
        return None
    try:
        total = count_rollouts(folder)
        groups = read_groups(folder, limit=limit)
    except (UserError, ModuleNotFoundError):
        return None
    if not groups:
        return None
    task = groups[0].sample.task
    flags = [group_flags(group) for group in groups]
    reasons = Counter(zero_reason(r.record) for g in groups for r in g.rollouts if is_zero(r.record))
    names = sorted({name for g in groups for r in g.rollouts for name in r.record.components})
    order = {reason: index for index, (reason, _) in enumerate(reasons.most_common())}
    pictures, place_of = _pictures(groups, show_progress)
    shown = sum(len(group.rollouts) for group in groups)
    return {
        "title": title,
        "n_rollouts": shown,
        "n_groups": len(groups),
        "total": total,
        "steps": sorted({group.step for group in groups}),
        "filters": [
            {"bit": bit, "title": name, "note": note, "n": sum(bool(flag & bit) for flag in flags)}
            for bit, name, note in FILTERS
            if bit != _UNSCORED or any(flag & bit for flag in flags)
        ],
        "reasons": [
            {"index": order[reason], "text": reason, "n": n, "share": n / reasons.most_common(1)[0][1]}
            for reason, n in reasons.most_common(12)
        ],
        "n_zero": sum(reasons.values()),
        "charts": [chart for chart in _charts(task, groups) if chart],
        "alarm": _alarm(task, groups),
        "metric": words.metric_name(task, task_class(task).primary),
        "data": _packed(_payload(groups, flags, order, names, place_of)),
        "pictures": json.dumps(pictures),
    }


def group_flags(group: Group) -> int:
    """The filters that a group belongs to, as bits (see `FILTERS`)."""
    flags = _ZERO * group.is_zero | _FLAT * group.is_flat
    for _, record, _ in group.rollouts:
        if record.status in ("malformed", "truncated"):
            flags |= _UNREAD
        if record.reward is None:
            flags |= _UNSCORED
    return flags | _AGAINST * (disagreement(group) > 0)


def disagreement(group: Group) -> int:
    """Pairs of answers that reward and metric order differently, less those that they order alike.

    Example: rewards 0.9, 0.5, 0.1 with metrics 0, 1, 1: two pairs against each other, none alike, so 2.
    """
    rated = [
        (record.reward, quality(group.sample, record)) for _, record, _ in group.rollouts if record.reward is not None
    ]
    balance = 0
    for i, (reward, metric) in enumerate(rated):
        for other_reward, other_metric in rated[:i]:
            if abs(reward - other_reward) > SAME and abs(metric - other_metric) > SAME:
                balance += 1 if (reward > other_reward) != (metric > other_metric) else -1
    return balance


def _payload(
    groups: Sequence[Group], flags: Sequence[int], order: dict[str, int], names: list[str], place_of: dict[str, int]
) -> dict[str, Any]:
    """Everything as short lists; the page's script knows the order of their fields."""
    samples: dict[int, int] = {}
    rows: list[list[Any]] = []
    reasons: dict[str, int] = {}
    packed = []
    for group, flag in zip(groups, flags, strict=True):
        sample = group.sample
        if id(sample) not in samples:
            samples[id(sample)] = len(rows)
            rows.append(_sample_row(sample, place_of.get(sample.image or "", -1)))
        answers = [
            _answer_row(sample, rollout, names, order, reasons.setdefault(rollout.record.reason, len(reasons)))
            for rollout in group.rollouts
        ]
        mean = statistics.fmean(group.rewards) if group.rewards else 0.0
        packed.append([group.step, samples[id(sample)], flag, _round(mean), _round(group.spread), answers])
    return {"components": names, "reasons": list(reasons), "samples": rows, "groups": packed}


def _sample_row(sample: Sample, picture: int) -> list[Any]:
    width, height = sample.image_size or (1, 1)
    target = sample.target
    boxes: list[Any] = []
    points: list[Any] = []
    if isinstance(target, BoxTarget):
        labels = target.labels or ("",) * len(target.boxes_xyxy)
        boxes = [[*map(_tenth, box), label] for box, label in zip(target.boxes_xyxy, labels, strict=True)]
    elif isinstance(target, PointTarget):
        points = [[_tenth(x), _tenth(y)] for x, y in target.points_xy]
    task = task_class(sample.task)
    return [sample.id, task.asked(sample), task.describe(sample), width, height, picture, boxes, points, sample.task]


def _answer_row(sample: Sample, rollout: Rollout, names: list[str], order: dict[str, int], reason: int) -> list[Any]:
    completion, record, advantage = rollout
    paired = {p: (m, iou) for (p, m), iou in zip(record.pairs, record.ious or (None,) * len(record.pairs), strict=True)}
    labels = record.pred_labels or (None,) * len(record.pred_xyxy)
    boxes = [
        [*map(_tenth, box), label or "", *_pair(paired.get(index))]
        for index, (box, label) in enumerate(zip(record.pred_xyxy, labels, strict=True))
        if box is not None
    ]
    points = [
        [_tenth(point[0]), _tenth(point[1]), *_pair(paired.get(index))]
        for index, point in enumerate(record.pred_points)
        if point is not None
    ]
    return [
        _shortened(completion.text.encode("utf-8", "replace").decode("utf-8")),
        _round(record.reward),
        _round(advantage),
        record.status,
        reason,
        order[zero_reason(record)] if is_zero(record) else -1,
        int(completion.finish_reason == "length"),
        [_round(record.components.get(name)) for name in names],
        _round(quality(sample, record)),
        task_class(sample.task).outcome(sample, record),
        boxes,
        points,
    ]


def _shortened(text: str) -> str:
    """A long text's beginning and end: ten thousand chains of thought do not fit into a page."""
    left_out = len(text) - _TEXT
    return text if left_out <= 0 else f"{text[: _TEXT // 2]} … ({left_out:,} characters) … {text[-_TEXT // 2 :]}"


def _pair(found: tuple[int, float | None] | None) -> list[Any]:
    """Target's index and IoU; -1 without a partner."""
    return [-1, None] if found is None else [found[0], None if found[1] is None else round(found[1], 2)]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _tenth(value: float) -> float:
    return round(value, 1)


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(zlib.compress(text, 6)).decode()


def _pictures(groups: Sequence[Group], show_progress: bool) -> tuple[list[str], dict[str, int]]:
    """Thumbnails as data addresses, and which picture is whose. Pictures that cannot be opened have none."""
    paths = list(dict.fromkeys(group.sample.image for group in groups if group.sample.image))
    pictures: list[str] = []
    place_of: dict[str, int] = {}
    used = 0
    # Should the pictures outgrow the page, it is the later steps' that are left out; boxes are drawn all the same.
    with progress("thumbnails", len(paths), unit="images", enabled=show_progress) as advance:
        for path in paths:
            advance()
            if used > _PICTURE_BYTES:
                break
            try:
                img = open_image(path)
            except DataError:
                continue
            img.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            img.save(buffer, format="WEBP", quality=75, method=0)
            place_of[path] = len(pictures)
            pictures.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
            used += len(pictures[-1])
    return pictures, place_of


def _by_step(groups: Sequence[Group]) -> dict[int, list[Group]]:
    found: dict[int, list[Group]] = {}
    for group in groups:
        found.setdefault(group.step, []).append(group)
    return found


def _charts(task: str, groups: Sequence[Group]) -> list[dict[str, Any] | None]:
    steps = _by_step(groups)
    x = [float(step) for step in steps]
    flat = [statistics.fmean(group.is_flat for group in found) for found in steps.values()]
    zero = [statistics.fmean(group.is_zero for group in found) for found in steps.values()]
    reward, metric = [], []
    for found in steps.values():
        rated = [(r.record.reward, quality(g.sample, r.record)) for g in found for r in g.rollouts]
        scored = [(a, b) for a, b in rated if a is not None]
        reward.append(statistics.fmean(a for a, _ in scored) if scored else 0.0)
        metric.append(statistics.fmean(b for _, b in scored) if scored else 0.0)
    name = words.metric_name(task, task_class(task).primary)
    return [
        line_chart(
            [
                {"name": "zero spread", "colour": "c1", "x": x, "y": flat},
                {"name": "all zero", "colour": "c4", "x": x, "y": zero},
            ],
            title="Groups that teach nothing",
            zero=True,
            percent=max([*flat, *zero], default=0) > 0.3,
        ),
        line_chart(
            [
                {"name": "reward", "colour": "accent", "x": x, "y": reward},
                {"name": name, "colour": "c3", "x": x, "y": metric},
            ],
            title="Reward and metric of the answers",
        ),
        line_chart(
            [
                {
                    "name": "spread",
                    "colour": "c0",
                    "x": x,
                    "y": [statistics.fmean(g.spread for g in found) for found in steps.values()],
                }
            ],
            title="Spread of the reward within a group",
            note="mean standard deviation",
            zero=True,
        ),
    ]


def _alarm(task: str, groups: Sequence[Group]) -> str:
    """A sentence where, over a fifth of the run or all of it, the reward rose while the metric fell; else nothing.

    A change counts when it is over twice its standard error (groups are the units).
    """
    steps = sorted(_by_step(groups))
    if len(steps) < 10:
        return ""
    edges = [round(i * len(steps) / 5) for i in range(6)]
    parts = [set(steps[a:b]) for a, b in pairwise(edges)]
    rated: list[list[tuple[float, float]]] = [[] for _ in parts]
    for group in groups:
        scored = [r.record for r in group.rollouts if r.record.reward is not None]
        if scored:
            part = next(index for index, part in enumerate(parts) if group.step in part)
            rated[part].append(
                (
                    statistics.fmean(r.reward or 0.0 for r in scored),
                    statistics.fmean(quality(group.sample, r) for r in scored),
                )
            )
    name = words.metric_name(task, task_class(task).primary)
    for first, last in [(0, 4), *((i, i + 1) for i in range(4))]:
        before, after = rated[first], rated[last]
        if len(before) < 2 or len(after) < 2:
            continue
        reward, metric = (_change([p[i] for p in before], [p[i] for p in after]) for i in (0, 1))
        if reward[0] > 2 * reward[1] and metric[0] < -2 * metric[1]:
            return (
                f"From steps {min(parts[first])}–{max(parts[first])} to {min(parts[last])}–{max(parts[last])} the "
                f"reward rose by {reward[0]:.3f} while {name} of the same answers fell by {-metric[0]:.3f}: "
                "the reward is being gamed, or measures something else."
            )
    return ""


def _change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    error = (statistics.variance(before) / len(before) + statistics.variance(after) / len(after)) ** 0.5
    return statistics.fmean(after) - statistics.fmean(before), error
