"""Tiny vision-language models built from their configs: real architectures of one to three million parameters.

The ``qwen3_vl`` one is the embedded default of the demo (its learned position embeddings let it localise within
minutes); the others are smaller and untrained, for dry runs of recipes and for tests.
"""

from __future__ import annotations

from typing import Any

from perception_r1.errors import ModelError
from perception_r1.models.processors import image_only
from perception_r1.models.tiny_tokenizer import INTERNVL_TEMPLATE, QWEN_TEMPLATE, build_tokenizer

_MEAN, _STD = [0.85] * 3, [0.25] * 3  # of the digit scenes: paper near 0, so that ink stands out from the start
TINY_FAMILIES = ("qwen3_vl", "qwen2_vl", "qwen2_5_vl", "internvl")


def build_tiny(family: str = "qwen3_vl", *, seed: int = 0) -> tuple[Any, Any]:
    """Build an untrained tiny model and its processor.

    Args:
        family: one of ``TINY_FAMILIES``.
        seed: of the initial weights; the global random state is left as it was.

    Returns:
        (model in float32 on the CPU, in eval mode; processor). Saved and loaded again they give the same logits.
    """
    import torch

    if family not in TINY_FAMILIES:
        raise ModelError(f"there is no tiny model of family {family!r}: choose one of {', '.join(TINY_FAMILIES)}")
    processor = build_processor(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[family](processor.tokenizer)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor


def build_processor(family: str = "qwen3_vl") -> Any:
    """The tiny model's processor: tokenizer, image processor and chat template."""
    import transformers
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    if family == "internvl":
        tokenizer = build_tokenizer(internvl=True)
        images = GotOcr2ImageProcessorPil(size={"height": 112, "width": 112}, crop_to_patches=False)
        cls = image_only(transformers.InternVLProcessor)
        return cls(images, tokenizer, None, image_seq_length=16, chat_template=INTERNVL_TEMPLATE)
    name, patch = {
        "qwen3_vl": ("Qwen3VLProcessor", 16),
        "qwen2_vl": ("Qwen2VLProcessor", 14),
        "qwen2_5_vl": ("Qwen2_5_VLProcessor", 14),
    }[family]
    images = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, image_mean=_MEAN, image_std=_STD, min_pixels=3136, max_pixels=1_000_000
    )
    return image_only(getattr(transformers, name))(images, build_tokenizer(), None, chat_template=QWEN_TEMPLATE)


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """Settings that all the language models share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **changes,
    }


def _vision_ids(tokenizer: Any) -> dict[str, int]:
    ids = {key: f"<|{key}|>" for key in ("image_pad", "video_pad", "vision_start", "vision_end")}
    return {
        f"{key.removesuffix('_pad')}_token_id": tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()
    }


def _qwen3_vl(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {
        "depth": 3,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [1],
        "initializer_range": 0.05,
    }
    text = _text(tokenizer, head_dim=32, rope_parameters=rope, initializer_range=0.05, tie_word_embeddings=True)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_vision_ids(tokenizer))
    model = Qwen3VLForConditionalGeneration(config)
    # With the usual small start, where a patch is drowns in what it shows for the first hundreds of steps.
    model.model.visual.pos_embed.weight.data.normal_(std=0.3)
    return model


def _qwen2_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 4, "patch_size": 14}
    text = _text(tokenizer, hidden_size=64, intermediate_size=128, num_hidden_layers=2, rope_parameters=rope)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **_vision_ids(tokenizer))
    return Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "patch_size": 14,
        "window_size": 56,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    text = _text(tokenizer, hidden_size=64, intermediate_size=128, num_hidden_layers=2, rope_parameters=rope)
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **_vision_ids(tokenizer)
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _internvl(tokenizer: Any) -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": [112, 112],
        "patch_size": [14, 14],
    }
    text = _text(tokenizer, model_type="qwen2", hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
    )
    return InternVLForConditionalGeneration(config)


_BUILDERS = {"qwen3_vl": _qwen3_vl, "qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "internvl": _internvl}
