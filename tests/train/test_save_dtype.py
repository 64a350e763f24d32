"""A trained model is saved in its base's dtype, rounded once; what another stage goes on from is not rounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

from perception_r1.models.load import load_model
from perception_r1.recipe import build
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo, run_sft

LORA = "lora={r: 4, target_modules: [q_proj, v_proj]}"


@pytest.fixture(scope="module")
def half_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL in bfloat16, as models are published."""
    from perception_r1.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("half") / "model"
    model, processor = build_tiny("qwen2_5_vl")
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def dtypes(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in weights(folder).values()}


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_saved_as_the_base_is_and_in_float32_on_request(
    adapted: bool, recipe_file: Path, half_model: Path, tmp_path: Path
) -> None:
    settings = [f"model={half_model}", "sft.max_steps=2", "sft.learning_rate=1e-2", *([LORA] if adapted else [])]
    whole = run_sft(load_recipe(recipe_file, [*settings, "save_dtype=float32"]), tmp_path / "a", show_progress=False)
    half = run_sft(load_recipe(recipe_file, settings), tmp_path / "b", show_progress=False)
    assert (dtypes(whole), dtypes(half)) == ({torch.float32}, {torch.bfloat16})
    for folder, name in ((whole, "float32"), (half, "bfloat16")):
        assert json.loads((folder / "config.json").read_text())["dtype"] == name
        assert next(load_model(folder)[0].parameters()).dtype == getattr(torch, name)
    start = weights(half_model)
    assert any(not torch.equal(start[key].float(), value) for key, value in weights(whole).items())
    # The one is the other, rounded: weights and logits alike.
    assert all(torch.equal(value.to(torch.bfloat16), weights(half)[key]) for key, value in weights(whole).items())
    ids = torch.arange(300, 320)[None]
    with torch.no_grad():
        rounded = load_model(whole, dtype="bfloat16")[0](input_ids=ids).logits
        assert torch.equal(rounded, load_model(half)[0](input_ids=ids).logits)


def test_grpo_goes_on_from_the_float32_weights_of_sft(recipe_file: Path, half_model: Path, tmp_path: Path) -> None:
    """At GRPO's learning rate of 0 its model must be SFT's, rounded once at the very end."""
    overrides = [f"model={half_model}", "warm_start=sft", "sft.max_steps=2", "grpo.max_steps=2", "grpo.learning_rate=0"]
    last = run_grpo(load_recipe(recipe_file, overrides), tmp_path / "run", show_progress=False)
    first = tmp_path / "run" / "sft" / "model"
    assert (dtypes(first), dtypes(last)) == ({torch.float32}, {torch.bfloat16})
    assert any(not torch.equal(value.to(torch.bfloat16).float(), value) for value in weights(first).values())
    checkpoint = tmp_path / "run" / "grpo" / "checkpoints" / "checkpoint-2"
    assert dtypes(checkpoint) == {torch.float32}  # what --resume goes on from
    kept = weights(checkpoint)
    assert all(torch.equal(value, kept[key]) for key, value in weights(first).items())
    assert all(torch.equal(value.to(torch.bfloat16), weights(last)[key]) for key, value in kept.items())


def test_a_float32_model_stays_float32(recipe_file: Path, tmp_path: Path) -> None:
    out = run_sft(load_recipe(recipe_file, ["sft.max_steps=1"]), tmp_path / "run", show_progress=False)
    assert dtypes(out) == {torch.float32}


def test_frozen_weights_stay_as_published_and_adapters_are_float32(
    recipe_file: Path, half_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import GRPOConfig

    from perception_r1.train import setup

    def loaded(*overrides: str) -> torch.dtype:
        recipe = load_recipe(recipe_file, [f"model={half_model}", *overrides])
        args = setup.trainer_args(GRPOConfig, recipe.grpo, name="grpo", folder=tmp_path, where=recipe.name)
        family = build.recipe_family(recipe)
        return next(setup.load_for_training(recipe, half_model, args, family)[0].parameters()).dtype

    half = "grpo.bf16=true"
    assert loaded(LORA, half) == torch.bfloat16
    assert loaded(LORA) == torch.float32  # computes in float32
    assert loaded(half) == torch.float32  # every weight is trained
    assert loaded(LORA, half, "lora.modules_to_save=[lm_head]") == torch.float32  # a copy of these is trained
    with monkeypatch.context() as launched:
        launched.setenv("ACCELERATE_USE_FSDP", "true")
        assert loaded(LORA, half) == torch.float32  # weights in parts are of one dtype

    settings = [f"model={half_model}", LORA, "grpo.max_steps=2", half, "reward.function=tests_reward:score"]
    (tmp_path / "tests_reward.py").write_text(
        "import zlib\n\ndef score(sample, completion, parsed, match):\n"
        "    return zlib.crc32(completion.text.encode()) % 101 / 100\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = run_grpo(load_recipe(recipe_file, settings), tmp_path / "run", show_progress=False)
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    assert dtypes(out) == {torch.bfloat16}
