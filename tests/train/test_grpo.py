"""Whole runs of TRL's trainers on a tiny model: what they leave, what they refuse, and that a kill loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")

import pyarrow.parquet

from perception_r1.errors import ModelError, RecipeError, UserError
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo, run_sft


def logged(folder: Path, key: str) -> list[float]:
    """The values of ``key`` in a run's metrics, by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def test_a_run_leaves_model_metrics_and_rollouts(recipe_file: Path, tmp_path: Path) -> None:
    from perception_r1.models.load import load_model

    out = tmp_path / "run"
    model = run_grpo(load_recipe(recipe_file), out, show_progress=False)
    assert model == out / "model"
    load_model(model)  # loadable as any model is
    assert json.loads((out / "config.json").read_text())["stage"] == "grpo"
    assert json.loads((out / "environment.json").read_text())["packages"]["trl"]
    assert len(logged(out, "reward")) == 4
    assert {"kl", "entropy", "grad_norm", "completions/mean_length", "components/count"} <= set(
        json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    )
    files = sorted((out / "rollouts").iterdir())
    assert [file.name for file in files] == [f"step-{step:06d}.parquet" for step in (1, 2, 3, 4)]
    rows = pyarrow.parquet.read_table(files[0]).to_pylist()
    assert len(rows) == 8
    assert {row["group"] for row in rows} == {0, 1}
    # What the trainer logged is the mean of what the rollouts say.
    assert logged(out, "reward")[0] == pytest.approx(sum(row["reward"] for row in rows) / 8, abs=1e-6)


def test_what_training_saw_is_stored_with_the_model(recipe_file: Path, tmp_path: Path) -> None:
    """Checkpoints and final model carry the recipe's image limits in their processor's own files."""
    from perception_r1.models.limits import stored_limits

    settings = ["grpo.max_steps=2", "image.max_pixels=4096", "image.min_pixels=1024"]
    recipe = load_recipe(recipe_file, settings)
    assert stored_limits(recipe.model) == (3136, 1_000_000)
    out = tmp_path / "run"
    model = run_grpo(recipe, out, show_progress=False)
    assert stored_limits(model) == (1024, 4096)
    assert stored_limits(out / "checkpoints" / "checkpoint-2") == (1024, 4096)
    again = run_sft(load_recipe(recipe_file, ["sft.max_steps=1", f"model={model}"]), tmp_path / "sft")
    assert stored_limits(again) == (3136, 1_000_000)  # none named: the family's, as images were shown


def test_the_policy_never_writes_an_image_token(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # An untrained policy samples almost uniformly over its vocabulary: 256 rollouts of 8 tokens would hold some.
    run_grpo(
        load_recipe(
            recipe_file,
            ["grpo.max_steps=2", "grpo.num_generations=64", "grpo.per_device_train_batch_size=128", "grpo.beta=0"],
        ),
        out,
        show_progress=False,
    )
    texts = [
        row["completion"]
        for file in (out / "rollouts").iterdir()
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]
    assert len(texts) == 256
    assert not any(token in text for text in texts for token in ("<|image_pad|>", "<|vision_start|>", "<|video_pad|>"))
    assert any("<|" in text for text in texts)  # other special tokens are kept


def test_sft_lowers_the_loss_and_warm_start_feeds_grpo(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["warm_start=sft", "sft.max_steps=12", "grpo.max_steps=1"])
    out = tmp_path / "run"
    run_grpo(recipe, out, show_progress=False)
    losses = logged(out / "sft", "loss")
    assert losses[-1] < losses[0] - 0.5
    assert json.loads((out / "grpo" / "config.json").read_text())["start"] == str(out / "sft" / "model")


@pytest.mark.parametrize("stage", ["train", "sft"])
def test_a_killed_run_resumes_to_the_same_result(stage: str, recipe_file: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps = ["--set", "grpo.max_steps=6", "--set", "sft.max_steps=6"]
    command = [sys.executable, "-m", "perception_r1", stage, str(recipe_file), "--quiet", *steps, "--out"]
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (killed / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model").exists()

    recipe = load_recipe(recipe_file, steps[1::2])
    run = {"train": run_grpo, "sft": run_sft}[stage]
    run(recipe, killed, resume=True, show_progress=False)
    run(recipe, whole, show_progress=False)
    assert len(logged(whole, "loss")) == 6
    assert logged(killed, "loss") == pytest.approx(logged(whole, "loss"), abs=1e-5)
    if stage == "train":
        assert logged(killed, "reward") == pytest.approx(logged(whole, "reward"), abs=1e-6)
        for file in sorted((whole / "rollouts").iterdir()):
            assert pyarrow.parquet.read_table(
                killed / "rollouts" / file.name, columns=["id", "completion", "reward"]
            ) == pyarrow.parquet.read_table(file, columns=["id", "completion", "reward"])
    assert run(recipe, whole, resume=True, show_progress=False) == whole / "model"  # finished: nothing to do
    # Of the same recipe, but other weights to start from, or other rows: another run.
    inputs = json.loads((whole / "config.json").read_text())
    for changed in ({"start": {"fingerprint": "0"}}, {"rows": "0"}):
        config = {**inputs, "inputs": {**inputs["inputs"], **changed}}
        (whole / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"with another recipe \(differs in: inputs\)"):
            run(recipe, whole, resume=True, show_progress=False)


@pytest.mark.parametrize(
    ("override", "error", "parts"),
    [
        ("grpo.learning_rat=1", RecipeError, ["grpo.learning_rat", "did you mean 'learning_rate'"]),
        ("grpo.output_dir=x", RecipeError, ["grpo.output_dir", "--out"]),
        ("grpo.per_device_train_batch_size=6", RecipeError, ["field 'grpo'", "divisible"]),
        ("grpo.per_device_train_batch_size=64", RecipeError, ["12 training rows", "16 prompts"]),
        ("model=no/such/model/folder", ModelError, ["no such model folder"]),
        ("grpo.max_completion_length=9000", RecipeError, ["context is 8192", "max_completion_length"]),
        ("reward.components={iuo: 1}", RecipeError, ["iuo"]),
        ("reward.function=nowhere:fn", RecipeError, ["nowhere"]),
        ("lora={rank: 8}", RecipeError, ["lora.rank"]),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    override: str, error: type[UserError], parts: list[str], recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(error) as caught:
        run_grpo(load_recipe(recipe_file, [override]), out, show_progress=False)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_died_in_its_first_step_does_not_block_the_next_try(
    resume: bool, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the rollouts, as for want of memory: the second try is another recipe, in the same folder."""
    import torch

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    out = tmp_path / "run"
    with monkeypatch.context() as full, pytest.raises(torch.OutOfMemoryError):
        full.setattr(torch.nn.utils, "clip_grad_norm_", fail)
        run_grpo(load_recipe(recipe_file), out, show_progress=False)
    assert (out / "rollouts" / "step-000001.parquet").is_file() and not (out / "metrics.jsonl").exists()
    smaller = ["grpo.max_steps=1", "grpo.per_device_train_batch_size=4"]
    run_grpo(load_recipe(recipe_file, smaller), out, resume=resume, show_progress=False)
    assert len(logged(out, "reward")) == 1
    (file,) = (out / "rollouts").iterdir()
    assert len(pyarrow.parquet.read_table(file)) == 4


def test_lora_trains_adapters_only_and_saves_a_whole_model(recipe_file: Path, tmp_path: Path, tiny_model: Path) -> None:
    from perception_r1.models.load import load_model

    lora = "lora={r: 4, target_modules: [q_proj, v_proj]}"
    settings = [lora, "sft.max_steps=1", "sft.learning_rate=1e-2", "grpo.max_steps=1"]
    start = load_model(tiny_model, dtype="float32")[0].state_dict()
    for run in (run_sft, run_grpo):  # SFT moves the adapters for certain
        out = tmp_path / run.__name__
        found = load_model(run(load_recipe(recipe_file, settings), out, show_progress=False))[0].state_dict()
        assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == 4
        assert found.keys() == start.keys()
        changed = {name for name in start if not start[name].equal(found[name])}
        assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)
        assert changed or run is run_grpo


def test_an_adapter_is_merged_into_a_bfloat16_model_without_losing_what_it_learned(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    from perception_r1.models.load import load_model
    from perception_r1.models.tiny import build_tiny
    from perception_r1.train.grpo import merge_adapter

    model, processor = build_tiny("qwen2_5_vl")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    trained = get_peft_model(
        load_model(tmp_path / "base", dtype="float32")[0], LoraConfig(r=4, target_modules=["q_proj"])
    )
    torch.manual_seed(0)
    for name, weight in trained.named_parameters():
        if "lora_B" in name:  # a run at a learning rate of 1e-5 moves weights by no more
            weight.data.normal_(std=2e-4)
    trained.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    expected = trained.merge_and_unload()
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="auto").state_dict()
    start = load_file(tmp_path / "base" / "model.safetensors")
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-7)
    moved = next(name for name in start if name.endswith("layers.0.self_attn.q_proj.weight") and "visual" not in name)
    assert not torch.equal(load_file(tmp_path / "merged" / "model.safetensors")[moved], start[moved].float())


def test_a_frozen_vision_tower_stays_as_it_was(recipe_file: Path, tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    recipe = load_recipe(recipe_file, ["freeze_vision=true", "sft.max_steps=1"])
    out = run_sft(recipe, tmp_path / "run", show_progress=False)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("visual" in name for name in changed)
