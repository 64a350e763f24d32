"""vLLM's settings pass through to TRL, with image tokens banned. vLLM itself needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from trl import GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from perception_r1.families import get_family
from perception_r1.models.tiny import build_processor
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.grpo import ban_image_tokens
from perception_r1.train.setup import image_token_ids, trainer_args

ROOT = Path(__file__).resolve().parents[2]


def arguments(tmp_path: Path, *overrides: str) -> GRPOConfig:
    recipe = load_recipe(ROOT / "recipes" / "grounding" / "rl.yaml", [*overrides, "grpo.bf16=false"])
    return trainer_args(GRPOConfig, recipe.grpo, name="grpo", folder=tmp_path, where="r")


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_flags_and_ban_reach_trl(mode: str, tmp_path: Path) -> None:
    family, tokenizer = get_family("qwen2_5_vl"), build_processor("qwen2_5_vl").tokenizer
    args = arguments(tmp_path, f"@{ROOT / 'configs' / 'recipe' / f'vllm-{mode}.yaml'}")
    assert (args.use_vllm, args.vllm_mode) == (True, mode)
    assert (args.top_p, args.top_k, args.temperature) == (1.0, 0, 1.0)
    if mode == "server":
        assert (args.vllm_server_host, args.vllm_server_port, args.vllm_server_timeout) == ("127.0.0.1", 8000, 600.0)
    else:
        assert args.vllm_enable_sleep_mode
    ids = image_token_ids(family, tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") in ids
    args.generation_kwargs = {"logit_bias": {7: 1.0}, "seed": 3}
    ban_image_tokens(args, ids)
    # In one process SamplingParams gets this dict as it is, so its keys are numbers; -100 is the least that vLLM takes.
    assert args.generation_kwargs == {"logit_bias": {**dict.fromkeys(ids, -100.0), 7: 1.0}, "seed": 3}
    assert "generation_kwargs" in VLLMGeneration.__init__.__annotations__


def test_the_ban_without_vllm(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.generation_kwargs = {"suppress_tokens": [9]}
    ban_image_tokens(args, [5, 4])
    assert args.generation_kwargs == {"suppress_tokens": [4, 5, 9]}
    ban_image_tokens(args, [])
    assert args.generation_kwargs == {"suppress_tokens": [4, 5, 9]}
