"""A training whose judge fails, for one answer, for a group, for whole steps: it goes on, and nothing is scored 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_double import ChatDouble

pytest.importorskip("trl")
pytest.importorskip("aiohttp")

import pyarrow.parquet

from perception_r1.errors import UserError
from perception_r1.models.tiny import build_tiny
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    network, processor = build_tiny("qwen3_vl")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def recipe_at(folder: Path, model: Path, url: str) -> Path:
    (folder / "diagrams").mkdir()
    values = {
        "name": "judged",
        "task": "geometry",
        "model": str(model),
        "prompt": "bare",
        "reward": {"judge": {"kind": "openai", "base_url": url, "model": "m", "attempts": 2, "timeout_s": 20}},
        "data": {
            "train": [
                {
                    "source": "diagrams",
                    "path": str(folder / "diagrams"),
                    "options": {"n": 12, "size": 96, "kinds": ["segments"]},
                }
            ]
        },
        "grpo": {
            "max_steps": 3,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "max_completion_length": 8,
            "beta": 0.0,
            "gradient_checkpointing": False,
            "save_strategy": "no",
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def yes(body: dict[str, Any]) -> str:
    return json.dumps({"verdicts": [{"id": i, "verdict": "stated"} for i in (1, 2)]})


def test_steps_without_a_judge_are_not_scored_and_do_not_end_the_training(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def behave(body: dict[str, Any], n: int) -> Any:
        nonlocal asked
        if "We see that AB = 5." in body["messages"][-1]["content"]:  # the question before training
            return '{"verdicts": [{"id": 1, "verdict": "stated", "quote": "AB = 5"}]}'
        asked += 1
        return "I do not know." if asked <= 16 else yes(body)  # the first step gets nothing (8 answers, twice each)

    with ChatDouble(behave) as double:
        recipe = load_recipe(recipe_at(tmp_path, model, double.url))
        run_grpo(recipe, tmp_path / "run", show_progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "judge/not_scored" in row]
    assert [row["judge/not_scored"] for row in steps] == [1.0, 0.0, 0.0]
    assert steps[0]["reward"] is None  # not a number, and no zero
    assert "8 of 8 answers not scored (the judge's answer holds no verdicts" in caplog.text
    assert steps[1]["components/visual"] == 1.0
    first = pyarrow.parquet.read_table(tmp_path / "run" / "rollouts" / "step-000001.parquet").to_pylist()
    assert all(row["reward"] is None and row["advantage"] is None for row in first)
    assert all("holds no verdicts" in row["reason"] for row in first)
    later = pyarrow.parquet.read_table(tmp_path / "run" / "rollouts" / "step-000002.parquet").to_pylist()
    assert all(row["reward"] is not None for row in later)
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run" / "judge.sqlite").is_file()


def test_a_judge_that_cannot_be_asked_is_an_error_before_training(tmp_path: Path, model: Path) -> None:
    with ChatDouble(lambda body, n: 404) as double:
        recipe = load_recipe(recipe_at(tmp_path, model, double.url))
        with pytest.raises(UserError, match="the judge cannot be asked"):
            run_grpo(recipe, tmp_path / "run", show_progress=False)
