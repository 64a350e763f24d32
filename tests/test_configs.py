"""The ready configurations: accelerate reads them, recipes take them, and every key of theirs is one that exists."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from perception_r1.errors import RecipeError
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.renamed import installed_names

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
RECIPE = sorted((ROOT / "configs" / "recipe").glob("*.yaml"))
BASE = ROOT / "recipes" / "grounding" / "rl.yaml"


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_takes_it(path: Path) -> None:
    pytest.importorskip("accelerate")
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    wanted = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}[path.stem]
    assert str(config.distributed_type).rpartition(".")[2] == wanted
    assert (config.num_processes, config.mixed_precision) == (8, "bf16")
    if wanted == "FSDP":
        from accelerate.utils import FullyShardedDataParallelPlugin

        known = {field.name for field in fields(FullyShardedDataParallelPlugin)}
        known |= {"offload_params", "version"}  # cpu_offload and fsdp_version, as launch arguments
        for key in config.fsdp_config:
            assert key.removeprefix("fsdp_") in known, key
    if wanted == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])


@pytest.mark.parametrize("path", RECIPE, ids=lambda path: path.stem)
def test_a_recipe_takes_it(path: Path) -> None:
    recipe, plain = load_recipe(BASE, [f"@{path}"]), load_recipe(BASE)
    assert recipe != plain
    if path.stem == "one-gpu":
        assert recipe.lora == load_recipe(BASE, [f"@{path.with_stem('lora')}"]).lora
        assert (recipe.machine.devices, recipe.machine.sharding) == (1, "none")
    assert recipe.grpo is not None
    assert plain.grpo is not None
    assert {key: recipe.grpo[key] for key in plain.grpo if key != "learning_rate"} == {
        key: value for key, value in plain.grpo.items() if key != "learning_rate"
    }
    trl = pytest.importorskip("trl")
    known = {field.name for field in fields(trl.GRPOConfig)}
    assert installed_names(recipe.grpo, known, "r").keys() <= known
    if recipe.lora is not None:
        from peft import LoraConfig

        LoraConfig(**recipe.lora)
    # What is given after it wins.
    assert load_recipe(BASE, [f"@{path}", "grpo.learning_rate=0.5"]).grpo["learning_rate"] == 0.5  # type: ignore[index]


def test_lora_meets_the_language_model_only() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    from perception_r1.models.tiny import build_tiny

    lora = yaml.safe_load((ROOT / "configs" / "recipe" / "lora.yaml").read_text())["lora"]
    model, _ = build_tiny("qwen2_5_vl")
    adapted = [name for name, _ in get_peft_model(model, LoraConfig(**lora)).named_parameters() if "lora_A" in name]
    assert len(adapted) == 2 * 7  # layers × linear maps
    assert not any("visual" in name for name in adapted)


def test_a_quantised_model_is_asked_for_as_transformers_reads_it() -> None:
    pytest.importorskip("transformers")
    from transformers.quantizers.auto import AutoQuantizationConfig

    values = yaml.safe_load((ROOT / "configs" / "recipe" / "qlora.yaml").read_text())
    config = AutoQuantizationConfig.from_dict(values["grpo"]["model_init_kwargs"]["quantization_config"])
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = (
        "lm_head",
        "model.visual.blocks.0.attn.qkv",
        "model.vision_tower.encoder.layer.0",
        "model.multi_modal_projector.a",
    )
    assert not any(should_convert_module(name, config.llm_int8_skip_modules) for name in kept)
    assert should_convert_module("model.language_model.layers.0.mlp.up_proj", config.llm_int8_skip_modules)


def test_a_missing_file_is_said() -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(BASE, ["@nowhere.yaml"])
