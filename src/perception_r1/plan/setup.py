"""What a plan is made for: what a device forwards at once, and how training is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Sharding: TypeAlias = Literal["none", "zero2", "zero3", "fsdp2"]
SHARDINGS: tuple[str, ...] = ("none", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Batch:
    """What one device forwards at once in training, in tokens.

    Attributes:
        rows: completions of a micro-batch.
        group: completions a prompt.
        prompt: tokens of a prompt with its image; ``longest`` of the longest.
        image: tokens of the image.
        answer: tokens of an answer, as expected; ``limit`` at most.
    """

    rows: int
    group: int
    prompt: float
    longest: float
    image: float
    longest_image: float
    answer: float
    limit: int
    shared: bool = True

    @property
    def prompts(self) -> float:
        """Prompts forwarded: one a group where prefixes are shared."""
        return max(1.0, self.rows / self.group) if self.shared else float(self.rows)


@dataclass(frozen=True)
class Setup:
    """How training is set up.

    Attributes:
        devices: processes, a device each.
        sharding: none (DDP), zero2, zero3, fsdp2.
        accumulate: micro-batches a step.
        reference: a second copy of the model for the KL term.
        lora: trainable parameters of adapters, None when the model itself is trained.
        weight_bytes, compute_bytes: of a weight as kept, and as computed with.
        checkpointing: activations are computed again in the backward pass.
        frozen_tower: the vision tower is not trained.
        vllm: share of the device's memory that vLLM takes, 0 without; ``server`` when it has devices of its own;
            ``sleeps`` when it gives its memory back while the policy trains.
        efficiency: share of the device's rate that training reaches.
    """

    devices: int = 1
    sharding: Sharding = "none"
    accumulate: int = 1
    reference: bool = False
    lora: int | None = None
    weight_bytes: float = 4.0
    compute_bytes: float = 2.0
    checkpointing: bool = True
    frozen_tower: bool = False
    vllm: float = 0.0
    server: bool = False
    sleeps: bool = False
    efficiency: float = 0.35

    @property
    def sharded(self) -> bool:
        """Whether the weights themselves lie in parts on the devices."""
        return self.sharding in ("zero3", "fsdp2")

    @property
    def casts(self) -> bool:
        """Whether autocast makes a copy in bf16 of float32 weights in each forward pass."""
        return self.weight_bytes == 4.0 and self.compute_bytes < 4.0 and self.sharding == "none"
