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

from perception_r1.errors import UserError

_PACKAGES = ("perception-r1", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "vllm")


def open_run(folder: str | Path, config: dict[str, Any], *, resume: bool) -> Path:
    """Make a run's folder and write ``config.json`` and ``environment.json`` into it.

    Args:
        folder: where; must be new or empty unless ``resume``.
        config: the resolved recipe.
        resume: go on with what is there; the recipe must be the same.

    Raises:
        UserError: the folder holds another run.
    """
    folder = Path(folder)
    config_file = folder / "config.json"
    if config_file.is_file():
        if not resume:
            raise UserError(f"{folder}: already holds a run; add --resume to go on with it, or choose another --out")
        before = json.loads(config_file.read_text(encoding="utf-8"))
        changed = [key for key in sorted({*before, *config}) if before.get(key) != config.get(key)]
        if changed:
            raise UserError(
                f"{config_file}: --resume with another recipe (differs in: {', '.join(changed)}); choose another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: not empty and no run of ours; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "environment.json", environment())
    write_json(config_file, config)
    return folder


def environment() -> dict[str, Any]:
    """Versions and hardware, to tell runs apart later. Nothing personal: no host name, no paths, no variables."""
    info: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
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
    """Forget metrics and rollouts of steps after ``step``: a resumed run writes them again."""
    metrics = folder / "metrics.jsonl"
    if metrics.is_file():
        kept = [line for line in metrics.read_text(encoding="utf-8").splitlines() if _step_of(line, step + 1) <= step]
        write_text(metrics, "".join(line + "\n" for line in kept))
    for file in (folder / "rollouts").glob("step-*.parquet"):
        if int(file.name.removeprefix("step-")[:6]) > step:
            file.unlink()


def remove_checkpoints(folder: Path) -> None:
    """Drop the checkpoints of a finished run (the final model has been saved)."""
    shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
