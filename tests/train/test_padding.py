"""Tokenizers that pad on the right, as published ones do: GRPO is the same, and the saved model pads as its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("trl")

import pyarrow.parquet

from perception_r1.models.processors import load_processor
from perception_r1.models.tiny import TINY_FAMILIES, build_tiny
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo

QUESTIONS = ("cup", "the small cup on the left of the two tall blue bottles", "a dog that looks at its own tail", "cat")
SIZES = ((112, 112), (168, 112), (112, 140), (196, 84))


def write_rows(folder: Path) -> Path:
    """Grounding rows whose questions and images differ in size."""
    rng = np.random.default_rng(0)
    rows = []
    for index, (question, size) in enumerate(zip(QUESTIONS, SIZES, strict=True)):
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append({"id": str(index), "image": f"{index}.png", "question": question, "boxes": [[10, 10, 60, 70]]})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "task": "grounding"}) + "\n" for row in rows), encoding="utf-8")
    return path


def model_folder(folder: Path, family: str, side: str) -> Path:
    """A tiny model whose ``tokenizer_config.json`` says on which side it pads."""
    model, processor = build_tiny(family)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}), encoding="utf-8")
    return folder


def train(
    folder: Path, family: str, side: str, *, shared: bool = False
) -> tuple[list[dict[str, Any]], list[Any], Path]:
    """Two steps of GRPO: the logs, the rollouts, and the run's folder."""
    folder.mkdir()
    recipe = {
        "name": "padding",
        "task": "grounding",
        "model": str(model_folder(folder / "base", family, side)),
        "data": {"train": [{"source": "jsonl", "path": str(write_rows(folder))}]},
        # Untrained answers are all wrong; a reward by length alone tells them apart.
        "reward": {"function": "padding_reward:by_length"},
        "shared_prefix": shared,
        "grpo": {
            "max_steps": 2,
            "num_generations": 2,
            "per_device_train_batch_size": 8,
            "max_completion_length": 6,
            "beta": 0.04,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "save_strategy": "no",
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = run_grpo(load_recipe(folder / "recipe.yaml"), folder / "run", show_progress=False).parent
    logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rollouts = [
        (row["completion"], row["reward"])
        for file in sorted((out / "rollouts").iterdir())
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]
    return logs, rollouts, out


@pytest.fixture(autouse=True)
def reward_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "padding_reward.py").write_text(
        "def by_length(sample, completion, parsed, match):\n    return (len(completion.text) % 7) / 7\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_training_is_the_same_on_whichever_side_the_tokenizer_pads(family: str, tmp_path: Path) -> None:
    left, right = (train(tmp_path / side, family, side) for side in ("left", "right"))
    shared = train(tmp_path / "shared", family, "right", shared=True)
    assert len({len(text) for text, _ in left[1]}) > 1
    assert any(abs(log["loss"]) > 1e-6 for log in left[0] if "loss" in log)
    for other in (right, shared):
        assert other[1] == left[1]
        for key in ("loss", "kl", "grad_norm", "reward", "entropy"):
            values = [[log[key] for log in logs if key in log] for logs in (left[0], other[0])]
            assert len(values[0]) == 2, key
            assert values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-6), key
    for side, (_, _, out) in (("left", left), ("right", right)):
        assert json.loads((out / "model" / "tokenizer_config.json").read_text())["padding_side"] == side
        assert json.loads((out / "model" / "tokenizer.json").read_text())["padding"] is None
        assert load_processor(out / "model").tokenizer.padding_side == "left"
