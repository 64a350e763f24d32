"""Detection: a box and a label for every object of the categories.

=========  ==========================================================================================================
robust     2 Σφ / (n_pred + n_target), φ = IoU if ≥ 0.3 and the labels agree
released   0.25 · format + 0.75 · F1 + cls + IoU − 0.5 · (FP/n_pred + FN/n_target), clamped to [0, 3] (PR1)
=========  ==========================================================================================================

Why the floor is higher than grounding's: an entry under IoU 0.3 is a false positive for every metric, and in a crowd of
one class a copy of one box overlaps the neighbours by 0.1 to 0.3 and would be paid for them. The floor only binds while
an answer is poor: as soon as the score S is over 0.6, an entry pays only above S/2 anyway. A model that localises
loosely (a tiny one, a warm start) may do better with ``options: {floor: 0.1}``. Metric: COCO AP.
"""

from __future__ import annotations

from collections.abc import Sequence

from perception_r1.rewards import released
from perception_r1.rewards.base import RewardSpec
from perception_r1.rewards.objects import match_labelled, matched
from perception_r1.stats import Column, Floats, column, ratio
from perception_r1.tasks.base import Hack, Scored
from perception_r1.tasks.object_hacks import label_hacks, object_hacks
from perception_r1.tasks.objects import ObjectTask, box_sums, f1
from perception_r1.types import BoxTarget, RewardRecord, Sample

COMPONENTS = {
    "matched": matched,
    "iou": released.iou,
    "iou2": released.iou2,
    "f1": released.f1,
    "cls": released.cls,
    "missing": released.missing,
    "format": released.entry_share,
    "whole": released.whole,
}


class DetectionTask(ObjectTask):
    """Find every object of the categories and name it."""

    name = "detection"
    targets = (BoxTarget,)
    labelled = True
    asks_json = False
    questions = {
        "training": "Please output bbox coordinates and names of {categories}.",
        "evaluation": (
            "Locate every item from the category list in the image and output the coordinates in JSON format. "
            "The category set includes {categories}."
        ),
    }
    presets = {
        "robust": RewardSpec(
            "detection", "robust", {"matched": 1.0}, COMPONENTS, match_labelled, options={"floor": 0.3}
        ),
        "released": RewardSpec(
            "detection",
            "released",
            {"format": 0.25, "f1": 0.75, "cls": 1.0, "iou": 1.0, "missing": -0.5},
            COMPONENTS,
            released.match_detection,
            gates=("whole",),
            clamp=(0.0, 3.0),
        ),
    }
    example_question = "person, dog"
    known_prompts = (r"please output bbox coordinates and names of (.+)",)
    nothing = BoxTarget(())
    asks_categories = True
    matches_many = True
    has_coco_figures = True
    grade_name = "F1 of the image"
    headline = ("AP", "AP50", "AP75", "f1@0.5")
    primary = "f1@0.5"
    metric_names = {
        "f1@0.5": "F1 at IoU 0.5",
        "precision@0.5": "Precision at IoU 0.5",
        "recall@0.5": "Recall at IoU 0.5",
        "count_accuracy": "Right number of boxes",
        **{name: f"COCO {name}" for name in ("AP", "AP50", "AP75")},
        **{f"{name}_logprob": f"COCO {name}, boxes scored by log-probability" for name in ("AP", "AP50", "AP75")},
    }

    def hacks(self, sample: Sample) -> list[Hack]:
        """Known ways to earn without looking, labels included."""
        return [*object_hacks(sample, self), *label_hacks(sample, self)]

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """Micro averages: sums over the data set, so an image with many objects weighs as much as it holds."""
        sums = box_sums(cls, scored)
        return {
            "f1@0.5": Column(sums, f1),
            "precision@0.5": Column(sums, _precision),
            "recall@0.5": Column(sums, _recall),
            "count_accuracy": column([sample.target.n_objects == record.n_valid for sample, record in scored]),
        }

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """F1 of the image at IoU 0.5; 1 where nothing is asked and nothing given."""
        total = record.n_pred + sample.target.n_objects
        return 2 * len(cls.hits(sample, record)) / total if total else 1.0

    @classmethod
    def asked(cls, sample: Sample) -> str:
        """The categories, where they are few enough to list."""
        if len(sample.categories) > 3:
            return f"Detect any of {len(sample.categories)} categories"
        return f"Detect: {', '.join(sample.categories) or sample.question}"

    @classmethod
    def describe(cls, sample: Sample) -> str:
        """The number of boxes, and their classes."""
        kinds = sorted(set(sample.target.labels)) if isinstance(sample.target, BoxTarget) else []
        named = f" ({', '.join(kinds[:6])}{' …' if len(kinds) > 6 else ''})" if kinds else ""
        return sample.target.describe() + named

    @classmethod
    def outcome(cls, sample: Sample, record: RewardRecord) -> str:
        """F1 of the image."""
        return f"F1 {cls.quality(sample, record):.2f}"


def _precision(means: Floats) -> Floats:
    return ratio(means[..., 0], means[..., 1])


def _recall(means: Floats) -> Floats:
    return ratio(means[..., 0], means[..., 2])
