"""The folder of a run: what was asked for, on what it ran, what it gave; and where to go on after a kill."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from perception_r1.disk import naming
from perception_r1.errors import UserError
from perception_r1.train.distributed import n_processes

_PACKAGES = ("perception-r1", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "vllm")


def open_run(folder: str | Path, config: dict[str, Any], *, resume: bool) -> Path:
    """Make a run's folder and write ``config.json`` and ``environment.json`` into it.

    A folder in which nothing was trained (see `is_unstarted`) is taken over, with or without ``resume``.

    Args:
        folder: where; must be new, empty or unstarted unless ``resume``.
        config: the resolved recipe and its ``stage``.
        resume: go on with what is there; what the stage reads of the recipe must be the same.

    Raises:
        UserError: the folder holds another run, or files that no run wrote, or another process is at work in it.
    """
    folder = Path(folder)
    config_file = folder / "config.json"
    if not is_unstarted(folder):
        before = _read_config(config_file)
        if before is None:
            raise UserError(f"{folder}: not empty and no run of ours; choose another --out")
        if not resume:
            raise UserError(f"{folder}: already holds a run; add --resume to go on with it, or choose another --out")
        ignored = _NOT_READ.get(config.get("stage", ""), ())
        keys = sorted({*before, *config}.difference(ignored))
        changed = [key for key in keys if before.get(key) != config.get(key)]
        if changed:
            raise UserError(
                f"{config_file}: --resume with another recipe (differs in: {', '.join(changed)}); choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _lock(folder)
    for leftover in folder.glob(".*.json.*.tmp"):
        leftover.unlink()
    write_json(config_file, config)
    write_json(folder / "environment.json", environment())
    return folder


def is_unstarted(folder: Path) -> bool:
    """Whether a run may begin in ``folder`` as if it were new: no step of an earlier try is in it.

    True for no folder, an empty one, what a process leaves that was stopped while it opened one, and a run that ended
    (out of memory, a missing package, an interrupt) before its first step was logged: no metrics, no complete
    checkpoint, no model, no evaluation, at most the first step's rollouts. A folder that no run of ours made is not.
    """
    if not folder.is_dir():
        return True  # or a file is in the way, as making the folder will say
    config = _read_config(folder / "config.json")
    if config is None or config["stage"] not in _TRAINING:
        own = () if config is None else ("config.json",)
        return all(path.name in own or _is_left_by_opening(path) for path in folder.iterdir())
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    return (
        not any(_step_of(line, 0) > 0 for line in lines)
        and last_checkpoint(folder / "checkpoints") is None
        and not any((folder / name).exists() for name in ("model", "adapter", "eval"))
        and all(_rollout_step(file) <= 1 for file in (folder / "rollouts").glob("step-*.parquet"))
        and all(is_unstarted(folder / stage) for stage in _STAGE_FOLDERS)
    )


_LOCKS: list[Any] = []
"""Open lock files: the system takes a lock back when its file is closed or the process ends, however it ends."""


def _lock(folder: Path) -> None:
    """Keep other processes from opening ``folder`` for as long as this one lives (nothing on systems without locks).

    Raises:
        UserError: another process has it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    stream = (folder / ".lock").open("a")
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by children, which may outlive a kill
    except BlockingIOError:
        raise UserError(
            f"{folder}: another process is at work in it; wait until it ends or choose another --out"
        ) from None
    except OSError:
        return  # a file system without locks
    _LOCKS.append(stream)


_STAGE_FOLDERS = ("sft", "grpo")
"""Folders that ``warm_start: sft``, the demo and grids make below theirs, a run in each."""

_TRAINING = (*_STAGE_FOLDERS, "demo")
"""Stages whose steps are in ``metrics.jsonl``, their own or that of the folders below."""

_NOT_READ = {"sft": ("grpo", "reward", "shared_prefix", "eval"), "grpo": ("eval",)}
"""Keys of a recipe that a stage does not read: a resumed run may change them."""


def _is_left_by_opening(path: Path) -> bool:
    """Whether a run that was stopped before its ``config.json`` was there may have left this file or folder."""
    if path.is_dir():
        return path.name in _STAGE_FOLDERS and is_unstarted(path)
    return path.name in ("environment.json", ".lock") or path.match(".*.json.*.tmp")


def _read_config(path: Path) -> dict[str, Any] | None:
    """What ``config.json`` of a run holds; None without one. A model's file of that name has no ``stage``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and "stage" in values else None


def environment() -> dict[str, Any]:
    """Versions and hardware, to tell runs apart later. Nothing personal: no host name, no paths, no variables."""
    info: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processes": n_processes(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        info["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
        info["threads"] = torch.get_num_threads()
    return info


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; one that a kill left half-written is passed over.

    ``trainer_state.json`` is what the trainer writes last.
    """
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    found = [path for path in found if _is_json(path / "trainer_state.json")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def drop_after(folder: Path, step: int) -> None:
    """Forget metrics and rollouts of steps after ``step``, which a resumed run writes again, and a half-saved model."""
    metrics = folder / "metrics.jsonl"
    if metrics.is_file():
        kept = [line for line in metrics.read_text(encoding="utf-8").splitlines() if _step_of(line, step + 1) <= step]
        write_text(metrics, "".join(line + "\n" for line in kept))
    for name in ("rollouts", "rollouts-eval"):
        for file in (folder / name).glob("step-*.parquet"):
            if _rollout_step(file) > step:
                file.unlink()
    shutil.rmtree(folder / ".model", ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Drop the checkpoints of a finished run (the final model has been saved)."""
    shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_text(text, encoding="utf-8")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def _rollout_step(file: Path) -> int:
    return int(file.name.removeprefix("step-")[:6])


def _step_of(line: str, default: int) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return default  # the half line that a kill left


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
