"""A tiny model of a given model's architecture: its own configuration, with the widths and depths of a toy.

What a run trips over stays as it is: the class, special ids, vocabulary, patch and window sizes, context, rope type.
"""

from __future__ import annotations

from typing import Any

from perception_r1.errors import ModelError

# Heads of 32, since attention kernels of engines start there.
_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_window_layers": 2,
}
_VISION = {
    "depth": 2,
    "num_hidden_layers": 2,
    "embed_dim": 128,
    "hidden_size": 128,
    "intermediate_size": 256,
    "mlp_ratio": 2,
    "num_heads": 4,
    "num_attention_heads": 4,
    "out_hidden_size": 128,
    "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [1],
}
_MROPE_SECTION = [6, 5, 5]
"""Of half a head's 32 numbers, for time, height and width."""


def tiny_config(config: Any) -> Any:
    """The configuration with small sizes, of the same class.

    Args:
        config: of a vision-language model, as ``AutoConfig`` reads it.
    """
    values = config.to_dict()
    for key in ("quantization_config", "dtype", "torch_dtype"):
        values.pop(key, None)
    text = _small(values.get("text_config") or {}, _TEXT)
    if config.model_type.startswith("qwen"):
        key = "rope_scaling" if isinstance(text.get("rope_scaling"), dict) else "rope_parameters"
        text[key] = {"rope_type": "default", **(text.get(key) or {}), "mrope_section": _MROPE_SECTION}
    values["text_config"] = text
    values["vision_config"] = _small(values.get("vision_config") or {}, _VISION)
    return type(config).from_dict(values)


def build_like(config: Any, tokenizer: Any, *, seed: int = 0) -> Any:
    """A tiny model with random weights, in float32 on the CPU.

    Args:
        config: of the model that it stands for.
        tokenizer: whose end and padding tokens it generates with.
        seed: of the weights; the global random state is left as it was.

    Raises:
        ModelError: transformers cannot build the architecture at this size.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForImageTextToText.from_config(tiny_config(config), dtype=torch.float32)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"no tiny {config.model_type} can be built ({first})") from None
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def _small(values: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with those of ``sizes`` that it has, and what depends on them."""
    small = {**values, **{key: size for key, size in sizes.items() if values.get(key) is not None}}
    for key in ("dtype", "torch_dtype"):
        small.pop(key, None)
    if isinstance(values.get("layer_types"), list):
        small["layer_types"] = values["layer_types"][: sizes["num_hidden_layers"]]
    return small
