"""Rollouts that a training (or ``pr1 diagnose``) saved, read back as groups."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from perception_r1.data.row import sample_from_row
from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.results import record_from_dict
from perception_r1.stats import group_advantages
from perception_r1.types import Completion, RewardRecord, Sample

SAME = 1e-9
"""Rewards nearer than this are the same reward."""


class Rollout(NamedTuple):
    """One answer of a group; ``advantage`` is None for one that was not scored."""

    completion: Completion
    record: RewardRecord
    advantage: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The answers that were sampled to one question in one step."""

    step: int
    sample: Sample
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        """Rewards of the scored answers."""
        return [r.record.reward for r in self.rollouts if r.record.reward is not None]

    @property
    def spread(self) -> float:
        """Sample standard deviation of the rewards; 0 with fewer than two."""
        rewards = self.rewards
        return statistics.stdev(rewards) if len(rewards) > 1 else 0.0

    @property
    def is_flat(self) -> bool:
        """Whether all rewards are the same, so that the group gives no gradient."""
        rewards = self.rewards
        return not rewards or max(rewards) - min(rewards) <= SAME

    @property
    def is_zero(self) -> bool:
        """Whether every scored answer earned 0."""
        rewards = self.rewards
        return bool(rewards) and max(abs(reward) for reward in rewards) <= SAME


def is_zero(record: RewardRecord) -> bool:
    """Whether an answer was scored and earned nothing."""
    return record.reward is not None and abs(record.reward) <= SAME


def zero_reason(record: RewardRecord) -> str:
    """Why an answer earned nothing, without its numbers, so that like cases are counted together."""
    if record.status == "malformed":
        return re.sub(r"\d+", "n", record.reason) or "unreadable"
    if record.status == "empty":
        return "says that nothing is there"
    if record.n_target == 0 and record.n_pred:
        return "nothing to find, but something given"
    if record.n_pred or record.pred_xyxy:
        if not record.n_valid:
            return "no usable entry"
        if not record.pairs:
            return "entries given, none on a target"
        return "pairs found, but a gate or the clamp made it 0"
    if record.status == "truncated":
        return "cut off before anything usable"
    return re.sub(r"\d+", "n", record.reason) or "no reason given"


def group_of(step: int, sample: Sample, answers: Sequence[tuple[Completion, RewardRecord]]) -> Group:
    """A group with its advantages computed."""
    advantages = group_advantages([record.reward for _, record in answers])
    return Group(step, sample, tuple(Rollout(c, record, a) for (c, record), a in zip(answers, advantages, strict=True)))


def rollout_files(folder: str | Path) -> list[Path]:
    """The parquet files of a run, by step: of the folder itself, its ``rollouts`` or its ``grpo/rollouts``.

    Raises:
        UserError: there are none.
    """
    folder = Path(folder)
    for place in (folder, folder / "rollouts", folder / "grpo" / "rollouts"):
        files = sorted(place.glob("step-*.parquet"), key=_place)
        if files:
            return files
    what = "holds no rollouts (expected rollouts/step-*.parquet, as pr1 train writes them)"
    raise UserError(f"{folder}: {what if folder.is_dir() else 'no such folder'}")


def read_groups(folder: str | Path, *, limit: int | None = None) -> list[Group]:
    """The groups of a run in the order of its steps.

    Answers of a group that spans processes are put together again; advantages are computed anew.

    Args:
        folder: see `rollout_files`.
        limit: at most about that many rollouts, the files taken evenly from the whole run.

    Raises:
        UserError: no rollouts there, or files of another program.
    """
    files = rollout_files(folder)
    if limit is not None:
        files = _evenly(files, limit)
    return [group for step, rows in _steps(files) for group in _groups(step, rows)]


def count_rollouts(folder: str | Path) -> int:
    """How many rollouts a run saved, from the files' footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in rollout_files(folder))


def write_groups(folder: str | Path, groups: Sequence[Group]) -> None:
    """Save groups as a training does, one file a step, so that every tool reads them alike."""
    from perception_r1.train.callbacks import RolloutWriter

    by_step: dict[int, list[Group]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).append(group)
    for step, found in by_step.items():
        rows = [(g.sample, r.completion, r.record) for g in found for r in g.rollouts]
        samples, completions, records = (list(column) for column in zip(*rows, strict=True))
        RolloutWriter(Path(folder), len(found[0].rollouts))(step, samples, completions, records)


def _steps(files: Sequence[Path]) -> Iterator[tuple[int, list[tuple[int, dict[str, Any]]]]]:
    """(step, [(index of the file, row), …]) of each step, the processes' files together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_step: dict[int, list[Path]] = {}
    for path in files:
        by_step.setdefault(_step_of(path), []).append(path)
    for step, paths in sorted(by_step.items()):
        rows: list[tuple[int, dict[str, Any]]] = []
        for rank, path in enumerate(paths):
            try:
                table = pq.read_table(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"is not a readable parquet file: {' '.join(str(error).split())}", path=path) from None
            missing = {"group", "id", "completion", "record", "row"} - set(table.column_names)
            if missing:
                raise DataError(
                    f"is not a file of rollouts of this version (lacks the columns {', '.join(sorted(missing))})",
                    path=path,
                )
            rows += [(rank, row) for row in table.to_pylist()]
        yield step, rows


def _groups(step: int, rows: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[Group]:
    several = len({rank for rank, _ in rows}) > 1
    found: dict[Any, list[dict[str, Any]]] = {}
    for _, row in rows:
        # Within one process the writer's number is the group; a group that spans processes is known by its sample.
        found.setdefault(row["id"] if several else row["group"], []).append(row)
    for members in found.values():
        answers = [
            (Completion(row["completion"], row.get("finish_reason")), record_from_dict(json.loads(row["record"])))
            for row in members
        ]
        yield group_of(step, _sample(members[0]["row"]), answers)


@lru_cache(maxsize=4096)
def _sample(row: str) -> Sample:
    return sample_from_row(json.loads(row), path="rollouts", check_image=False, image_required=False)


def _place(path: Path) -> tuple[int, int]:
    """(step, process) of ``step-000001.parquet`` and ``step-000001-rank1.parquet``."""
    step, _, rank = path.stem.removeprefix("step-").partition("-rank")
    if not step.isdigit() or not (rank or "0").isdigit():
        raise DataError("is not named as rollouts are (step-000001.parquet)", path=path)
    return int(step), int(rank or 0)


def _step_of(path: Path) -> int:
    return _place(path)[0]


def _evenly(files: list[Path], limit: int) -> list[Path]:
    """Files of evenly spread steps, first and last among them, that hold about ``limit`` rows."""
    import pyarrow.parquet as pq

    rows = [pq.read_metadata(path).num_rows for path in files]
    if sum(rows) <= limit:
        return files
    by_step: dict[int, list[int]] = {}
    for index, path in enumerate(files):
        by_step.setdefault(_step_of(path), []).append(index)
    steps = sorted(by_step)
    n = max(1, min(len(steps), int(limit / (sum(rows) / len(steps)))))
    chosen = {steps[round(i * (len(steps) - 1) / max(1, n - 1))] for i in range(n)}
    return [files[index] for step in sorted(chosen) for index in by_step[step]]
