from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

TRAINER = {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "gradient_checkpointing": False, "save_steps": 2}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL from its config, saved as users' models are."""
    pytest.importorskip("trl")
    from perception_r1.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny") / "model"
    model, processor = build_tiny("qwen3_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    """A recipe of four small steps on digit scenes."""
    (tmp_path / "scenes").mkdir()
    digits = {"source": "digits", "path": str(tmp_path / "scenes"), "options": {"n": 12, "max_digits": 3}}
    values: dict[str, Any] = {
        "name": "small",
        "task": "counting",
        "model": str(tiny_model),
        "data": {"train": [digits]},
        "grpo": {
            **TRAINER,
            "max_steps": 4,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 8,
            "beta": 0.04,
        },
        "sft": {**TRAINER, "max_steps": 4, "per_device_train_batch_size": 4},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
