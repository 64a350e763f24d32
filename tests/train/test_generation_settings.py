"""A model's own ``generation_config.json`` changes no rollout, and is saved with the trained model as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

pytest.importorskip("trl")

from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo

# Each would show in eight sampled tokens; a temperature without do_sample is what save_pretrained refuses.
OWN = {
    "repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 8,
    "min_p": 0.9,
    "typical_p": 0.1,
    "begin_suppress_tokens": [1, 2, 3],
    "temperature": 1e-6,
    "top_k": 1,
}


def rollouts(recipe_file: Path, model: Path, out: Path, *overrides: str) -> list[str]:
    settings = [f"model={model}", "grpo.max_steps=1", "grpo.save_steps=1", *overrides]
    run_grpo(load_recipe(recipe_file, settings), out, show_progress=False)
    files = sorted((out / "rollouts").iterdir())
    return [row["completion"] for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def test_rollouts_are_the_policys(recipe_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    file = own / "generation_config.json"
    text = json.dumps({**json.loads(file.read_text()), **OWN})
    file.write_text(text)
    plain = rollouts(recipe_file, tiny_model, tmp_path / "plain")
    assert rollouts(recipe_file, own, tmp_path / "run") == plain
    for folder in (tmp_path / "run" / "model", tmp_path / "run" / "checkpoints" / "checkpoint-1"):
        assert (folder / "generation_config.json").read_text() == text
    lora = "lora={r: 2, target_modules: [q_proj]}"
    assert rollouts(recipe_file, own, tmp_path / "lora", lora) == plain
    assert (tmp_path / "lora" / "model" / "generation_config.json").read_text() == text
