"""What a report shows: trainings and evaluations, found in run folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_r1.errors import UserError
from perception_r1.evaluate.results import METRICS, SAMPLES, SETTINGS, Result, read_json_file, read_lines, read_results

TITLES = {
    "warm-start": "Warm start",
    "warm_start": "Warm start",
    "base": "Base",
    "sft": "SFT",
    "rl": "RL (GRPO)",
    "grpo": "RL (GRPO)",
}
_ORDER = ("base", "warm-start", "warm_start", "sft", "rl", "grpo")
_DEPTH = 3


@dataclass(frozen=True)
class Evaluation:
    """One model's answers; ``metrics`` is ``metrics.json``."""

    name: str
    metrics: dict[str, Any]
    results: Sequence[Result]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the report calls it."""
        return TITLES.get(self.name, self.name)

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.metrics["task"])


@dataclass(frozen=True)
class Training:
    """One training: its logs by step, its resolved recipe, what it ran on; ``folder`` may hold its rollouts."""

    name: str
    logs: Sequence[dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def title(self) -> str:
        """What the report calls it."""
        return TITLES.get(self.name, self.name)

    @property
    def is_rl(self) -> bool:
        """Whether it was trained with GRPO."""
        return any("reward" in log for log in self.logs)

    def series(self, *keys: str) -> tuple[list[float], list[float]]:
        """Steps and values of the first of ``keys`` that was ever logged; both empty if none was."""
        for key in keys:
            rows = [(log["step"], log[key]) for log in self.logs if _number(log.get(key)) and _number(log.get("step"))]
            if rows:
                return [float(x) for x, _ in rows], [float(y) for _, y in rows]
        return [], []

    @property
    def seconds(self) -> float | None:
        """Time that training took, from the trainer's last log."""
        return next(
            (float(log["train_runtime"]) for log in reversed(self.logs) if _number(log.get("train_runtime"))), None
        )

    @property
    def steps(self) -> int:
        """Steps trained so far."""
        return max((int(log["step"]) for log in self.logs if _number(log.get("step"))), default=0)


def load_runs(folders: Iterable[str | Path]) -> tuple[list[Evaluation], list[Training]]:
    """Everything in the folders and their subfolders, stages in their usual order, others as given.

    Raises:
        UserError: not a folder, or nothing to report in it.
    """
    evaluations: list[Evaluation] = []
    trainings: list[Training] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run folder")
        found = list(_walk(folder, _DEPTH))
        if not found:
            raise UserError(f"{folder}: holds no run (expected {SAMPLES} with {METRICS}, or metrics.jsonl)")
        for place in found:
            if (place / METRICS).is_file() and (place / SAMPLES).is_file():
                evaluations.append(_evaluation(place))
            if (place / "metrics.jsonl").is_file():
                trainings.append(_training(place))
    tasks = {evaluation.task for evaluation in evaluations}
    if len(tasks) > 1:
        raise UserError(f"a report is about one task; these folders hold {', '.join(sorted(tasks))}")
    return _ordered(_distinct(evaluations)), _ordered(_distinct(trainings))


def _walk(folder: Path, depth: int) -> Iterable[Path]:
    if (folder / "metrics.jsonl").is_file() or ((folder / METRICS).is_file() and (folder / SAMPLES).is_file()):
        yield folder
    if depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith((".", "checkpoint")):
                yield from _walk(child, depth - 1)


def _evaluation(folder: Path) -> Evaluation:
    return Evaluation(
        folder.name, read_json_file(folder / METRICS), read_results(folder), read_json_file(folder / SETTINGS) or {}
    )


def _training(folder: Path) -> Training:
    return Training(
        folder.name,
        read_lines(folder / "metrics.jsonl"),
        read_json_file(folder / "config.json") or {},
        read_json_file(folder / "environment.json") or {},
        folder,
    )


def _distinct(items: list[Any]) -> list[Any]:
    """Two folders of one name get a number, so that no figure is shown under another's name."""
    seen: dict[str, int] = {}
    done = []
    for item in items:
        seen[item.name] = seen.get(item.name, 0) + 1
        done.append(
            item if seen[item.name] == 1 else type(item)(**{**vars(item), "name": f"{item.name} {seen[item.name]}"})
        )
    return done


def _ordered(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: _ORDER.index(item.name) if item.name in _ORDER else len(_ORDER))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def pretty(value: Any) -> str:
    """Indented JSON for a reader."""
    return json.dumps(value, indent=2, ensure_ascii=False)
