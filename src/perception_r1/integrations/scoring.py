"""What the adapters have in common: a task from plain settings, samples from packed rows, plain numbers from records.

An engine's worker gets the *settings* of a task (a JSON file beside its data) and, with each answer, the *packed row*
of the question: target, sizes and categories as one JSON string. No tensor, processor or image takes part.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from perception_r1.data.row import row_from_sample, sample_from_row
from perception_r1.errors import DataError, RecipeError
from perception_r1.families import get_family
from perception_r1.judge.base import Judge, gather_evidence
from perception_r1.models.limits import grid_of, limits_of
from perception_r1.tasks import Task, make_task, reward_spec
from perception_r1.types import Completion, FinishReason, RewardRecord, Sample

if TYPE_CHECKING:
    from perception_r1.recipe.schema import Recipe

Settings: TypeAlias = "str | Path | Mapping[str, Any] | Task"
"""A task, its settings, their JSON, or the path of a file with it."""

ROW_COLUMN = "row"
"""Dataset column that holds the canonical row of a sample as JSON."""

_FIELDS = (
    "id",
    "task",
    "question",
    "width",
    "height",
    "model_width",
    "model_height",
    "categories",
    "boxes",
    "labels",
    "points",
    "count",
    "text",
    "answer",
    "visual_annotations",
)
_KEYS = ("task", "family", "reward", "thinking", "prompt", "image")
_log = logging.getLogger("perception_r1")


def settings_of(recipe: Recipe, family: str) -> dict[str, Any]:
    """What `task_of` needs of a recipe, as JSON values; ``family`` is used where the recipe leaves it to the model."""
    image = recipe.image.model_dump(exclude_none=True)
    return {
        "task": recipe.task,
        "family": recipe.family if recipe.family is not None else family,
        "reward": recipe.reward.model_dump(mode="json", exclude_defaults=True),
        "thinking": recipe.thinking,
        "prompt": recipe.prompt,
        **({"image": image} if image else {}),
    }


def task_of(settings: Settings) -> Task:
    """The task that settings describe.

    Raises:
        RecipeError: no such file, no JSON object, an unknown key, or a value that makes no task.

    Example:
        >>> task_of({"task": "ocr", "family": "qwen3_vl", "reward": {"preset": "released"}}).reward.preset
        'released'
    """
    if isinstance(settings, Task):
        return settings
    values = dict(settings) if isinstance(settings, Mapping) else _read(str(settings))
    unknown = sorted(set(values) - set(_KEYS))
    if unknown or not {"task", "family"} <= values.keys():
        raise RecipeError(f"settings of a task are {', '.join(_KEYS)} (found {', '.join(map(str, values))})")
    reward = dict(values.get("reward") or {})
    reward.pop("judge", None)  # see `judge_of`
    family = get_family(values["family"])
    return make_task(
        values["task"],
        family=family.with_limits(**_limits(values.get("image") or {})),
        reward=reward_spec(values["task"], reward.pop("preset", "robust"), **reward),
        thinking=bool(values.get("thinking", False)),
        prompt=values.get("prompt", "training"),
    )


def _limits(table: Any) -> dict[str, int]:
    """``min_pixels`` and ``max_pixels`` of the settings' ``image`` table, as a recipe has it."""
    known = ("min_pixels", "max_pixels")
    if not isinstance(table, Mapping) or not set(table) <= set(known):
        raise RecipeError(f"settings of a task: 'image' has the keys {', '.join(known)}, not {table!r}")
    for key, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"settings of a task: image.{key} must be a positive whole number, not {value!r}")
    return dict(table)


def judge_of(settings: Settings) -> Judge | None:
    """The judge that settings name under ``reward`` (visual perception reward), or None."""
    if isinstance(settings, Task):
        return None
    values = settings if isinstance(settings, Mapping) else _read(str(settings))
    table = (values.get("reward") or {}).get("judge")
    if table is None:
        return None
    from perception_r1.judge.make import make_judge

    return make_judge(table)


def with_processor(task: Task, processor: Any) -> Task:
    """The task with the image limits of ``processor``, which resizes what the trainer hands over as it is.

    Raises:
        RecipeError: it resizes to another grid than the family's, where answers are pixels of the resized image.
    """
    family, limits, grid = task.family, limits_of(processor), grid_of(processor)
    if family.frame == "resized" and grid is not None and grid != family.grid:
        raise RecipeError(
            f"family {family.name!r} answers in pixels of an image resized to multiples of {family.grid}, but the "
            f"processor resizes to multiples of {grid}: name the model's family"
        )
    return task if limits is None else replace(task, family=family.with_limits(*limits))


def pack(sample: Sample) -> str:
    """The row that an answer to ``sample`` is scored with, as JSON; the image stays behind, its sizes come along."""
    row = row_from_sample(sample)
    row.pop("image", None)
    return json.dumps(row, ensure_ascii=False)


@lru_cache(maxsize=4096)
def sample_of(row: str) -> Sample:
    """The sample of a packed (or whole) row; a group's rollouts share one.

    Raises:
        DataError: the text is not a row.
    """
    try:
        values = json.loads(row)
    except ValueError:
        raise DataError(
            f"{row[:60]!r} is not a packed row (made by pr1 export, or integrations.scoring.pack)"
        ) from None
    return sample_from_row(values, path="packed row", image_required=False, check_image=False)


def samples_of(columns: Mapping[str, Any], n: int, task: Task) -> list[Sample]:
    """The samples of a batch of a data set: from its column ``row``, or from a row's fields as columns."""
    if ROW_COLUMN in columns:
        return [sample_of(row) for row in columns[ROW_COLUMN]]
    found = []
    for i in range(n):
        fields = {key: columns[key][i] for key in _FIELDS if key in columns and columns[key][i] is not None}
        row = {"id": i, "question": "object", **fields, "task": task.name}
        found.append(sample_from_row(row, path="dataset", line=i + 1, image_required=False, check_image=False))
    return found


async def score_batch(
    task: Task, judge: Judge | None, samples: Sequence[Sample], completions: Sequence[Completion]
) -> list[RewardRecord]:
    """Records of a batch; a judge's verdicts are awaited first, and where it gives none the answer is not scored."""
    evidence = await gather_evidence(judge, task, samples, completions) if judge else [None] * len(samples)
    failures = [one["failure"] for one in evidence if one is not None and "failure" in one]
    if failures:
        (reason, _) = Counter(failures).most_common(1)[0]
        _log.warning("%d of %d answers not scored (%s)", len(failures), len(samples), reason)
    return [task.score(*triple) for triple in zip(samples, completions, evidence, strict=True)]


class Scorer:
    """Scores answers for an engine that takes plain numbers only.

    Args:
        settings: the task.
        unscored: what stands for *not scored* (a user's function gave None, a judge was not reached) where the engine
            has no such thing. Each one is counted in ``n_unscored``, and the first of them and every hundredth logged.
    """

    def __init__(self, settings: Settings, unscored: float = 0.0) -> None:
        self.task, self.judge = task_of(settings), judge_of(settings)
        self.unscored, self.n_unscored = float(unscored), 0

    def record(self, text: str, row: str, finish_reason: FinishReason | None = None) -> RewardRecord:
        """The record of an answer to a packed row; a finish reason that is not known is None."""
        return self.records([text], [row], [finish_reason])[0]

    def records(
        self, texts: Sequence[str], rows: Sequence[str], reasons: Sequence[FinishReason | None] | None = None
    ) -> list[RewardRecord]:
        """Records of a batch; with a judge all are judged at once."""
        if self.judge is not None:
            return asyncio.run_coroutine_threadsafe(self.judged(texts, rows, reasons), _loop()).result()
        known = reasons or [None] * len(texts)
        return [
            self.task.score(sample_of(row), Completion(text, reason))
            for text, row, reason in zip(texts, rows, known, strict=True)
        ]

    async def judged(
        self, texts: Sequence[str], rows: Sequence[str], reasons: Sequence[FinishReason | None] | None = None
    ) -> list[RewardRecord]:
        """The same for engines that await rewards."""
        known = reasons or [None] * len(texts)
        completions = [Completion(text, reason) for text, reason in zip(texts, known, strict=True)]
        return await score_batch(self.task, self.judge, [sample_of(row) for row in rows], completions)

    def reward(self, record: RewardRecord) -> float:
        """The record's reward, or the configured value."""
        if record.reward is not None:
            return record.reward
        self.n_unscored += 1
        if self.n_unscored % 100 == 1:
            _log.warning("%d answers not scored, given %s (%s)", self.n_unscored, self.unscored, record.reason)
        return self.unscored

    def numbers(self, record: RewardRecord) -> dict[str, float]:
        """Components and flags for logs: the same keys for every answer, as engines that stack them need."""
        spec = self.task.reward
        named = {name: record.components.get(name, self.unscored) for name in (*spec.components, *spec.gates)}
        flags = {f"is_{status}": float(record.status == status) for status in ("malformed", "truncated")}
        return {**named, **flags, "not_scored": float(record.reward is None)}


@lru_cache(maxsize=8)
def scorer_of(settings: str, unscored: float = 0.0) -> Scorer:
    """One scorer a worker for settings given as a path or as JSON."""
    return Scorer(settings, unscored)


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of judges under engines that call rewards without one; connections belong to it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="judge").start()
    return loop


def metrics_of(records: Sequence[RewardRecord], judge: Judge | None = None) -> dict[str, float]:
    """What a trainer logs of a batch: means of components, shares of statuses, and the judge's counters."""
    logged = {f"components/{name}": value for name, value in mean_components(records).items()}
    if judge is not None:
        logged |= {f"judge/{name}": value for name, value in judge.stats().items()}
        logged["judge/not_scored"] = sum(record.reward is None for record in records) / max(1, len(records))
    return logged


def mean_components(records: Sequence[RewardRecord]) -> dict[str, float]:
    """The mean of each component over the records that have it, and the share of each parse status."""
    sums: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.components.items():
            sums.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    for status in ("malformed", "truncated"):
        means[f"share_{status}"] = sum(record.status == status for record in records) / max(len(records), 1)
    return means


def text_of(completion: Any) -> str:
    """The text of a completion as trainers hand it over: text, or a list of messages whose last one holds it."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _read(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{text}: settings of the task cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RecipeError(f"{text[:60]}: settings of the task are not JSON ({error})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{text[:60]}: settings of the task are not a JSON object")
    return values
