"""Grounding: one phrase, one box (or none: "nothing there", or several, as the target says).

Robust reward: 2 Σφ / (n_pred + n_target) with φ the IoU from 0.1 on; with one target that is 2 IoU / (n_pred + 1), so a
second guess halves what the first earns or more. Labels are ignored. Metric: Acc@0.5, 0.75, 0.95 and mean IoU.
"""

from __future__ import annotations

from typing import ClassVar

from perception_r1.tasks.base import Task
from perception_r1.types import BoxTarget


class GroundingTask(Task):
    """Find the one thing that a phrase describes."""

    name: ClassVar[str] = "grounding"
    targets: ClassVar[tuple[type, ...]] = (BoxTarget,)
