"""Images: which are equal, and features kept while the vision tower is frozen."""

from __future__ import annotations

import copy
from typing import Any

import batches
import pytest
import torch

from perception_r1 import shared_prefix
from perception_r1.shared_prefix.features import FeatureCache, is_frozen, tower_of
from perception_r1.shared_prefix.images import first_equal


def freeze(model: Any) -> Any:
    for part in tower_of(model.model):
        part.requires_grad_(False)
    return model


def inputs_of(family: str) -> dict[str, Any]:
    rows = batches.group([0], batches.answers(4, 5)) + batches.group([1, 2], batches.answers(2, 6, 1), start=9)
    return batches.batch_of(family, rows)


def forward(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return model.model(**inputs, use_cache=False).last_hidden_state[inputs["attention_mask"].bool()]


def test_equal_images_are_found_by_their_whole_content() -> None:
    a = torch.arange(600.0).reshape(20, 30)
    b = a.clone()
    b[7, 11] += 1  # not among the sampled values
    assert first_equal([a, b, a.clone(), a[:10], b.clone()]) == [0, 1, 0, 3, 1]
    assert first_equal([a, a, a], labels=[(1, 4), (2, 2), (1, 4)]) == [0, 1, 0]
    assert first_equal([a / 0, a / 0]) == [0, 1]  # NaN
    assert first_equal([]) == []


def test_blank_images_of_equal_area_are_two_images() -> None:
    """2×6 and 6×2 patches of the same grey: the same patches, other positions."""
    model = batches.tiny("qwen2_5_vl")
    inputs = batches.batch_of("qwen2_5_vl", [r for _ in range(2) for r in batches.group([1], batches.answers(2, 4))])
    inputs["pixel_values"] = torch.full_like(inputs["pixel_values"], 0.5)
    inputs["image_grid_thw"][2:] = torch.tensor([1, 6, 2])
    with torch.no_grad():
        plain = forward(model, inputs)
        stats = shared_prefix.enable(model)
        torch.testing.assert_close(forward(model, inputs), plain, rtol=0, atol=2e-5)
    assert stats.images_encoded == 2
    shared_prefix.disable(model)


def test_a_frozen_tower_encodes_an_image_once(family: str, fresh: Any) -> None:
    inputs = inputs_of(family)
    weights = torch.randn(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    plain, theirs = batches.gradients(freeze(fresh), dict(inputs), weights)
    stats = shared_prefix.enable(fresh)
    for _ in range(2):
        ours, gradients = batches.gradients(fresh, dict(inputs), weights)
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
        assert batches.worst_gradient(gradients, theirs) < 1e-5
    assert (stats.images_in, stats.images_encoded) == (16, 3)
    prompts = batches.batch_of(family, batches.group([2], [()] * 3), padding="left")
    generated = fresh.generate(**prompts, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert stats.images_encoded == 3
    shared_prefix.disable(fresh)
    assert torch.equal(generated, fresh.generate(**prompts, max_new_tokens=3, do_sample=False, pad_token_id=0))


def test_a_tower_in_training_encodes_every_time(family: str, fresh: Any) -> None:
    stats = shared_prefix.enable(fresh)
    for _ in range(2):
        forward(fresh, inputs_of(family))
    assert stats.images_encoded == 6


def test_new_weights_new_features(family: str, fresh: Any) -> None:
    inputs = inputs_of(family)
    stats = shared_prefix.enable(freeze(fresh))
    with torch.no_grad():
        before = forward(fresh, inputs)
        for part in tower_of(fresh.model):
            for p in part.parameters():
                p.mul_(1.1)
        ours = forward(fresh, inputs)
        assert stats.images_encoded == 6
        shared_prefix.disable(fresh)
        torch.testing.assert_close(ours, forward(fresh, inputs), rtol=0, atol=2e-5)
    assert not torch.allclose(ours, before, atol=1e-3)


def test_autocast_has_features_of_its_own(family: str, fresh: Any) -> None:
    inputs = inputs_of(family)
    stats = shared_prefix.enable(freeze(fresh))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            forward(fresh, inputs)
        ours = forward(fresh, inputs)
        shared_prefix.disable(fresh)
        torch.testing.assert_close(ours, forward(fresh, inputs), rtol=0, atol=2e-5)
    assert stats.images_encoded == 6


def test_features_of_inference_mode_do_not_reach_training(family: str, fresh: Any) -> None:
    inputs = inputs_of(family)
    shared_prefix.enable(freeze(fresh))
    with torch.inference_mode():
        forward(fresh, inputs)
    forward(fresh, inputs).sum().backward()


@pytest.mark.parametrize("equal", [True, False])
def test_the_reference_uses_the_policys_features_only_if_its_tower_is_equal(
    family: str, fresh: Any, equal: bool
) -> None:
    inputs = inputs_of(family)
    reference = copy.deepcopy(fresh)
    with torch.no_grad():
        if not equal:
            next(tower_of(reference.model)[0].parameters()).mul_(1.5)
        fresh.model.language_model.layers[0].mlp.up_proj.weight.mul_(1.1)
        plain = forward(reference, inputs)
        stats = shared_prefix.enable(freeze(fresh), reference)
        forward(fresh, inputs)
        torch.testing.assert_close(forward(reference, inputs), plain, rtol=0, atol=2e-5)
    assert stats.images_encoded == (3 if equal else 6)
    shared_prefix.disable(reference)


def test_a_tower_with_an_adapter_is_not_frozen(family: str, fresh: Any) -> None:
    """Switching the adapter off freezes it, and changes its features."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(fresh, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    backbone = model.get_base_model().model
    inputs = inputs_of(family)
    stats = shared_prefix.enable(model)
    with torch.no_grad():
        with model.disable_adapter():
            assert not is_frozen(tower_of(backbone))
            forward(model.get_base_model(), inputs)
        forward(model.get_base_model(), inputs)
    assert stats.images_encoded == 6


def test_lora_on_the_language_model_leaves_the_tower_frozen(family: str, fresh: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(fresh, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    stats = shared_prefix.enable(model)
    for _ in range(2):
        forward(model.get_base_model(), inputs_of(family))
    with torch.no_grad(), model.disable_adapter():
        forward(model.get_base_model(), inputs_of(family))
    assert stats.images_encoded == 3


def test_the_cache_is_bounded() -> None:
    cache = FeatureCache(limit=100)
    for index in range(5):
        cache.put(bytes([index]), (torch.zeros(10),))  # 40 bytes each
    assert (len(cache), cache.bytes) == (2, 80)
    assert cache.get(b"\x03") is not None  # used last: the other one goes first
    cache.put(b"new", (torch.zeros(10),))
    assert cache.get(b"\x04") is None and cache.get(b"\x03") is not None
    cache.put(b"large", (torch.zeros(1000),))
    assert (len(cache), cache.bytes) == (0, 0)


def test_no_cache(family: str, fresh: Any) -> None:
    stats = shared_prefix.enable(freeze(fresh), cache_bytes=0)
    for _ in range(2):
        forward(fresh, inputs_of(family))
    assert stats.images_encoded == 6
