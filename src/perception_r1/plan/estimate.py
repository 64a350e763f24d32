"""The arithmetic of a plan: operations and bytes of one GRPO step, from a model's shape and a batch.

A linear map costs 2 operations a weight and token forward, 4 backward; attention 4 · heads · head width for each
pair of tokens that see each other (causal: half of the square). Sharing prefixes forwards a group's prompt and image
once. Bytes are in `perception_r1.plan.memory`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from perception_r1.plan.devices import Device
from perception_r1.plan.shapes import Shape

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


@dataclass(frozen=True)
class Plan:
    """The result: bytes by part of the phase that needs most, the other phase's sum, and seconds by part."""

    memory: dict[str, float] = field(default_factory=dict)
    phase: str = "training"
    other_memory: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    tokens_plain: float = 0.0
    operations: float = 0.0

    @property
    def total_memory(self) -> float:
        return sum(self.memory.values())

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def forward_operations(shape: Shape, batch: Batch, *, answer: float | None = None) -> float:
    """Operations of one forward pass over a micro-batch, LM head over the answers included."""
    answer = batch.answer if answer is None else answer
    tokens = batch.prompts * batch.prompt + batch.rows * answer
    if not batch.shared:
        pairs = batch.rows * (batch.prompt + answer) ** 2 / 2
    else:
        pairs = batch.prompts * batch.prompt**2 / 2 + batch.rows * (answer * batch.prompt + answer**2 / 2)
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * pairs
    language = 2.0 * (shape.language_linear + shape.experts * shape.active) * tokens
    head = 2.0 * (shape.head_linear or shape.hidden * shape.vocabulary) * batch.rows * answer
    return language + attention + head + batch.prompts * tower_operations(shape, batch.image)


def tower_operations(shape: Shape, image_tokens: float) -> float:
    """Operations of the vision tower on one image that becomes so many tokens."""
    patches = image_tokens * shape.patches_per_token
    windowed = shape.tower_layers - shape.tower_full_layers
    pairs = shape.tower_full_layers * patches**2 + windowed * patches * min(shape.tower_window, patches)
    linear = 2.0 * (shape.tower_linear * patches + shape.merger_linear * image_tokens)
    return linear + 4.0 * shape.tower_hidden * pairs


def seconds(shape: Shape, batch: Batch, setup: Setup, device: Device) -> dict[str, float]:
    """Seconds of one step by what they are spent on."""
    from perception_r1.plan.memory import cache_bytes

    rate = device.rate * setup.efficiency
    once = forward_operations(shape, batch)
    backward = 2.0 * once - (batch.prompts * tower_operations(shape, batch.image) if setup.frozen_tower else 0.0)
    again = once if setup.checkpointing else 0.0
    n = setup.accumulate
    found = {}
    rows = batch.rows * n
    if not setup.server:
        cache = cache_bytes(shape, setup)
        # Each token reads every weight; autocast reads them in float32, writes them in bf16, and reads those.
        weight = setup.weight_bytes if setup.sharding == "none" else setup.compute_bytes
        read = shape.parameters * (2.0 if setup.vllm else 8.0 if setup.casts else max(1.0, weight))
        read += rows * (batch.prompt + batch.answer / 2) * cache
        work = 2.0 * rows * (shape.language_linear + shape.experts * shape.active)
        # A token of every row costs one reading of weights and cache, the operations, or the time to start the
        # layers' kernels, whichever is longest.
        kernels = shape.layers * (1e-4 if setup.vllm else 8e-4)
        token = max(read / device.bandwidth / 0.7, work / rate, kernels)
        if setup.sharding == "fsdp2" and not setup.vllm:  # each token gathers the layers again
            token += shape.parameters * setup.compute_bytes / device.link
        longest = min(batch.limit, 1.5 * batch.answer)  # a batch waits for its longest answer
        found["generation"] = n * forward_operations(shape, batch, answer=0.0) / rate + longest * token
    if setup.reference:
        found["reference model"] = n * once / rate
    found["policy, forward and backward"] = n * (once + backward + again) / rate
    if setup.devices > 1:
        trained = setup.lora if setup.lora is not None else shape.parameters
        moved = 2.0 * trained * 4.0
        if setup.sharding in ("zero3", "fsdp2"):
            passes = 3 + (1 if setup.reference else 0)
            moved = n * passes * shape.parameters * setup.compute_bytes + trained * 4.0
        found["communication not hidden"] = 0.3 * moved / device.link
    return found


def estimate(shape: Shape, batch: Batch, setup: Setup, device: Device) -> Plan:
    """The whole plan of one step on one device."""
    from perception_r1.plan.memory import phases

    plain = Batch(**{**vars(batch), "shared": False})
    tokens = batch.prompts * batch.prompt + batch.rows * batch.answer
    once = forward_operations(shape, batch)
    parts = phases(shape, batch, setup, device)
    first, second = sorted(parts, key=lambda name: -sum(parts[name].values()))
    return Plan(
        parts[first],
        first,
        sum(parts[second].values()),
        seconds(shape, batch, setup, device),
        setup.accumulate * tokens,
        setup.accumulate * (plain.prompts * plain.prompt + plain.rows * plain.answer),
        setup.accumulate * once * (4 if setup.checkpointing else 3),
    )
