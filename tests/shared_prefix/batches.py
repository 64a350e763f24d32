"""Tiny models of every family, and batches of rows that share prompts, for the tests of shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as hf

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")
IMAGE, START, END, VIDEO, PAD = 60, 61, 62, 63, 0  # token ids; 1 to 59 are text
_SPECIAL = {"image_token_id": IMAGE, "video_token_id": VIDEO}
_MARKS = {"vision_start_token_id": START, "vision_end_token_id": END}
_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def tiny(family: str, *, seed: int = 0, attention: str = "sdpa", **text: Any) -> Any:
    """A model of about 60,000 parameters, large enough weights that attention is far from uniform."""
    text = {**_TEXT, **text}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
        config: Any = hf.Qwen2VLConfig(
            text_config={**text, "rope_parameters": _ROPE}, vision_config=vision, **_SPECIAL, **_MARKS
        )
        kind: Any = hf.Qwen2VLForConditionalGeneration
    elif family == "qwen2_5_vl":
        vision = {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        }
        config = hf.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": _ROPE}, vision_config=vision, **_SPECIAL, **_MARKS
        )
        kind = hf.Qwen2_5_VLForConditionalGeneration
    elif family == "qwen3_vl":
        vision = {
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        }
        rope = {**_ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        config = hf.Qwen3VLConfig(
            text_config={**text, "head_dim": 8, "rope_parameters": rope}, vision_config=vision, **_SPECIAL, **_MARKS
        )
        kind = hf.Qwen3VLForConditionalGeneration
    else:
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": [16, 16],
            "patch_size": [4, 4],
        }
        config = hf.InternVLConfig(
            text_config={"model_type": "qwen2", **text}, vision_config=vision, image_token_id=IMAGE, image_seq_length=4
        )
        kind = hf.InternVLForConditionalGeneration
    torch.manual_seed(seed)
    model = kind._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name and p.ndim == 1 and "bias" not in name else 0.0, 0.25)
    model.generation_config.eos_token_id = None
    return model.eval()


@dataclass(frozen=True)
class Row:
    """One row: text, then its images (indices), then text; and the answer."""

    images: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...]


def grid_of(family: str, image: int) -> tuple[int, int]:
    """Patches (height, width) of image `image`: three shapes, of which InternVL knows one."""
    return (4, 4) if family == "internvl" else ((4, 4), (2, 6), (4, 2))[image % 3]


def pixels_of(family: str, image: int) -> torch.Tensor:
    """The pixels of image `image`, always the same."""
    generator = torch.Generator().manual_seed(1000 + image)
    height, width = grid_of(family, image)
    shape = (1, 3, 16, 16) if family == "internvl" else (height * width, 3 * 2 * 4 * 4)
    return torch.randn(shape, generator=generator)


def prompt_of(family: str, row: Row) -> list[int]:
    """Token ids of a row's prompt."""
    shown = []
    for image in row.images:
        height, width = grid_of(family, image)
        shown += [START] + [IMAGE] * (height * width // 4) + [END]
    return [*row.before, *shown, *row.after]


def batch_of(family: str, rows: Sequence[Row], *, padding: str = "trl", types: bool = True) -> dict[str, Any]:
    """Model inputs of some rows.

    Args:
        family: one of FAMILIES.
        rows: the rows.
        padding: `left`, `right`, `trl` (prompts padded left, answers right) or `none` (rows of equal length, no mask).
        types: whether to pass `mm_token_type_ids`.
    """
    prompts = [prompt_of(family, row) for row in rows]
    answers = [list(row.answer) for row in rows]
    if padding == "trl":
        wide, long = max(map(len, prompts)), max(map(len, answers))
        ids = [[PAD] * (wide - len(p)) + p + a + [PAD] * (long - len(a)) for p, a in zip(prompts, answers, strict=True)]
        mask = [
            [0] * (wide - len(p)) + [1] * (len(p) + len(a)) + [0] * (long - len(a))
            for p, a in zip(prompts, answers, strict=True)
        ]
    else:
        joined = [p + a for p, a in zip(prompts, answers, strict=True)]
        wide = max(map(len, joined))
        left = padding == "left"
        ids = [[PAD] * (wide - len(t)) + t if left else t + [PAD] * (wide - len(t)) for t in joined]
        mask = [[0] * (wide - len(t)) + [1] * len(t) if left else [1] * len(t) + [0] * (wide - len(t)) for t in joined]
    inputs: dict[str, Any] = {"input_ids": torch.tensor(ids)}
    if padding != "none":
        inputs["attention_mask"] = torch.tensor(mask)
    shown = [image for row in rows for image in row.images]
    if shown:
        inputs["pixel_values"] = torch.cat([pixels_of(family, image) for image in shown])
        if family != "internvl":
            inputs["image_grid_thw"] = torch.tensor([(1, *grid_of(family, image)) for image in shown])
    if types and family != "internvl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return inputs


def group(images: Sequence[int], answers: Sequence[Sequence[int]], *, start: int = 5, text: int = 4) -> list[Row]:
    """Rows of one prompt."""
    before, after = (3, 4), tuple(range(start, start + text))
    return [Row(tuple(images), before, after, tuple(answer)) for answer in answers]


def answers(count: int, length: int | Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random answers; `length` of all of them, or of each."""
    rng = np.random.default_rng(seed)
    lengths = [length] * count if isinstance(length, int) else list(length)
    return [rng.integers(1, 60, n).tolist() for n in lengths]


def log_probs(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (B, L − 1) of every next token, and where it counts."""
    logits = model(**inputs, use_cache=False).logits.float()
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    picked = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return picked, mask[:, 1:] & mask[:, :-1]


def gradients(
    model: Any, inputs: dict[str, Any], weights: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities where they count, and every parameter's gradient of their weighted sum."""
    model.zero_grad()
    picked, counts = log_probs(model, inputs)
    (picked * weights[: picked.shape[0], : picked.shape[1]])[counts].sum().backward()
    return picked[counts].detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst_gradient(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a parameter's gradient; a nearly vanishing norm counts as 1 % of the total."""
    assert ours.keys() == theirs.keys()
    total = torch.stack([g.norm() for g in theirs.values()]).norm()
    return max(float((ours[n] - g).norm() / torch.maximum(g.norm(), 0.01 * total)) for n, g in theirs.items())
