"""Checks before training: does the right answer score, can the reward be cheated, do prompts fit, is the frame right?

Pure functions over samples and a task; ``pr1 check`` loads the rows and prints what they find.
"""

from __future__ import annotations

from perception_r1.check.findings import Finding
from perception_r1.check.frames import FrameFit, fit_frames, read_answers
from perception_r1.check.gold import GoldReport, check_gold, least_reward
from perception_r1.check.lengths import LengthReport, TokenCounter, check_lengths
from perception_r1.check.run import CheckReport, Limits, run_checks

__all__ = [
    "CheckReport",
    "Finding",
    "FrameFit",
    "GoldReport",
    "LengthReport",
    "Limits",
    "TokenCounter",
    "check_gold",
    "check_lengths",
    "fit_frames",
    "least_reward",
    "read_answers",
    "run_checks",
]
