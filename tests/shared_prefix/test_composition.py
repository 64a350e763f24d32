"""With activation checkpointing, LoRA, bf16, dropout and other attention; and callers that are refused."""

from __future__ import annotations

import warnings
from typing import Any

import batches
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from perception_r1 import shared_prefix
from perception_r1.errors import ModelError


def inputs_of(family: str) -> dict[str, Any]:
    rows = batches.group([0], batches.answers(4, [5, 3, 7, 5])) + batches.group(
        [1, 2], batches.answers(2, 6, 1), start=9
    )
    return batches.batch_of(family, rows)


def both(model: Any, inputs: dict[str, Any], **enable: Any) -> shared_prefix.Stats:
    """Log-probabilities and gradients, plain and shared, within 1e-5."""
    weights = torch.randn(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    plain, theirs = batches.gradients(model, dict(inputs), weights)
    stats = shared_prefix.enable(model, **enable)
    found, ours = batches.gradients(model, dict(inputs), weights)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    assert batches.worst_gradient(ours, theirs) < 1e-5
    return stats


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(family: str, fresh: Any, reentrant: bool) -> None:
    """Layers are called again during backward, when the forward is long over."""
    inputs = inputs_of(family)
    weights = torch.randn(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    plain, theirs = batches.gradients(fresh, dict(inputs), weights)
    fresh.train()
    fresh.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        fresh.enable_input_require_grads()
    calls = []
    fresh.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    stats = shared_prefix.enable(fresh)
    found, ours = batches.gradients(fresh, dict(inputs), weights)
    assert len(calls) == 2 and stats.shared == 1
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    assert batches.worst_gradient(ours, theirs) < 1e-5


@pytest.mark.parametrize("wrap_first", [False, True])
@pytest.mark.parametrize("targets", ["language", "all-linear"])
def test_lora(family: str, fresh: Any, wrap_first: bool, targets: str) -> None:
    from peft import LoraConfig, get_peft_model

    inputs = inputs_of(family)
    if not wrap_first:
        shared_prefix.enable(fresh)
    pattern = r".*language_model.*(q|v|down)_proj" if targets == "language" else targets
    torch.manual_seed(0)
    model = get_peft_model(fresh, LoraConfig(r=4, target_modules=pattern, init_lora_weights=False))
    model.train()
    shared_prefix.disable(model)
    stats = both(model, inputs)
    assert stats.shared == 1
    with torch.no_grad(), model.disable_adapter():  # the reference of a LoRA run
        ours, counts = batches.log_probs(model, inputs)
        shared_prefix.disable(model)
        plain, _ = batches.log_probs(model, inputs)
    torch.testing.assert_close(ours[counts], plain[counts], rtol=0, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bf16_is_as_near_to_float32_as_the_plain_model(family: str, fresh: Any, autocast: bool) -> None:
    """Root mean square distance to float32 over 256 log-probabilities: at most 1.25 times the plain model's."""
    rows = batches.group([0], batches.answers(8, 16)) + batches.group([1, 2], batches.answers(8, 16, 1), start=9)
    inputs = batches.batch_of(family, rows)
    with torch.no_grad():
        exact, counts = batches.log_probs(fresh, inputs)
        if not autocast:
            fresh.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain, _ = batches.log_probs(fresh, inputs)
            stats = shared_prefix.enable(fresh)
            ours, _ = batches.log_probs(fresh, inputs)
    assert stats.shared == 1
    counts[:, :-16] = False
    far, plain_far = (float((x - exact)[counts].pow(2).mean().sqrt()) for x in (ours, plain))
    assert 0 < far <= 1.25 * plain_far


def test_dropout_takes_the_plain_path_and_says_so_once(family: str, fresh: Any) -> None:
    inputs = inputs_of(family)
    fresh.model.language_model.layers[0].self_attn.attention_dropout = 0.1
    stats = shared_prefix.enable(fresh)
    fresh.train()
    with pytest.warns(UserWarning, match="dropout is active"):
        fresh(**inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh(**inputs)
        assert (stats.shared, stats.plain) == (0, {"dropout is active": 2})
        assert (stats.images_in, stats.images_encoded) == (16, 6)  # the tower drops nothing
        fresh.eval()
        fresh(**inputs)
    assert stats.shared == 1


def test_dropout_in_the_tower() -> None:
    """Every row's noise is its own there too."""
    model = batches.tiny("internvl").train()
    model.model.vision_tower.encoder.layer[0].dropout.p = 0.1
    stats = shared_prefix.enable(model)
    with pytest.warns(UserWarning, match="dropout is active"):
        model(**inputs_of("internvl"))
    assert stats.images_encoded == stats.images_in == 8
    shared_prefix.disable(model)


def test_lora_dropout(family: str, fresh: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(fresh, LoraConfig(r=4, target_modules=r".*language_model.*q_proj", lora_dropout=0.1))
    stats = shared_prefix.enable(model)
    model.train()
    with pytest.warns(UserWarning, match="lora_dropout"):
        model(**inputs_of(family))
    assert stats.shared == 0


def test_eager_attention_takes_the_plain_path_and_says_so(family: str) -> None:
    model = batches.tiny(family, attention="eager")
    stats = shared_prefix.enable(model)
    with pytest.warns(UserWarning, match="attn_implementation='eager'"):
        model(**inputs_of(family))
    assert stats.shared == 0
    shared_prefix.disable(model)


def test_a_flash_implementation_is_called_as_flash_attention_wants_it(family: str, fresh: Any) -> None:
    """A kernel with FlashAttention's conventions: no mask but of padding, lower-right causal, grouped heads."""
    name = "a_flash_kernel"
    calls = []

    def kernel(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
        causal = kwargs.get("is_causal", module.is_causal)
        if key.shape[1] != module.config.num_key_value_heads or not causal:
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **kwargs)  # the vision tower
        assert module.config._attn_implementation == name
        calls.append((tuple(query.shape), tuple(key.shape)))
        allowed = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        if attention_mask is not None:
            assert attention_mask.ndim == 2
            allowed = allowed & attention_mask[:, None, None].bool() | torch.eye(len(allowed), dtype=torch.bool)
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, allowed, scale=kwargs["scaling"], enable_gqa=True
        )
        return output.transpose(1, 2), None

    AttentionInterface.register(name, kernel)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    try:
        fresh.model.language_model.config._attn_implementation = name
        stats = both(fresh, inputs_of(family))
        assert stats.shared == 1
        prompt = int(inputs_of(family)["attention_mask"][0].sum()) - 5
        assert ((1, 4, prompt, 8), (1, 2, prompt, 8)) in calls
        assert ((4, 4, 7, 8), (4, 2, prompt + 7, 8)) in calls
        shared_prefix.disable(fresh)
        assert ALL_ATTENTION_FUNCTIONS[name] is kernel
    finally:
        for interface in (AttentionInterface, AttentionMaskInterface):
            del interface._global_mapping[name]


@pytest.mark.parametrize("asked", [{"output_hidden_states": True}, {"inputs_embeds": True}])
def test_what_packing_cannot_give_takes_the_plain_path(family: str, model: Any, asked: dict[str, Any]) -> None:
    inputs = batches.batch_of(family, batches.group([], batches.answers(3, 5)))
    if "inputs_embeds" in asked:
        asked = {"inputs_embeds": model.get_input_embeddings()(inputs.pop("input_ids")), "input_ids": None}
    with torch.no_grad():
        model.model.rope_deltas = None
        plain = model.model(**inputs, **asked)
        stats = shared_prefix.enable(model)
        ours = model.model(**inputs, **asked)
    assert stats.shared == 0 and len(stats.plain) == 1
    assert torch.equal(ours.last_hidden_state, plain.last_hidden_state)


def test_packed_callers_are_refused_by_name(family: str, model: Any) -> None:
    shared_prefix.enable(model)
    ids = torch.tensor([[3, 4, 5, 6, 3, 4, 7]])
    restarts = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    with pytest.raises(ModelError, match=r"verl.*padding_free.*use_remove_padding=False"):
        model(input_ids=ids, position_ids=restarts)
    with pytest.raises(ModelError, match=r"cu_seq_lens_q"):
        model(input_ids=ids, cu_seq_lens_q=torch.tensor([0, 4, 7], dtype=torch.int32))
    if family != "internvl":
        with pytest.raises(ModelError, match=r"start again"):
            model(input_ids=ids, position_ids=restarts[None].expand(4, 1, -1))


def test_image_tokens_that_do_not_match_are_the_models_to_report(family: str, model: Any) -> None:
    inputs = inputs_of(family)
    inputs["input_ids"][2, -3] = batches.IMAGE
    stats = shared_prefix.enable(model)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(**inputs)
    assert stats.shared == 0


def test_others_are_refused_by_name() -> None:
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ModelError, match=r"LlamaForCausalLM is not supported.*Qwen2_5_VLModel"):
        shared_prefix.enable(llama)
    sliding = batches.tiny("qwen2_5_vl", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ModelError, match="sliding"):
        shared_prefix.enable(sliding)
    with pytest.raises(ModelError, match="gpt2"):
        internvl = batches.tiny("internvl")
        internvl.model.language_model.config.model_type = "gpt2"
        shared_prefix.enable(internvl)


def test_wrappers_are_looked_through(family: str, model: Any) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

    shared_prefix.enable(Wrapper(), None)
    assert shared_prefix.is_enabled(model.model)
    shared_prefix.disable(Wrapper(), None)
    assert not shared_prefix.is_enabled(model)


def test_long_answers_need_no_square_of_the_packed_length() -> None:
    """16 answers of 200 tokens: a mask over the packed row would have 3,212² = 10 million places."""
    model = batches.tiny("qwen2_5_vl", num_hidden_layers=1)
    inputs = batches.batch_of("qwen2_5_vl", batches.group([0], batches.answers(16, 200)))
    shared_prefix.enable(model)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, x.numel() if isinstance(x, torch.Tensor) else 0)
            return out

    with Largest():
        model.model(**inputs, use_cache=False).last_hidden_state.sum().backward()
    # The MLP's inner activations: no term in the square. Older versions of torch write out the attention of each answer
    # to itself and the prompt (16 answers × 4 heads × 200 × 212).
    assert largest <= (16 * 200 + 12) * 48 or largest == 16 * 4 * 200 * 212
    shared_prefix.disable(model)
