"""The arithmetic of a plan: operations and bytes of one GRPO step, from a model's shape and a batch.

A linear map costs 2 operations a weight and token forward, 4 backward; attention 4 · heads · head width for each
pair of tokens that see each other (causal: half of the square). Sharing prefixes forwards a group's prompt and image
once. Bytes are in `perception_r1.plan.memory`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from perception_r1.plan.devices import Device
from perception_r1.plan.memory import cache_bytes, phases
from perception_r1.plan.setup import Batch, Setup
from perception_r1.plan.shapes import Shape


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
        """Bytes a device of the phase that needs most."""
        return sum(self.memory.values())

    @property
    def total_seconds(self) -> float:
        """Seconds of one step."""
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
