"""Bytes of one device during a GRPO step of TRL, by what they hold.

A step has two phases, which take turns: answers are generated (a cache of keys and values), then trained on (gradients
and activations). Weights, reference model and optimizer states stay. Full fine-tuning under bf16 autocast keeps of each
parameter 4 bytes of weight, 4 of gradient and 8 of AdamW, 4 more in a reference model (none with LoRA, or beta 0), and
passing 2 of a bf16 copy. Constants of a layer are those that autograd was seen to keep (``tests/plan`` counts them).

Not counted: the CUDA context, workspaces of kernels and NCCL, and fragments; `Planned.fits` leaves a tenth for them.
"""

from __future__ import annotations

from perception_r1.plan.devices import Device
from perception_r1.plan.setup import Batch, Setup
from perception_r1.plan.shapes import Shape

PATCH_BYTES = 4.0 * 3 * 2 * 16**2
"""Float32 pixels of a patch: three channels, two frames, 16 pixels a side (14 in Qwen2 and 2.5)."""
PIXEL_COPIES = {"generation": 3.0, "training": 2.0}
"""Of all rows of a step: those of the step before, for generation, and for training; then as shuffled and as split."""
HEAD_TILE = 4096 * 32768
"""Logits that TRL's LM head has in hand at a time; those of a whole batch are never formed."""


def phases(shape: Shape, batch: Batch, setup: Setup, device: Device | None = None) -> dict[str, dict[str, float]]:
    """Bytes of one device while it generates and while it trains.

    Returns:
        ``{"generation": parts, "training": parts}``; parts that stay are in both.
    """
    kept = standing(shape, setup)
    rows = batch.rows * setup.accumulate
    pixels = rows * batch.longest_image * shape.patches_per_token * PATCH_BYTES
    generation = {**kept, "pixels": PIXEL_COPIES["generation"] * pixels}
    training = {**kept, "pixels": PIXEL_COPIES["training"] * pixels}
    if setup.vllm and not setup.server and device is not None:
        generation["vLLM"] = setup.vllm * device.memory
        if not setup.sleeps:
            training["vLLM"] = setup.vllm * device.memory
    elif not setup.server:
        generation["keys and values"] = rows * (batch.longest + batch.limit) * cache_bytes(shape, setup)
        generation["working memory"] = passing_weights(shape, setup) + prefill_bytes(shape, batch, setup)
        if setup.sharding == "zero3":  # TRL gathers the whole model to generate
            generation["working memory"] += shape.parameters * setup.compute_bytes
    copies = 2.0 if setup.devices > 1 and setup.sharding == "none" else 1.0  # DDP's buckets
    gradients = copies * 4.0 * trained_parameters(shape, setup) / (setup.devices if setup.sharding != "none" else 1)
    training["gradients"] = gradients
    training["activations"] = kept_activations(shape, batch, setup)
    # A forward pass holds the weights' bf16 copies, a backward pass the gradients; with accumulation both are there.
    first = passing_weights(shape, setup) - (gradients if setup.accumulate == 1 and setup.checkpointing else 0.0)
    backward = max(layer_work(shape, batch, setup), head_bytes(shape, batch, setup))
    if setup.sharded:
        backward += passing_weights(shape, setup)
    training["working memory"] = max(first, backward)
    return {"generation": generation, "training": training}


def standing(shape: Shape, setup: Setup) -> dict[str, float]:
    """Bytes that stay from step to step: weights, optimizer states, reference model."""
    parts = setup.devices if setup.sharding != "none" else 1
    whole = setup.devices if setup.sharded else 1
    trained = trained_parameters(shape, setup)
    weight = setup.weight_bytes
    master = 0.0
    if setup.sharding.startswith("zero") and setup.compute_bytes < 4.0 and weight == 4.0:
        weight, master = setup.compute_bytes, 4.0  # DeepSpeed trains bf16 weights, with float32 ones in its optimizer
    found = {
        "weights": (shape.parameters * weight + (setup.lora or 0) * 4.0) / whole,
        "optimizer (AdamW)": trained * (8.0 + master) / parts,
    }
    if setup.reference and setup.lora is None:
        found["reference model"] = shape.parameters * weight / whole
    return found


def trained_parameters(shape: Shape, setup: Setup) -> int:
    """Parameters with a gradient."""
    if setup.lora is not None:
        return setup.lora
    return shape.parameters - (shape.tower_parameters if setup.frozen_tower else 0)


def passing_weights(shape: Shape, setup: Setup) -> float:
    """Bytes of weights that a pass makes for itself: gathered layers of sharded ones, bf16 copies under autocast."""
    if setup.sharded:
        # Two layers at a time (the next is fetched ahead) with one's gradients, and what lies outside of layers: the
        # embedding and the LM head.
        outside = max(0, shape.parameters - shape.language_linear - shape.experts - shape.tower_parameters)
        return (2.0 * shape.largest_layer + outside) * setup.compute_bytes + (shape.largest_layer + outside) * 4.0
    if not setup.casts:
        return 0.0
    # Autocast keeps the copies of trained weights until the pass ends; of frozen ones a layer's.
    return setup.compute_bytes * (shape.largest_layer if setup.lora is not None else trained_parameters(shape, setup))


def residual_bytes(setup: Setup) -> float:
    """Bytes of a value between layers: the embedding's, as it is kept or gathered."""
    return 4.0 if setup.casts else setup.compute_bytes


def layer_bytes(
    hidden: int, intermediate: int, heads_width: float, kv_width: float, setup: Setup, *, fused: bool = False
) -> float:
    """Bytes that one layer keeps of a token for its backward pass.

    Two norms, the inputs of its linear maps, queries, keys, values, the attention's output, and four widths of the MLP.
    Autocast casts the input of each linear map anew.

    Args:
        hidden: width between layers.
        intermediate: width of the MLP.
        heads_width: width of all query heads.
        kv_width: width of all key heads.
        setup: dtypes.
        fused: one linear map gives queries, keys and values, and its result is kept before they are split.
    """
    kept, compute = residual_bytes(setup), setup.compute_bytes
    norms = 16.0 + (3 if fused else 5) * compute if kept != compute else 2 * (4.0 + 2 * compute)
    attention = compute * (2 * heads_width + 2 * kv_width + (heads_width + 2 * kv_width if fused else 0.0))
    return norms * hidden + attention + 4 * compute * intermediate


def layers(shape: Shape, setup: Setup) -> tuple[float, float]:
    """Bytes that a language layer keeps of a token, and a vision layer of a patch."""
    width, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    language = layer_bytes(shape.hidden, shape.intermediate, width, kv, setup)
    side = shape.tower_hidden
    return language, layer_bytes(side, shape.tower_intermediate, side, side, setup, fused=True)


def sizes(shape: Shape, batch: Batch, *, longest: bool = True) -> tuple[float, float]:
    """Tokens and patches of a micro-batch; of the longest prompts and answers unless told otherwise."""
    prompt, image = (batch.longest, batch.longest_image) if longest else (batch.prompt, batch.image)
    answer = batch.limit if longest else batch.answer
    return batch.prompts * prompt + batch.rows * answer, batch.prompts * image * shape.patches_per_token


def kept_activations(shape: Shape, batch: Batch, setup: Setup, *, longest: bool = True) -> float:
    """Bytes that wait for the backward pass when a forward pass ends; with checkpointing, the input of each layer."""
    tokens, patches = sizes(shape, batch, longest=longest)
    language, tower = layers(shape, setup)
    if setup.checkpointing:
        language, tower = residual_bytes(setup) * shape.hidden, residual_bytes(setup) * shape.tower_hidden
    kept = shape.layers * language * tokens
    kept += 0.0 if setup.frozen_tower else shape.tower_layers * tower * patches
    if not setup.checkpointing and setup.casts:
        kept += setup.compute_bytes * shape.parameters  # the copies are what the backward pass multiplies with
    return kept


def layer_work(shape: Shape, batch: Batch, setup: Setup) -> float:
    """Bytes of the largest layer in hand: what it computes again, and the gradients of that."""
    tokens, patches = sizes(shape, batch)
    language, tower = layers(shape, setup)
    once = 2.0 if setup.checkpointing else 1.0  # without, what it keeps is counted already
    return max(once * language * tokens, (1.0 if setup.frozen_tower else once) * tower * patches)


def head_bytes(shape: Shape, batch: Batch, setup: Setup) -> float:
    """Bytes of TRL's LM head in its backward pass: a tile of logits, and its weight's gradient in float32."""
    answers = float(batch.rows * batch.limit)
    tile = min(float(HEAD_TILE), answers * shape.vocabulary) * setup.compute_bytes
    weight = 0.0 if setup.lora is not None else 4.0 * shape.hidden * shape.vocabulary
    return tile + weight + answers * shape.hidden * 4.0


def prefill_bytes(shape: Shape, batch: Batch, setup: Setup) -> float:
    """Bytes of the widest layer while the prompts to generate from are read: all of a step's at once."""
    prompts = max(1.0, batch.prompts * setup.accumulate)
    tokens, patches = prompts * batch.longest, prompts * batch.longest_image * shape.patches_per_token
    compute, kept = setup.compute_bytes, residual_bytes(setup)
    language = tokens * (3 * compute * shape.intermediate + 3 * kept * shape.hidden)
    return max(language, patches * (3 * compute * shape.tower_intermediate + 3 * kept * shape.tower_hidden))


def cache_bytes(shape: Shape, setup: Setup) -> float:
    """Bytes of keys and values that generation keeps of a token: in the dtype between layers."""
    return 2.0 * shape.layers * shape.kv_heads * shape.head_dim * (2.0 if setup.vllm else residual_bytes(setup))
