"""A short seeded training gives the numbers that lie in tests/golden, step by step.

In float64: another processor rounds a logit otherwise, and float32 is not enough to sample the same tokens everywhere.
After a change that is meant to move them: ``pytest tests/train/test_golden.py --write-golden``, and both in the
commit message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import torch

from perception_r1.models.load import load_model
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo
from perception_r1.train.warm_start import unpack_warm_start

GOLDEN = Path(__file__).parents[1] / "golden"
COLUMNS = ("step", "loss", "reward", "kl", "grad_norm")
STEPS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = unpack_warm_start(tmp_path_factory.mktemp("golden") / "model")
    load_model(folder, dtype="float32")[0].double().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["counting", "detection"])
def test_a_short_training(task: str, model: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    values: dict[str, Any] = {
        "name": "golden",
        "task": task,
        "model": str(model),
        "family": "qwen3_vl",
        "data": {"train": [{"source": "digits", "path": str(tmp_path / "scenes"), "count": 8}]},
        "grpo": {
            "use_cpu": True,
            "bf16": False,
            "max_steps": STEPS,
            "num_generations": 4,
            "beta": 0.04,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-4,
            "max_completion_length": 64,
            "seed": 0,
            "model_init_kwargs": {"dtype": "auto"},
            "save_strategy": "no",
        },
    }
    recipe = tmp_path / "golden.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    run_grpo(load_recipe(recipe), tmp_path / "run", show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [[line[name] for name in COLUMNS] for line in lines if "loss" in line]
    assert len(rows) == STEPS
    file = GOLDEN / f"{task}.tsv"
    version = torch.__version__.partition("+")[0]
    if pytestconfig.getoption("--write-golden"):
        table = [("torch", version), COLUMNS, *rows]
        file.write_text("\n".join("\t".join(map(str, row)) for row in table) + "\n", encoding="utf-8")
    (_, written_with), header, *expected = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
    if version != written_with:
        pytest.skip(f"written with torch {written_with}: {version} draws other samples")
    assert tuple(header) == COLUMNS
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx([float(value) for value in wanted], rel=1e-5, abs=1e-9)
