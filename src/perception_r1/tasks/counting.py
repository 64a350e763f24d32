"""Counting: one box (or point) an object; the count is the number of entries.

Robust reward: ½ · count + ½ · places. Places are boxes by IoU, or clicks by nearness, whose tolerance follows the
spacing of the clicks; where only the number is known, the count alone. With the places alone a policy whose boxes are
loose learns to say fewer of them, with the count alone it need not look: the right number in the wrong places earns
half. Labels are ignored. Metric: exact match of the count.
"""

from __future__ import annotations

from typing import ClassVar

from perception_r1.tasks.base import Task
from perception_r1.types import BoxTarget, CountTarget, PointTarget


class CountingTask(Task):
    """Mark every object of one kind."""

    name: ClassVar[str] = "counting"
    targets: ClassVar[tuple[type, ...]] = (BoxTarget, PointTarget, CountTarget)
