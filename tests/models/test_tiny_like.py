"""Tiny models of real models' architectures: the published configuration, only small."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
import transformers

from perception_r1.models.tiny import build_processor
from perception_r1.models.tiny_like import build_like, tiny_config

CONFIGS = ["Qwen2VLConfig", "Qwen2_5_VLConfig", "Qwen3VLConfig", "Qwen3VLMoeConfig", "InternVLConfig"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_processor("qwen3_vl").tokenizer


@pytest.mark.parametrize("name", CONFIGS)
def test_a_real_configuration_becomes_a_tiny_model_of_its_class(name: str, tokenizer: Any) -> None:
    config = getattr(transformers, name)()  # sizes of the published 7B to 30B models
    small = tiny_config(config)
    assert type(small) is type(config)
    assert small.get_text_config().vocab_size == config.get_text_config().vocab_size
    for key in ("image_token_id", "vision_start_token_id"):
        assert getattr(small, key, None) == getattr(config, key, None)
    for key in ("patch_size", "spatial_merge_size", "temporal_patch_size", "window_size", "image_size"):
        kept, own = (getattr(part.vision_config, key, None) for part in (small, config))
        assert kept == (list(own) if isinstance(own, tuple) else own)
    model = build_like(config, tokenizer)
    assert model.config.model_type == config.model_type
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000_000
    ids = torch.tensor([[5, 6, 7, 8]])
    assert model(input_ids=ids).logits.shape == (1, 4, config.get_text_config().vocab_size)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_weights_depend_on_the_seed_alone(tokenizer: Any) -> None:
    config = transformers.Qwen2_5_VLConfig()
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    first = build_like(config, tokenizer)
    assert torch.equal(torch.rand(1), before)
    again = build_like(config, tokenizer).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.state_dict().items())
