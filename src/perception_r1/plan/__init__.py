"""What a recipe needs, on paper: memory of each device and time of a step, before a GPU hour is spent."""

from __future__ import annotations

from perception_r1.plan.devices import DEVICES, Device
from perception_r1.plan.estimate import Plan, estimate
from perception_r1.plan.run import plan_recipe
from perception_r1.plan.setup import Batch, Setup
from perception_r1.plan.shapes import Shape, shape_of

__all__ = ["DEVICES", "Batch", "Device", "Plan", "Setup", "Shape", "estimate", "plan_recipe", "shape_of"]
