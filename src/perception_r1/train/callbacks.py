"""What a run writes while it trains: ``metrics.jsonl``, rollouts with their records, and progress."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from perception_r1.data.row import row_from_sample
from perception_r1.disk import naming
from perception_r1.errors import RecipeError
from perception_r1.models.generation import keep_settings
from perception_r1.progress import progress
from perception_r1.stats import group_advantages
from perception_r1.types import Completion, RewardRecord, Sample


class MetricsWriter(TrainerCallback):
    """Appends each log of the trainer to ``metrics.jsonl``, one JSON object a line with its ``step``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take what the trainer logs."""
        if not state.is_world_process_zero or not logs:
            return
        values = {"step": state.global_step, **{name: _finite(value) for name, value in logs.items()}}
        with naming(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")


class KeepSettings(TrainerCallback):
    """Gives each checkpoint the base model's own ``generation_config.json``, which training does without."""

    def __init__(self, base: str | Path) -> None:
        self.base = base

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take note of a checkpoint."""
        if state.is_world_process_zero:
            keep_settings(self.base, Path(args.output_dir) / f"checkpoint-{state.global_step}")


class Progress(TrainerCallback):
    """A bar (or plain lines) with rate, time left and the figures that matter now."""

    def __init__(self, label: str, shown: Sequence[tuple[str, str]]) -> None:
        self.label, self.shown = label, shown
        self.note = ""
        self.manager: Any = None
        self.advance: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the progress."""
        if state.is_world_process_zero:
            self.manager = progress(self.label, state.max_steps, done=state.global_step, unit="steps")
            self.advance = self.manager.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take what the trainer logs."""
        parts = [f"{label} {logs[key]:.3f}" for key, label in self.shown if logs and _finite(logs.get(key)) is not None]
        self.note = "  ".join(parts) or self.note

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        if self.advance is not None:
            self.advance(1, self.note)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the progress."""
        if self.manager is not None:
            self.manager.__exit__(None, None, None)
            self.manager = None


class AtEvaluation(TrainerCallback):
    """Calls ``action`` when an evaluation during training has ended, and sees to it that the best one can be told.

    Raises:
        RecipeError: ``metric_for_best_model`` is not a metric of the evaluation.
    """

    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        self.action = action

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Act after an evaluation during training."""
        self.action()
        name = args.metric_for_best_model
        known = {key.removeprefix("eval_") for key in metrics or {}}
        if name is not None and name.removeprefix("eval_") not in known:
            raise RecipeError(
                f"field 'metric_for_best_model': no metric {name!r} (the evaluation has: {', '.join(sorted(known))})"
            )


class RolloutWriter:
    """Saves every rollout with its record: ``rollouts/step-000001.parquet``, one file a step and process.

    A step that generates several times (``steps_per_generation`` below the accumulation) has them all in its file.

    ``record`` is the `RewardRecord` and ``row`` the canonical row of the sample, as JSON: a rollout can be looked at
    and scored again without the data it came from.

    Args:
        folder: the ``rollouts`` folder.
        group_size: rollouts a prompt (G); TRL keeps a group's rows together.
        rank: this process; those other than the first get a suffix, ``step-000001-rank1.parquet``.
        scale: of the advantages, as TRL's ``scale_rewards``.
        at_once: write with each batch of rollouts, or only when ``write`` is called (an evaluation has many batches).
    """

    def __init__(
        self, folder: Path, group_size: int, rank: int = 0, *, scale: str = "group", at_once: bool = True
    ) -> None:
        self.folder, self.group_size, self.rank, self.scale = folder, group_size, rank, scale
        self.at_once = at_once
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        """Of the step, so far."""

    def __call__(
        self, step: int, samples: list[Sample], completions: list[Completion], records: list[RewardRecord]
    ) -> None:
        """Take a batch of rollouts with their records."""
        size = self.group_size
        before = self.rows if step == self.step else []
        groups = 1 + before[-1]["group"] if before else 0
        rows = [
            {
                "step": step,
                "group": groups + i // size,
                "id": sample.id,
                "image": sample.image or "",
                "question": sample.question,
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "reward": record.reward,
                "advantage": None,
                "status": record.status,
                "reason": record.reason,
                "record": json.dumps(record.to_dict(), ensure_ascii=False),
                "row": json.dumps(row_from_sample(sample), ensure_ascii=False),
            }
            for i, (sample, completion, record) in enumerate(zip(samples, completions, records, strict=True))
        ]
        for start in range(0, len(rows), size):
            group = rows[start : start + size]
            # Otherwise the group spans processes, or the scale does.
            if self.scale != "batch" and len(group) == size and len({row["id"] for row in group}) == 1:
                rewards = [record.reward for record in records[start : start + size]]
                advantages = group_advantages(rewards, scaled=self.scale == "group")
                for row, advantage in zip(group, advantages, strict=True):
                    row["advantage"] = advantage
        self.step, self.rows = step, [*before, *rows]
        if self.at_once:
            self.write()

    def write(self) -> None:
        """Write the file of the step."""
        import pyarrow
        import pyarrow.parquet

        self.folder.mkdir(parents=True, exist_ok=True)
        suffix = "" if self.rank == 0 else f"-rank{self.rank}"
        path = self.folder / f"step-{self.step:06d}{suffix}.parquet"
        temporary = path.with_suffix(".tmp")
        table = pyarrow.Table.from_pylist(self.rows, schema=_schema())
        with naming(path):
            pyarrow.parquet.write_table(table, temporary, compression="zstd")
        temporary.replace(path)


def _schema() -> Any:
    import pyarrow as pa

    text, real = pa.string(), pa.float64()
    columns = {
        "step": pa.int64(),
        "group": pa.int64(),
        **dict.fromkeys(("id", "image", "question", "completion", "finish_reason"), text),
        **dict.fromkeys(("reward", "advantage"), real),
        **dict.fromkeys(("status", "reason", "record", "row"), text),
    }
    return pa.schema(list(columns.items()))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
