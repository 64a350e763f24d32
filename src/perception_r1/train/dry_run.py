"""One step of a recipe with a tiny model of its family, on digits: finds what a long run would trip over.

Kept of the recipe: task, family, prompt, thinking, reward, group size, loss and every other setting of the trainer.
Replaced: model, data, and what only a large machine has (bf16, vLLM, DeepSpeed, FSDP).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_r1.config import Recipe, Source
from perception_r1.families import get_family

_MACHINE = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "tf32": None,
    "max_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "model_init_kwargs": None,
}
_BIG = ("deepspeed", "fsdp", "fsdp_config", "push_to_hub", "hub_model_id", "dataloader_num_workers")


def dry_run(stage: Callable[..., Path], recipe: Recipe) -> str:
    """Run ``stage`` (``run_sft`` or ``run_grpo``) for one step; returns a line that says what ran.

    Raises:
        UserError: whatever the real run would refuse.
    """
    from perception_r1.models.tiny import TINY_FAMILIES, build_tiny
    from perception_r1.train.setup import quiet_libraries

    quiet_libraries()
    family = get_family(recipe.family if recipe.family is not None else _family_of_id(recipe.model))
    tiny = family.name if family.name in TINY_FAMILIES else "qwen3_vl"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, processor = build_tiny(tiny)
        model.save_pretrained(folder / "tiny")
        processor.save_pretrained(folder / "tiny")
        digits = Source(source="digits", path=str(folder), options={"n": 16, "max_digits": 3})
        if recipe.task == "geometry":
            digits = Source(source="diagrams", path=str(folder), options={"n": 16, "size": 112})
        small = recipe.model_copy(
            update={
                "model": str(folder / "tiny"),
                "family": recipe.family if recipe.family is not None else family.name,
                "data": recipe.data.model_copy(update={"train": (digits,), "eval": (), "total": None}),
                "reward": recipe.reward.model_copy(update={"judge": None}),
                "sft": None if recipe.sft is None else _small_sft(recipe.sft),
                "grpo": None if recipe.grpo is None else _small_grpo(recipe.grpo),
            }
        )
        stage(small, folder / "run", show_progress=False)
    return f"{recipe.name}: one step ran ({recipe.task}, {family.name}, tiny {tiny} in place of {recipe.model})"


def _small_sft(table: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if key not in _BIG}
    return {**kept, **_MACHINE, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


def _small_grpo(table: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if key not in (*_BIG, "generation_batch_size")}
    small = {
        **kept,
        **_MACHINE,
        "use_vllm": False,
        "max_completion_length": 16,
        "per_device_train_batch_size": kept.get("num_generations", 8),
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
    }
    return {key: value for key, value in small.items() if not key.startswith("vllm_")}


def _family_of_id(model: str) -> str:
    """The family by the model's name, so that a dry run needs no download."""
    name = model.lower().replace("-", "").replace("_", "").replace(".", "")
    for part, family in (
        ("qwen25vl", "qwen2_5_vl"),
        ("qwen2vl", "qwen2_vl"),
        ("qwen3vl", "qwen3_vl"),
        ("internvl", "internvl"),
    ):
        if part in name:
            return family
    from perception_r1.models.load import detect_family

    return detect_family(model).name
