"""Grounding: one phrase, one box (or none: "nothing there", or several, as the target says).

=========  ==========================================================================================================
robust     2 Σφ / (n_pred + n_target), φ = IoU if ≥ 0.1, labels ignored; with one target 2 IoU / (n_pred + 1), so
           a second guess keeps at most two thirds of what the first earns
released   format + IoU² of the first box, in [0, 2] (PR1)
=========  ==========================================================================================================

Metrics: Acc@0.5, 0.75, 0.95 (IoU ≥ t, as RefCOCO's protocol and PR1 have it), their mean, mean IoU, of the first usable
box, as the field grades.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_r1.boxes import center, iou
from perception_r1.rewards import released
from perception_r1.rewards.base import RewardSpec
from perception_r1.rewards.objects import match_places, matched
from perception_r1.stats import Column, array, column
from perception_r1.tasks.base import Scored
from perception_r1.tasks.objects import ObjectTask
from perception_r1.types import XYXY, BoxTarget, RewardRecord, Sample

COMPONENTS = {
    "matched": matched,
    "iou": released.iou,
    "iou2": released.iou2,
    "format": released.phrase_format,
}


class GroundingTask(ObjectTask):
    """Find the one thing that a phrase describes."""

    name = "grounding"
    targets = (BoxTarget,)
    questions = dict.fromkeys(("training", "evaluation"), "Output the bounding box of the {question} in the image.")
    presets = {
        "robust": RewardSpec("grounding", "robust", {"matched": 1.0}, COMPONENTS, match_places, options={"floor": 0.1}),
        "released": RewardSpec(
            "grounding",
            "released",
            {"format": 1.0, "iou2": 1.0},
            COMPONENTS,
            released.match_first,
            options={"floor": 0.0},
        ),
    }
    question_says = "what to find"
    known_prompts = (
        r"please provide the bounding box coordinates? of the region this (?:sentence|phrase) describes:\s*(.+)",
        r"output the bounding box of the (.+?) in the image",
    )
    nothing = BoxTarget(())
    right_from = 0.5
    grade_name = "IoU"
    headline = ("acc@0.5", "acc@0.75", "acc@0.95", "avg", "mean_iou")
    primary = "acc@0.5"
    metric_names = {
        **{f"acc@{t}": f"Accuracy at IoU {t}" for t in ("0.1", "0.3", "0.5", "0.75", "0.95")},
        "avg": "Mean of the three accuracies",
        "mean_iou": "Mean IoU",
        "center_acc": "Centre accuracy",
    }

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """Accuracies at five thresholds, mean IoU, and whether the centre hits."""
        ious = array([grounding_iou(*pair) for pair in scored])
        table = {f"acc@{t:g}": Column((ious >= t).astype(float)) for t in (0.1, 0.3, 0.5, 0.75, 0.95)}
        table["avg"] = Column(np.mean([table[f"acc@{t:g}"].values for t in (0.5, 0.75, 0.95)], axis=0))
        table["mean_iou"] = Column(ious)
        table["center_acc"] = column([center_hit(*pair) for pair in scored])
        return table

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """1 where IoU ≥ 0.5."""
        return float(grounding_iou(sample, record) >= 0.5)

    @classmethod
    def grade(cls, sample: Sample, record: RewardRecord) -> float:
        """The IoU."""
        return grounding_iou(sample, record)

    @classmethod
    def asked(cls, sample: Sample) -> str:
        """The phrase to find."""
        return f"Find: {sample.question}"

    @classmethod
    def outcome(cls, sample: Sample, record: RewardRecord) -> str:
        """The IoU in full: 0.497 is no hit."""
        overlap = grounding_iou(sample, record)
        if sample.target.n_objects == 0:
            return "says so" if overlap else "does not say so"
        return f"IoU {overlap:.3f}"


def first_box(record: RewardRecord) -> XYXY | None:
    """The first usable box: what the field grades when a grounding answer has several (the others are ignored)."""
    return next((box for box in record.pred_xyxy if box is not None), None)


def grounding_iou(sample: Sample, record: RewardRecord) -> float:
    """IoU of the first usable box with the target (the best one, should a phrase have several).

    A phrase without an object is worth 1 for an explicit empty answer and 0 otherwise; no usable box is 0.
    """
    target_xyxy = _targets(sample)
    if not target_xyxy:
        return float(record.status == "empty" and record.n_pred == 0)
    box = first_box(record)
    return 0.0 if box is None else max(iou(box, other) for other in target_xyxy)


def center_hit(sample: Sample, record: RewardRecord) -> float:
    """1 if the centre of the first usable box (or the first point) lies in a target box."""
    target_xyxy = _targets(sample)
    if not target_xyxy:
        return float(record.status == "empty" and record.n_pred == 0)
    box = first_box(record)
    point = center(box) if box is not None else next((p for p in record.pred_points if p is not None), None)
    if point is None:
        return 0.0
    x, y = point
    return float(any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in target_xyxy))


def _targets(sample: Sample) -> tuple[XYXY, ...]:
    return sample.target.boxes_xyxy if isinstance(sample.target, BoxTarget) else ()
