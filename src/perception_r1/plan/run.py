"""From a recipe to a plan: sizes of its real images, lengths of its answers, its settings, a device."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

from perception_r1.check.lengths import TokenCounter, estimate_tokens, image_tokens
from perception_r1.data.images import prepare
from perception_r1.errors import RecipeError
from perception_r1.export.rows import rows_of
from perception_r1.export.settings import grpo_values
from perception_r1.families import family_of_model_type
from perception_r1.plan.devices import DEVICES, Device
from perception_r1.plan.estimate import Plan, estimate
from perception_r1.plan.setup import SHARDINGS, Batch, Setup, Sharding
from perception_r1.plan.shapes import Shape, known_models, known_type, shape_of
from perception_r1.recipe.build import recipe_family
from perception_r1.recipe.schema import Recipe
from perception_r1.train.setup import weights_dtype
from perception_r1.types import Sample, TextTarget

LONG_QUESTION = 512
"""Tokens of a long question with its chat template: the 80 categories of COCO take about 300."""
ROWS = 512
"""Rows whose sizes are looked at, drawn evenly over the data."""


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from."""

    recipe: str
    model: str
    shape: Shape
    batch: Batch
    setup: Setup
    device: Device
    plan: Plan
    rows: int
    steps: int
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether a step's memory leaves a tenth of the device free, for fragments and libraries."""
        return self.plan.total_memory <= 0.9 * self.device.memory


def plan_recipe(
    recipe: Recipe,
    *,
    device: str | None = None,
    devices: int | None = None,
    sharding: str | None = None,
    efficiency: float = 0.35,
    answer_tokens: float | None = None,
    with_data: bool = True,
) -> Planned:
    """Plan a recipe's GRPO run.

    Args:
        recipe: its model may be a well-known id, a folder, or a hub id.
        device: a key of `DEVICES`; None: the recipe's ``machine`` says, here and in the next two.
        devices: how many, one process each.
        sharding: none (DDP), zero2, zero3 or fsdp2.
        efficiency: share of the device's matrix rate that training reaches.
        answer_tokens: mean length of an answer; else that of the right answers, which leave out what a model thinks.
        with_data: look at the recipe's rows; False plans for the largest image and the longest answer it allows.

    Raises:
        UserError: what the run itself would refuse, or a name that is not known.
    """
    device, devices = device or recipe.machine.device, devices or recipe.machine.devices
    sharding = sharding or recipe.machine.sharding
    if device not in DEVICES:
        raise RecipeError(f"unknown device {device!r} (known: {', '.join(DEVICES)})")
    if sharding not in SHARDINGS:
        raise RecipeError(f"unknown sharding {sharding!r} (known: {', '.join(SHARDINGS)})")
    if recipe.family is None and recipe.model in known_models():  # needs no file and no network
        recipe = recipe.model_copy(update={"family": family_of_model_type(known_type(recipe.model)).name})
    shape = shape_of(recipe.model)
    values = grpo_values(recipe)
    if answer_tokens is not None and not 0 < answer_tokens <= values["max_completion_length"]:
        raise RecipeError(
            f"answers of {answer_tokens} tokens: grpo.max_completion_length is {values['max_completion_length']}"
        )
    if with_data:
        rows = rows_of(recipe, evaluation=False)
        n_rows, sizes = len(rows.train), batch_of(recipe, rows, values)
    else:
        n_rows, sizes = recipe.data.total or 0, largest_batch(recipe, values)
    if answer_tokens is not None:
        sizes = replace(sizes, answer=float(answer_tokens))
    setup = setup_of(recipe, values, shape, devices, sharding, efficiency)
    chosen = DEVICES[device]
    made = estimate(shape, sizes, setup, chosen)
    prompts = sizes.rows * setup.accumulate * devices / sizes.group
    epochs = float(values["num_train_epochs"])
    steps = int(values["max_steps"])
    steps = steps if steps > 0 else max(1, round(epochs * n_rows / prompts))
    found = Planned(recipe.name, recipe.model, shape, sizes, setup, chosen, made, n_rows, steps, ())
    return found if found.fits else Planned(**{**vars(found), "advice": advice(found)})


def batch_of(recipe: Recipe, rows: Any, values: dict[str, Any]) -> Batch:
    """Tokens of prompts and answers over the recipe's rows: images exactly, text by an estimate."""
    step = max(1, len(rows.train) // ROWS)
    looked_at = rows.train[::step][:ROWS]
    counter = TokenCounter.estimate()
    images = [float(image_tokens(sample, rows.family)) for sample in rows.train]
    seen = [float(image_tokens(sample, rows.family)) for sample in looked_at]
    texts = [float(counter.prompt(rows.task.prompt(sample))) for sample in looked_at]
    limit = int(values["max_completion_length"])
    answers = [min(limit, estimate_tokens(rows.task.gold(sample)) + 1) for sample in looked_at]
    return Batch(
        rows=int(values["per_device_train_batch_size"]),
        group=int(values["num_generations"]),
        prompt=statistics.fmean(seen) + statistics.fmean(texts),
        longest=max(images) + max(texts),
        image=statistics.fmean(seen),
        longest_image=max(images),
        answer=statistics.fmean(answers),
        limit=limit,
        shared=recipe.shared_prefix,
    )


def largest_batch(recipe: Recipe, values: dict[str, Any]) -> Batch:
    """Tokens of the largest image that the recipe allows, a long question, and answers up to the limit."""
    family = recipe_family(recipe)
    sample = Sample("largest", recipe.task, "", TextTarget(""), image_size=(12_000, 9_000))
    limits = {"min_pixels": recipe.image.min_pixels, "max_pixels": recipe.image.max_pixels}
    image = float(image_tokens(prepare(sample, family, **limits), family))
    limit = int(values["max_completion_length"])
    return Batch(
        rows=int(values["per_device_train_batch_size"]),
        group=int(values["num_generations"]),
        prompt=image + LONG_QUESTION,
        longest=image + LONG_QUESTION,
        image=image,
        longest_image=image,
        answer=float(limit),
        limit=limit,
        shared=recipe.shared_prefix,
    )


def setup_of(
    recipe: Recipe, values: dict[str, Any], shape: Shape, devices: int, sharding: str, efficiency: float
) -> Setup:
    """The recipe's settings as the arithmetic knows them."""
    init = dict((recipe.grpo or {}).get("model_init_kwargs") or {})
    half = bool(values.get("bf16", True) or values.get("fp16", False))
    dtype = init.get("dtype") or weights_dtype(recipe, half=half, sharded=devices > 1 and sharding != "none")
    if dtype == "auto":  # published in bfloat16, but for what SFT hands over
        dtype = "float32" if recipe.warm_start else "bfloat16"
    weight = 0.6 if "quantization_config" in init else {"bfloat16": 2.0, "float16": 2.0}.get(str(dtype), 4.0)
    checkpointing = values.get("activation_checkpointing", values.get("gradient_checkpointing", True))
    uses = bool(values.get("use_vllm", False))
    server = uses and values.get("vllm_mode", "colocate") == "server"
    kept: Sharding = sharding  # type: ignore[assignment]
    return Setup(
        devices=devices,
        sharding=kept if devices > 1 else "none",
        accumulate=int(values["gradient_accumulation_steps"]),
        reference=float(values["beta"]) > 0,
        lora=None if recipe.lora is None else adapter_parameters(recipe.lora, shape),
        weight_bytes=weight,
        compute_bytes=2.0 if half or weight == 2.0 else 4.0,
        checkpointing=bool(checkpointing),
        frozen_tower=recipe.freeze_vision,
        vllm=float(values["vllm_gpu_memory_utilization"]) if uses else 0.0,
        server=server,
        sleeps=bool(values.get("vllm_enable_sleep_mode", False)),
        efficiency=efficiency,
    )


def adapter_parameters(lora: dict[str, Any], shape: Shape) -> int:
    """Parameters of adapters on all linear maps of the language layers (the usual choice, and the upper end)."""
    rank = int(lora.get("r", 8))
    width, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = [(shape.hidden, width), (shape.hidden, kv), (shape.hidden, kv), (width, shape.hidden)]
    sides += [(shape.hidden, shape.intermediate)] * 3
    return rank * shape.layers * sum(a + b for a, b in sides)


def advice(found: Planned) -> tuple[str, ...]:
    """Changes that make a plan fit, each tried, the gentlest first."""
    setup, batch = found.setup, found.batch
    tries: list[tuple[str, Setup, Batch]] = []
    if setup.devices > 1 and setup.sharding not in ("zero3", "fsdp2"):
        tries.append(("--sharding fsdp2 (configs/accelerate/fsdp2.yaml)", replace(setup, sharding="fsdp2"), batch))
    if not setup.checkpointing:
        tries.append(("grpo.activation_checkpointing=true", replace(setup, checkpointing=True), batch))
    if batch.rows > batch.group:
        smaller = replace(batch, rows=batch.group)
        more = setup.accumulate * batch.rows // batch.group
        change = f"grpo.per_device_train_batch_size={batch.group} grpo.gradient_accumulation_steps={more}"
        tries.append((change, replace(setup, accumulate=more), smaller))
    if setup.lora is None:
        lora = adapter_parameters({"r": 64}, found.shape)
        slim = replace(setup, lora=lora, frozen_tower=True, weight_bytes=4.0 if setup.sharding != "none" else 2.0)
        tries.append(("--set @configs/recipe/lora.yaml", slim, batch))
        tries.append(("--set @configs/recipe/qlora.yaml", replace(slim, weight_bytes=0.6), batch))
    given = []
    for change, new_setup, new_batch in tries:
        total = estimate(found.shape, new_batch, new_setup, found.device).total_memory
        verdict = "fits" if total <= 0.9 * found.device.memory else "still too much"
        given.append(f"{change}: {total / 2**30:.0f} GiB, {verdict}")
    return tuple(given)
