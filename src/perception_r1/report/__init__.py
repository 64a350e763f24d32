"""Reports: ``report.html`` of run folders, and still pictures of scenes and results."""

from __future__ import annotations

from perception_r1.report.build import build_report, write_report
from perception_r1.report.runs import Evaluation, Training, load_runs

__all__ = ["Evaluation", "Training", "build_report", "load_runs", "write_report"]
