from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).with_name("gloo_run.py")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL, saved as users' models are."""
    pytest.importorskip("trl")
    from perception_r1.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny") / "model"
    model, processor = build_tiny("qwen3_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def digits_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Four steps of two groups of four on digit scenes; a group may lie across two processes."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "scenes").mkdir()
    values: dict[str, Any] = {
        "name": "engines",
        "task": "counting",
        "model": str(tiny_folder),
        "data": {"train": [{"source": "digits", "path": str(folder / "scenes"), "options": {"n": 8, "max_digits": 3}}]},
        "grpo": {
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "max_steps": 4,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 48,
            "loss_type": "grpo",
            "beta": 0.04,
            "save_steps": 2,
            "use_cpu": True,
            "bf16": False,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch() -> Launch:
    """Start processes by torchrun, as a user does, and wait for them."""

    def start(*arguments: str, processes: int = 2, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=timeout)

    return start
