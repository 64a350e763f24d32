"""Detection: a box and a label for every object of the categories.

Robust reward: 2 Σφ / (n_pred + n_target) with φ the IoU from 0.3 on where the labels agree, else 0: precision, recall,
labels and localisation in one number, each at its price. Metric: COCO AP.
"""

from __future__ import annotations

from typing import ClassVar

from perception_r1.tasks.base import Task
from perception_r1.types import BoxTarget


class DetectionTask(Task):
    """Find every object of the categories and name it."""

    name: ClassVar[str] = "detection"
    targets: ClassVar[tuple[type, ...]] = (BoxTarget,)
