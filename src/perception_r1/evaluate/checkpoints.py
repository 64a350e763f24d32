"""The published checkpoints, and how their authors ask them: one command evaluates each.

Prompt, token limit, repetition penalty and image limits are those of the released evaluations (PR1's four scripts,
which resize by qwen-vl-utils' limits; VPR's reasoning prompt), and win over a benchmark's own defaults. Give the id as
``--like`` to ask a copy, or another model of the family, in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perception_r1.data.fields import did_you_mean
from perception_r1.errors import UserError

# qwen-vl-utils: 4 · 28 · 28 and 16384 · 28 · 28 pixels.
_MIN_PIXELS, _MAX_PIXELS = 3_136, 12_845_056


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How a checkpoint is asked.

    Attributes:
        model: its id on the hub.
        family: its family (coordinate frame).
        benchmarks: names or groups that it is made for; "" when lmms-eval runs them.
        max_new_tokens, repetition_penalty, prompt: of its released evaluation.
        min_pixels, max_pixels: of the image.
    """

    model: str
    family: str
    benchmarks: str
    max_new_tokens: int
    repetition_penalty: float = 1.0
    prompt: Literal["training", "evaluation"] = "evaluation"
    min_pixels: int = _MIN_PIXELS
    max_pixels: int = _MAX_PIXELS


CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.model: checkpoint
    for checkpoint in (
        Checkpoint("Kangheng/PR1-Qwen2-VL-2B-Counting", "qwen2_vl", "pixmo-count", 512),
        Checkpoint("Kangheng/PR1-Qwen2-VL-2B-Grounding", "qwen2_vl", "grounding", 512, 1.05),
        Checkpoint("Kangheng/PR1-Qwen2-VL-2B-OCR", "qwen2_vl", "pageocr", 2048),
        Checkpoint("Kangheng/PR1-Qwen2.5-VL-3B-Detection", "qwen2_5_vl", "coco2017", 4096),
        Checkpoint("tongxiao2002/Perception-R1-7B", "qwen2_5_vl", "", 4096, 1.0, "training", 3_136, 1_806_336),
    )
}


def checkpoint_for(like: str | None, model: str | None) -> Checkpoint | None:
    """The checkpoint named by ``--like``, or the model itself when it is one.

    Raises:
        UserError: ``like`` is not one of them.
    """
    if like is not None and like not in CHECKPOINTS:
        hint = did_you_mean(like, CHECKPOINTS)
        raise UserError(f"--like {like}: is no published checkpoint{hint} (known: {', '.join(CHECKPOINTS)})")
    return CHECKPOINTS.get(like or model or "")
