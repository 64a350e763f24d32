"""The demo end to end, small: the packaged weights, SFT, GRPO, evaluation and report; and that it can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

from perception_r1.demo import STAGES, demo_recipe, run_demo
from perception_r1.errors import UserError

SMALL = (
    "data.train=[{source: digits, options: {n: 32, min_digits: 2, max_digits: 5}}]",
    "data.eval=[{source: digits, split: heldout, options: {n: 24, seed: 5000, min_digits: 2, max_digits: 5}}]",
    "grpo.max_steps=2",
    "grpo.per_device_train_batch_size=32",
)


def test_the_packaged_weights_are_small_and_know_their_digits(tmp_path: Path) -> None:
    import perception_r1
    from perception_r1.demo import warm_start

    assets = Path(perception_r1.__file__).parent / "assets"
    assert sum(file.stat().st_size for file in assets.rglob("*") if file.is_file()) < 8 * 2**20
    warm_start(tmp_path / "warm", rebuild=False)
    assert (tmp_path / "warm" / "model.safetensors").is_file()


def test_the_demo_runs_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said: list[str] = []
    result = run_demo("counting", out, overrides=SMALL, show_progress=False, say=said.append)
    figures = result.to_dict()
    assert figures["primary"] == "accuracy"
    # The warm start knows scenes of two and three digits, half of these; an untrained model would know none.
    assert figures["warm-start"]["value"] > 0.25
    assert all(0 <= figures[stage]["low"] <= figures[stage]["value"] <= figures[stage]["high"] <= 1 for stage in STAGES)
    assert figures["gain"]["value"] == pytest.approx(figures["rl"]["value"] - figures["warm-start"]["value"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "RL (GRPO)" in page and "<svg" in page
    assert any("24 held-out scenes" in line for line in said)

    samples = (out / "eval" / "rl" / "samples.jsonl").read_bytes()
    (out / "report.html").unlink()
    with pytest.raises(UserError, match="--resume"):
        run_demo("counting", out, overrides=SMALL, show_progress=False)
    again = run_demo("counting", out, overrides=SMALL, resume=True, show_progress=False, say=said.append)
    assert again.to_dict()["rl"] == figures["rl"]
    assert (out / "eval" / "rl" / "samples.jsonl").read_bytes() == samples
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("task", ["counting", "grounding", "detection", "ocr"])
def test_each_task_has_its_recipe_with_held_out_scenes(task: str, tmp_path: Path) -> None:
    recipe = demo_recipe(task, tmp_path, seed=3)
    assert recipe.task == task
    (train,), (held_out,) = recipe.data.train, recipe.data.eval
    assert (train.split or "train", held_out.split) == ("train", "heldout")
    assert train.options["seed"] == 1003  # the run's own scenes
    assert held_out.options["seed"] == 5000  # the same for every seed
    assert json.dumps(recipe.model_dump_plain())
