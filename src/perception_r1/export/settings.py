"""A recipe's ``grpo`` table in terms that engines share: batch of prompts, rollouts, KL, clipping, lengths.

The table holds TRL's names, so what it leaves out has TRL's defaults (`DEFAULTS`; a test holds them to the installed
one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perception_r1.errors import RecipeError
from perception_r1.recipe.schema import Recipe

DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-6,
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": None,
    "max_completion_length": 512,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "beta": 0.0,
    "num_iterations": 1,
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "loss_type": "dapo",
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "save_steps": 50,
    "seed": 42,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_tensor_parallel_size": 1,
    "report_to": "none",
}
"""TRL 1.16's defaults of what is carried over (``save_steps`` and ``report_to`` are ours)."""

IGNORED = {
    "bf16",
    "fp16",
    "use_cpu",
    "logging_steps",
    "save_strategy",
    "save_total_limit",
    "gradient_checkpointing",
    "activation_checkpointing",
    "use_vllm",
    "vllm_mode",
    "use_bias_correction_kl",
    "max_prompt_length",
}
"""Settings whose counterpart needs no mention: engines compute in bf16, checkpoint activations and roll out by vLLM."""


@dataclass(frozen=True)
class Batches:
    """Sizes of a step: prompts drawn, prompts an optimizer step, completions a device at once, epochs, steps."""

    prompts: int
    mini: int
    micro: int
    epochs: int
    steps: int | None


def grpo_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's table over TRL's defaults.

    Raises:
        RecipeError: it has none.
    """
    if recipe.grpo is None:
        raise RecipeError(f"{recipe.path or recipe.name}: no 'grpo' table (an export is a GRPO run)")
    return {**DEFAULTS, **recipe.grpo}


def batches(values: Mapping[str, Any], n_rows: int, devices: int, where: object) -> Batches:
    """The step of TRL on so many devices, counted in prompts.

    Raises:
        RecipeError: the batch does not hold whole groups.
    """
    group, micro = int(values["num_generations"]), int(values["per_device_train_batch_size"])
    accumulate = int(values["gradient_accumulation_steps"])
    update = micro * devices * accumulate
    drawn = micro * devices * int(values["steps_per_generation"] or accumulate)
    if update % group or drawn % group:
        raise RecipeError(
            f"{where}: a step of {update} completions ({micro} × {devices} devices × {accumulate}) does not hold whole "
            f"groups of {group} (change grpo.per_device_train_batch_size, or --gpus)"
        )
    prompts = drawn // group
    steps = int(values["max_steps"])
    if steps > 0:
        epochs = max(1, math.ceil(steps * prompts / max(n_rows, 1)))
    else:
        epochs = max(1, math.ceil(float(values["num_train_epochs"])))
    return Batches(prompts, update // group, micro, epochs, steps if steps > 0 else None)


def left_out(recipe: Recipe, carried: set[str]) -> list[str]:
    """Sentences on what of the recipe the engine does not get."""
    keys = sorted(set(recipe.grpo or {}) - carried - IGNORED)
    notes = [f"grpo.{key}: {(recipe.grpo or {})[key]!r} is not carried over" for key in keys]
    if recipe.warm_start is not None:
        notes.append("warm_start: run `pr1 sft` first and set model to its result")
    if recipe.shared_prefix:
        notes.append("shared_prefix: TRL only (engines pack rows, which share nothing)")
    return notes


def warmup(values: Mapping[str, Any]) -> tuple[str, float]:
    """TRL's ``warmup_steps``: below 1 a share of the run, else steps; as ("ratio" or "steps", value)."""
    value = float(values.get("warmup_ratio") or values["warmup_steps"])
    return ("ratio", value) if value < 1 else ("steps", value)


def trackers(values: Mapping[str, Any]) -> list[str]:
    """Loggers of verl and EasyR1 from TRL's ``report_to``."""
    named = values["report_to"]
    names = [named] if isinstance(named, str) else list(named)
    return ["console", *(name for name in names if name in ("wandb", "tensorboard", "mlflow", "swanlab"))]
