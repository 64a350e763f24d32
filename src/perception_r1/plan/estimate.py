"""The arithmetic of a plan: operations and bytes of one GRPO step, from a model's shape and a batch.

A linear map costs 2 operations a weight and token forward, 4 backward; attention 4 · heads · head width for each
pair of tokens that see each other (causal: half of the square). Sharing prefixes forwards a group's prompt and image
once. Bytes are those of TRL as the recipes set it up: weights, gradients and AdamW in float32, compute in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from perception_r1.plan.devices import Device
from perception_r1.plan.shapes import Shape

Sharding: TypeAlias = Literal["none", "zero2", "zero3", "fsdp2"]
SHARDINGS: tuple[str, ...] = ("none", "zero2", "zero3", "fsdp2")

PATCH_BYTES = 4.0 * 3 * 2 * 16**2
"""Float32 pixels of a patch: three channels, two frames, 16 pixels a side (14 in Qwen2 and 2.5)."""
PIXEL_COPIES = 4.0
"""TRL holds every row's pixels as processed, for generation, as shuffled, and as split into micro-batches."""


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
        vllm: share of the device's memory that vLLM takes, 0 without; ``server`` when it has devices of its own.
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
    efficiency: float = 0.35


@dataclass(frozen=True)
class Plan:
    """The result: bytes and seconds by part, in order."""

    memory: dict[str, float] = field(default_factory=dict)
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


def layer_bytes(hidden: int, intermediate: int, heads_width: float, kv_width: float, compute: float) -> float:
    """Activations of one layer kept for the backward pass, a token: norms in float32, the rest as computed with."""
    norms = 2 * (2 * 4 + compute) * hidden
    attention = compute * (3 * heads_width + 2 * kv_width)
    return norms + attention + compute * 4 * intermediate


def activation_bytes(shape: Shape, batch: Batch, setup: Setup, *, longest: bool = True) -> float:
    """Activations at the end of a forward pass; the longest prompts and answers unless told otherwise."""
    prompt, image = (batch.longest, batch.longest_image) if longest else (batch.prompt, batch.image)
    answer = batch.limit if longest else batch.answer
    tokens = batch.prompts * prompt + batch.rows * answer
    patches = batch.prompts * image * shape.patches_per_token
    compute = setup.compute_bytes
    language = layer_bytes(
        shape.hidden, shape.intermediate, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, compute
    )
    tower = layer_bytes(shape.tower_hidden, shape.tower_intermediate, shape.tower_hidden, shape.tower_hidden, compute)
    # Log-probabilities of the answers: a chunk of rows of the vocabulary at a time, a few of them alive.
    head = min(batch.rows * answer, 1024.0) * shape.vocabulary * 4.0 * 2
    if setup.checkpointing:
        kept = 4.0 * (shape.layers * shape.hidden * tokens + shape.tower_layers * shape.tower_hidden * patches)
        # One layer at a time is computed again, and holds the gradients of what it computes beside it.
        return kept + 2.0 * max(language * tokens, tower * patches) + head
    found = shape.layers * language * tokens + head
    return found + (0.0 if setup.frozen_tower else shape.tower_layers * tower * patches)


def memory(shape: Shape, batch: Batch, setup: Setup, device: Device | None = None) -> dict[str, float]:
    """Bytes of one device by what they hold."""
    parts = setup.devices if setup.sharding != "none" else 1
    whole = setup.devices if setup.sharding in ("zero3", "fsdp2") else 1
    frozen = shape.tower_parameters if setup.frozen_tower else 0
    trained = setup.lora if setup.lora is not None else shape.parameters - frozen
    extra = setup.lora or 0
    found = {
        "weights": (shape.parameters * setup.weight_bytes + extra * 4.0) / whole,
        "gradients": trained * 4.0 / parts,
        "optimizer (AdamW)": trained * 8.0 / parts,
    }
    if setup.reference and setup.lora is None:
        found["reference model"] = shape.parameters * setup.weight_bytes / whole
    if whole > 1:
        found["gathered layers"] = 2.0 * shape.largest_layer * setup.compute_bytes * 2
    elif setup.compute_bytes != setup.weight_bytes and setup.weight_bytes >= 2:
        found["weights cast to bf16"] = (shape.parameters - frozen) * setup.compute_bytes
    found["activations"] = activation_bytes(shape, batch, setup)
    patches = batch.rows * setup.accumulate * batch.longest_image * shape.patches_per_token
    found["pixels"] = PIXEL_COPIES * patches * PATCH_BYTES
    if setup.vllm and device is not None and not setup.server:
        found["vLLM"] = setup.vllm * device.memory
    elif not setup.server:
        cache = batch.rows * setup.accumulate * (batch.longest + batch.limit) * cache_bytes(shape, setup)
        gathered = shape.parameters * setup.weight_bytes if setup.sharding == "zero3" else 0.0
        # Generation and training take turns: only what it needs beyond the activations counts.
        found["cache of generation"] = max(0.0, cache + gathered - found["activations"])
    return found


def cache_bytes(shape: Shape, setup: Setup) -> float:
    """Keys and values that generation keeps of a token."""
    kept = 2.0 if setup.vllm else max(2.0, min(setup.weight_bytes, 4.0))
    return 2.0 * shape.layers * shape.kv_heads * shape.head_dim * kept


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
        read = shape.parameters * (2.0 if setup.vllm else max(1.0, setup.weight_bytes))
        read += rows * (batch.prompt + batch.answer / 2) * cache_bytes(shape, setup)
        work = 2.0 * rows * (shape.language_linear + shape.experts * shape.active)
        # A token of every row costs one reading of weights and cache, the operations, or the time to start the
        # layers' kernels, whichever is longest.
        kernels = shape.layers * (1e-4 if setup.vllm else 8e-4)
        token = max(read / device.bandwidth / 0.7, work / rate, kernels)
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
    return Plan(
        memory(shape, batch, setup, device),
        seconds(shape, batch, setup, device),
        setup.accumulate * tokens,
        setup.accumulate * (plain.prompts * plain.prompt + plain.rows * plain.answer),
        setup.accumulate * once * (4 if setup.checkpointing else 3),
    )
