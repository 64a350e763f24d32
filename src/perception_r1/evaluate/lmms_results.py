"""What lmms-eval writes (``*_results.json``), as figures with a place in the papers' tables.

A file holds ``results``: task → ``{"metric,filter": value, "metric_stderr,filter": …}``, and the model's name. Which
metric of a task is the published one differs from task to task; this module is that list. Tasks of ours (written by
``pr1 export lmms-eval``) have the places of their benchmarks; others are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_r1.errors import DataError
from perception_r1.evaluate.benchmarks import BENCHMARKS, SIZES

# Prefix of a task → (table, column, metrics in the order of preference), as lmms-eval 0.7 names them. Tasks that
# end in _reasoning report acc_score.
TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mmbench_en": ("general", "mmbench", ("gpt_eval_score", "acc_score")),
    "mmvet": ("general", "mmvet", ("gpt_eval_score",)),
    "mmstar": ("general", "mmstar", ("average", "acc_score")),
    "scienceqa": ("general", "scienceqa", ("exact_match",)),
    "seedbench": ("general", "seedbench", ("seed_all", "seed_image", "seed_all_acc_score", "seed_image_acc_score")),
    "llava_in_the_wild": ("general", "llava-bench", ("gpt_eval_llava_all",)),
    "ai2d": ("general", "ai2d", ("exact_match", "acc_score")),
    "mathvista_testmini": ("vpr", "mathvista", ("llm_as_judge_eval", "gpt_eval_score", "acc_score")),
    "mathverse_testmini": ("vpr", "mathverse", ("gpt_eval_score", "acc_score")),
    "mathvision": ("vpr", "mathvision", ("mathvision_standard_eval", "llm_as_judge_eval", "acc_score")),
    "wemath_testmini": ("vpr", "wemath", ("wemath_loose", "acc_score")),
    "mmmu_pro": ("vpr", "mmmu-pro", ("mmmu_acc", "acc_score")),
    "mmmu_val": ("vpr", "mmmu", ("mmmu_acc", "acc_score")),
    "emma": ("vpr", "emma", ("emma_score",)),
}
# What may follow the prefix: splits and prompts. Parts, translations and successors of a benchmark are not it.
_SUFFIX = re.compile(r"(_(dev|test|img|full|reason_test|standard|vision|composite|cot|format|solution|reasoning))*")
# Tasks with several figures of their own.
_MME = {"mme_cognition_score": "mme/cognition", "mme_perception_score": "mme/perception"}


@dataclass(frozen=True, slots=True)
class LmmsResult:
    """A figure over ``n`` of the ``whole`` task's samples (0: unknown); ``is_share`` when it lies in 0..1."""

    model: str
    task: str
    table: str
    column: str
    value: float
    stderr: float | None
    n: int
    whole: int
    is_share: bool


def read_lmms_results(place: str | Path) -> list[LmmsResult]:
    """All figures in a results file, or in every ``*results.json`` below a folder.

    Raises:
        DataError: a file that cannot be read.
    """
    place = Path(place)
    paths = [place] if place.is_file() else sorted(place.rglob("*results.json"))
    return [result for path in paths for result in _of_file(path)]


def _of_file(path: Path) -> Iterator[LmmsResult]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"is not readable JSON ({error})", path=path) from None
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict):
        return
    model = _model(document, path)
    sizes = document.get("n-samples") or {}
    # Of several prompts of one benchmark (MathVista's format, cot, solution) the plain one comes last, and is kept.
    for task, figures in sorted(results.items(), key=lambda item: _plainness(str(item[0]))):
        if not isinstance(figures, dict):
            continue
        values = {key.split(",")[0]: value for key, value in figures.items() if _number(value)}
        size = sizes.get(task)
        size = size if isinstance(size, dict) else {}
        yield from _of_task(model, str(task), values, int(size.get("effective", 0)), int(size.get("original", 0)))


def _of_task(model: str, task: str, values: Mapping[str, float], n: int, whole: int) -> Iterator[LmmsResult]:
    for metric, column in _MME.items():
        if task == "mme" and metric in values:
            yield LmmsResult(model, task, "general", column, float(values[metric]), None, n, whole, False)
    ours = next((benchmark for benchmark in BENCHMARKS.values() if benchmark.lmms_name == task), None)
    if ours is not None:
        for metric, column in ours.columns.items():
            if metric in values:
                size = SIZES[ours.name]
                yield LmmsResult(model, task, ours.table, column, float(values[metric]), None, n, size, True)
        return
    prefix = max((name for name in TASKS if task.startswith(name)), key=len, default=None)
    if prefix is None or not _SUFFIX.fullmatch(task.removeprefix(prefix)):
        return
    table, column, metrics = TASKS[prefix]
    name = next((metric for metric in metrics if metric in values), None)
    if name is None:
        return
    value, error = float(values[name]), values.get(f"{name}_stderr")
    stderr = None if error is None else float(error)
    for place in (table, "vpr") if prefix == "mmstar" else (table,):  # MMStar is in both papers' tables
        yield LmmsResult(model, task, place, column, value, stderr, n, whole, value <= 1.0)


def _plainness(task: str) -> tuple[bool, int, str]:
    """Greater for the task that is the benchmark itself: the shorter name, and "…_format", lmms-eval's own choice."""
    return task.endswith("_format"), -len(task), task


def _model(document: Mapping[str, Any], path: Path) -> str:
    """The model's own name: lmms-eval gives the adapter's ("qwen2_5_vl") and, in the arguments, the path or id."""
    config = document.get("config") or {}
    arguments = str(config.get("model_args") or "")
    for part in arguments.split(","):
        key, _, value = part.partition("=")
        if key.strip() in ("pretrained", "model_version", "model") and value:
            return Path(value.strip()).name if Path(value.strip()).exists() else value.strip()
    return str(document.get("model_name") or document.get("model_source") or config.get("model") or path.parent.name)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
