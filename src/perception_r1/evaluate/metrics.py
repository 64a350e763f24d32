"""The field's metrics from scored samples.

Records already hold predictions in original-image pixels, so nothing is parsed or converted again. Metrics do not read
the reward: the same answers give the same figures whichever preset scored them (but for reasoned answers, which each
preset grades, and whose facts it counts, in its own way). An answer that cannot be parsed counts as wrong; a sample
that was *not scored* (``reward is None``) is left out and shows in ``n_scored``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_r1.core.answers import is_right
from perception_r1.core.geometry import iou, iou_matrix
from perception_r1.core.matching import assign, same_label
from perception_r1.core.text import edit_similarity
from perception_r1.evaluate.bootstrap import interval, mean_of_first, paired_difference
from perception_r1.types import (
    XYXY,
    AnswerTarget,
    BoxTarget,
    CountTarget,
    PointTarget,
    RewardRecord,
    Sample,
    TextTarget,
)

Scored = tuple[Sample, RewardRecord]
Floats = NDArray[np.float64]

PRIMARY = {
    "grounding": "acc@0.5",
    "counting": "accuracy",
    "detection": "f1@0.5",
    "ocr": "edit_similarity",
    "geometry": "accuracy",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One metric: per-sample columns (n, k), and the statistic of their means. ``mask`` (n,) picks the samples."""

    values: Floats
    statistic: Callable[[Floats], Floats] = mean_of_first
    mask: NDArray[np.bool_] | None = None

    def rows(self) -> Floats:
        """The columns of the samples that this metric covers."""
        return self.values if self.mask is None else self.values[self.mask]


def first_box(record: RewardRecord) -> XYXY | None:
    """The first usable box: what the field grades when a grounding answer has several (the others are ignored)."""
    return next((box for box in record.pred_xyxy if box is not None), None)


def grounding_iou(sample: Sample, record: RewardRecord) -> float:
    """IoU of the first usable box with the target (the best one, should a phrase have several).

    A phrase without an object is worth 1 for an explicit empty answer and 0 otherwise; no usable box is 0.
    """
    target = _boxes(sample)
    if not target:
        return float(record.status == "empty" and record.n_pred == 0)
    box = first_box(record)
    return 0.0 if box is None else max(iou(box, other) for other in target)


def center_hit(sample: Sample, record: RewardRecord) -> float:
    """1 if the centre of the first usable box (or the first point) lies in a target box."""
    target = _boxes(sample)
    if not target:
        return float(record.status == "empty" and record.n_pred == 0)
    box = first_box(record)
    if box is not None:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    else:
        point = next((p for p in record.pred_points if p is not None), None)
        if point is None:
            return 0.0
        x, y = point
    return float(any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in target))


def target_count(sample: Sample) -> int:
    """How many objects there are."""
    target = sample.target
    if isinstance(target, CountTarget):
        return target.count
    if isinstance(target, PointTarget):
        return len(target.points_xy)
    return len(_boxes(sample))


def hits(sample: Sample, record: RewardRecord, threshold: float = 0.5) -> tuple[tuple[int, int], ...]:
    """The most one-to-one pairs (prediction, target) with IoU ≥ ``threshold``; for detection, of equal labels.

    Metrics count them and pictures draw them. The record's own pairs are not used: they depend on the preset (PR1's
    are class-agnostic). Indices of predictions are those of ``record.pred_xyxy``.
    """
    target_xyxy = _boxes(sample)
    pred = [index for index, box in enumerate(record.pred_xyxy) if box is not None]
    if not target_xyxy or not pred:
        return ()
    iou_pm = iou_matrix([record.pred_xyxy[index] for index in pred], target_xyxy)
    hit_pm = iou_pm >= threshold
    if sample.task == "detection" and isinstance(sample.target, BoxTarget) and sample.target.labels:
        labels = record.pred_labels or (None,) * len(record.pred_xyxy)
        hit_pm &= np.array([[same_label(labels[p], name) for name in sample.target.labels] for p in pred], dtype=bool)
    # 1 a pair makes the number of pairs what is maximised; the IoU only breaks ties.
    pairs = assign(hit_pm * (1.0 + 1e-3 * iou_pm))
    return tuple((pred[p], m) for p, m in pairs if hit_pm[p, m])


def true_positives(sample: Sample, record: RewardRecord, threshold: float = 0.5) -> int:
    """The number of `hits`."""
    return len(hits(sample, record, threshold))


def columns(task: str, scored: Sequence[Scored]) -> dict[str, Column]:
    """Every metric of ``task`` as per-sample columns, over samples that were scored (see :func:`keep_scored`)."""
    build = {"grounding": _grounding, "counting": _counting, "detection": _detection, "ocr": _ocr}.get(task, _answer)
    table = build(scored)
    table["reward"] = Column(_array([record.reward for _, record in scored]))
    return table


def summarise(task: str, scored: Sequence[Scored], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Metrics with 95 % bootstrap intervals over samples, ready for ``metrics.json``.

    Returns:
        ``{task, n, n_scored, unparsable: {reason: count}, primary, metrics: {name: {value, low, high, n}}}``.
        A metric without samples (a count that never occurs) is left out; all are when nothing was scored.
    """
    kept = keep_scored(scored)
    metrics: dict[str, Any] = {}
    for name, column in columns(task, kept).items() if kept else ():
        rows = column.rows()
        if len(rows):
            value, low, high = interval(rows, column.statistic, resamples=resamples, seed=seed)
            metrics[name] = {"value": value, "low": low, "high": high, "n": len(rows)}
    return {
        "task": task,
        "n": len(scored),
        "n_scored": len(kept),
        "unparsable": unparsable(scored),
        "primary": PRIMARY.get(task, "reward"),
        "metrics": metrics,
    }


def compare(
    task: str, before: Sequence[Scored], after: Sequence[Scored], *, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Paired differences ``after − before`` of every metric, over the samples that both scored, by id.

    Returns:
        ``{name: {value, low, high, n}}`` with 95 % intervals; empty without a common sample.
    """
    old = {sample.id: (sample, record) for sample, record in keep_scored(before)}
    new = {sample.id: (sample, record) for sample, record in keep_scored(after)}
    ids = [key for key in old if key in new]
    if not ids:
        return {}
    tables = [columns(task, [side[key] for key in ids]) for side in (old, new)]
    found = {}
    for name, column in tables[0].items():
        if name not in tables[1]:
            continue
        rows, others = paired_rows(column, tables[1][name])
        if len(rows):
            value, low, high = paired_difference(rows, others, column.statistic, resamples=resamples, seed=seed)
            found[name] = {"value": value, "low": low, "high": high, "n": len(rows)}
    return found


def paired_rows(before: Column, after: Column) -> tuple[Floats, Floats]:
    """The columns of the samples that a metric covers on both sides (two presets may count different facts)."""
    masks = [column.mask for column in (before, after) if column.mask is not None]
    if not masks:
        return before.values, after.values
    both = np.logical_and.reduce(masks)
    return before.values[both], after.values[both]


def quality(sample: Sample, record: RewardRecord) -> float:
    """How good one answer is, 0 to 1, by the primary metric of its task (the F1 of the image for detection)."""
    if record.reward is None:
        return 0.0
    if sample.task == "grounding":
        return float(grounding_iou(sample, record) >= 0.5)
    if sample.task == "counting":
        return float(target_count(sample) == record.n_valid)
    if sample.task == "detection":
        wanted = record.n_pred + target_count(sample)
        return 2 * true_positives(sample, record) / wanted if wanted else 1.0
    if isinstance(sample.target, TextTarget):
        return edit_similarity(record.answer.strip(), sample.target.text.strip())
    return answer_right(sample, record)


def answer_right(sample: Sample, record: RewardRecord) -> float:
    """1 for the right final answer: as the preset graded it, or graded here where the reward does not look at it."""
    known = record.components.get("accuracy")
    if known is None and isinstance(sample.target, AnswerTarget):
        return float(is_right(record.status, record.answer, sample.target.answer))
    return known or 0.0


def keep_scored(scored: Sequence[Scored]) -> list[Scored]:
    """Those with a reward; *not scored* is never 0."""
    return [pair for pair in scored if pair[1].reward is not None]


def unparsable(scored: Sequence[Scored]) -> dict[str, int]:
    """Why answers gave nothing usable, most frequent first, with counts; unreadable ones by what is wrong with them."""
    counts: Counter[str] = Counter()
    for sample, record in scored:
        if record.reward is None:
            counts[f"not scored: {record.reason}" if record.reason else "not scored"] += 1
        elif record.status == "malformed":
            counts[record.reason or "malformed"] += 1
        elif record.status == "truncated":
            counts[
                "cut at the limit (what came before is kept)"
                if record.n_valid or (sample.task == "ocr" and record.answer)
                else "cut at the limit"
            ] += 1
        elif record.n_pred and not record.n_valid:
            counts["no usable entry"] += 1
    return dict(counts.most_common())


def _grounding(scored: Sequence[Scored]) -> dict[str, Column]:
    ious = _array([grounding_iou(*pair) for pair in scored])
    # IoU ≥ t, as RefCOCO's protocol and PR1 have it (not >).
    table = {f"acc@{t:g}": Column((ious >= t).astype(float)) for t in (0.1, 0.3, 0.5, 0.75, 0.95)}
    table["avg"] = Column(np.mean([table[f"acc@{t:g}"].values for t in (0.5, 0.75, 0.95)], axis=0))
    table["mean_iou"] = Column(ious)
    table["center_acc"] = Column(_array([center_hit(*pair) for pair in scored]))
    return table


def _counting(scored: Sequence[Scored]) -> dict[str, Column]:
    true_n = _array([target_count(sample) for sample, _ in scored])
    pred_n = _array([record.n_valid for _, record in scored])
    right = (true_n == pred_n).astype(float)
    table = {"accuracy": Column(right), "mae": Column(np.abs(true_n - pred_n))}
    if all(isinstance(sample.target, BoxTarget) for sample, _ in scored):
        sums = _array([[true_positives(*pair), pair[1].n_pred, target_count(pair[0])] for pair in scored])
        table["box_f1@0.5"] = Column(sums, _f1)
    for count in sorted({int(n) for n in true_n}):
        table[f"accuracy[count={count}]"] = Column(right, mask=true_n == count)
    return table


def _detection(scored: Sequence[Scored]) -> dict[str, Column]:
    # Micro averages: sums over the data set, so an image with many objects weighs as much as it holds.
    sums = _array([[true_positives(*pair), pair[1].n_pred, target_count(pair[0])] for pair in scored])
    exact = _array([target_count(sample) == record.n_valid for sample, record in scored])
    return {
        "f1@0.5": Column(sums, _f1),
        "precision@0.5": Column(sums, _precision),
        "recall@0.5": Column(sums, _recall),
        "count_accuracy": Column(exact),
    }


def _ocr(scored: Sequence[Scored]) -> dict[str, Column]:
    from perception_r1.evaluate.ocr import text_scores

    rows = [
        text_scores(record.answer, sample.target.text if isinstance(sample.target, TextTarget) else "")
        for sample, record in scored
    ]
    return {name: Column(_array([row[name] for row in rows])) for name in rows[0]} if rows else {}


def _answer(scored: Sequence[Scored]) -> dict[str, Column]:
    table = {"accuracy": Column(_array([answer_right(*pair) for pair in scored]))}
    n_facts = _array([record.n_target for _, record in scored])
    if n_facts.any():  # what the responses say of the picture, where facts are known
        found = _array([record.n_valid for _, record in scored])
        table["visual"] = Column(_ratio(found, n_facts), mask=n_facts > 0)
        table["perception"] = Column((found == n_facts).astype(float), mask=n_facts > 0)
    return table


def _f1(means: Floats) -> Floats:
    """2·TP / (predictions + targets); nothing asked and nothing said is 1."""
    return _ratio(2 * means[..., 0], means[..., 1] + means[..., 2])


def _precision(means: Floats) -> Floats:
    return _ratio(means[..., 0], means[..., 1])


def _recall(means: Floats) -> Floats:
    return _ratio(means[..., 0], means[..., 2])


def _ratio(top: Floats, bottom: Floats) -> Floats:
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.ones_like(top), where=bottom > 0)


def _boxes(sample: Sample) -> tuple[XYXY, ...]:
    return sample.target.boxes_xyxy if isinstance(sample.target, BoxTarget) else ()


def _array(values: Sequence[Any]) -> Floats:
    return np.asarray(values, dtype=np.float64)
