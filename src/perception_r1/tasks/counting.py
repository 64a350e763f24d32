"""Counting: one box (or point) an object; the count is the number of entries.

=========  ==========================================================================================================
robust     ½ · count + ½ · the score of places (boxes by IoU, points by nearness); the number alone: count
released   format (a gate) · min(n)/max(n) · (1 − mean matched L2 / (1000 √2)), in [0, 1] (PR1)
=========  ==========================================================================================================

With the places alone a policy whose boxes are loose learns to list fewer of them, with the count alone it need not
look: the right number in the wrong places earns half. The tolerance of a click follows the spacing of the clicks.
Labels are ignored. Metric: exact match of the count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_r1.rewards import released
from perception_r1.rewards.base import RewardSpec
from perception_r1.rewards.objects import FLOOR, POINT_CAP, SAME_IOU, count, match_places, matched
from perception_r1.stats import Column, array
from perception_r1.tasks.base import Hack, Scored
from perception_r1.tasks.object_hacks import object_hacks
from perception_r1.tasks.objects import ObjectTask, box_sums, f1
from perception_r1.types import BoxTarget, CountTarget, PointTarget, RewardRecord, Sample

# How pairs are found decides which components mean something.
ROBUST = {"count": count, "matched": matched, "format": released.list_format}
RELEASED = {"count": count, "count_distance": released.count_distance, "format": released.list_format}


class CountingTask(ObjectTask):
    """Mark every object of one kind."""

    name = "counting"
    targets = (BoxTarget, PointTarget, CountTarget)
    questions = dict.fromkeys(("training", "evaluation"), "Output all the bounding boxes of the {question}")
    options = {"floor": FLOOR, "same_iou": SAME_IOU, "point_cap": POINT_CAP}
    presets = {
        "robust": RewardSpec(
            "counting",
            "robust",
            {"count": 0.5, "matched": 0.5},
            ROBUST,
            match_places,
            options={"floor": 0.1, "same_iou": 0.95, "point_cap": 0.15},
        ),
        "released": RewardSpec(
            "counting", "released", {"count_distance": 1.0}, RELEASED, released.match_l2, gates=("format",)
        ),
    }
    question_says = "what to count"
    known_prompts = (r"output all the bounding boxes of the (.+)",)
    nothing = CountTarget(0)
    matches_many = True
    headline = ("accuracy", "mae")
    primary = "accuracy"
    metric_names = {
        "accuracy": "Count accuracy",
        "mae": "Mean error of the count",
        "box_f1@0.5": "F1 of the boxes at IoU 0.5",
    }

    def hacks(self, sample: Sample) -> list[Hack]:
        """Known ways to earn without looking; the right number alone is worth half."""
        return object_hacks(sample, self, counting=True)

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """Exact match of the count, its mean error, and the F1 of the boxes where all targets are boxes."""
        true_n = array([sample.target.n_objects for sample, _ in scored])
        pred_n = array([record.n_valid for _, record in scored])
        right = (true_n == pred_n).astype(float)
        table = {"accuracy": Column(right), "mae": Column(np.abs(true_n - pred_n))}
        if all(isinstance(sample.target, BoxTarget) for sample, _ in scored):
            table["box_f1@0.5"] = Column(box_sums(cls, scored), f1)
        for number in sorted({int(n) for n in true_n}):
            table[f"accuracy[count={number}]"] = Column(right, mask=true_n == number)
        return table

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """1 for the right number."""
        return float(sample.target.n_objects == record.n_valid)

    @classmethod
    def least_reward(cls, places: float) -> float:
        """Half of the reward is the count."""
        return 0.5 + 0.5 * places

    @classmethod
    def tag(cls, number: int, label: str | None) -> str | None:
        """The number."""
        return str(number)

    @classmethod
    def asked(cls, sample: Sample) -> str:
        """What to count."""
        return f"Count: {sample.question}"

    @classmethod
    def describe(cls, sample: Sample) -> str:
        """The number."""
        return str(sample.target.n_objects)

    @classmethod
    def outcome(cls, sample: Sample, record: RewardRecord) -> str:
        """The number given, of the number asked for."""
        return f"{record.n_valid} of {sample.target.n_objects}"
