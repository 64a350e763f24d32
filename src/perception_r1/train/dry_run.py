"""One step of a recipe on a few of its own rows, with a tiny model like its own: finds what a long run would trip over.

Kept of the recipe: task, family, prompt, thinking, reward, group size, loss, every other setting of the trainer, its
rows and pictures, and where they are at hand the model's processor, tokenizer, chat template and architecture.
Replaced: the weights, the judge, and what only a large machine has (bf16, DeepSpeed, FSDP, mostly vLLM). Nothing is
downloaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_r1.errors import DataError
from perception_r1.families import Family, get_family
from perception_r1.recipe.schema import Data, Recipe
from perception_r1.train.dry_rows import few_rows

_MACHINE = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "tf32": None,
    "max_steps": 1,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "model_init_kwargs": None,
}
_BIG = ("deepspeed", "fsdp", "fsdp_config", "push_to_hub", "hub_model_id", "dataloader_num_workers")


def dry_run(stage: Callable[..., Path], recipe: Recipe) -> str:
    """Run ``stage`` (``run_sft`` or ``run_grpo``) for one step.

    Returns:
        Lines that say what ran, what of it was the recipe's own, and what was replaced.

    Raises:
        UserError: whatever the real run would refuse.
    """
    from perception_r1.recipe.build import recipe_limits
    from perception_r1.train.run import run_sft
    from perception_r1.train.setup import quiet_libraries

    quiet_libraries()
    own: list[str] = []
    replaced: list[str] = []
    table = (recipe.sft if stage is run_sft else recipe.grpo) or {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "rows").mkdir()
        family = get_family(recipe.family if recipe.family is not None else _family_of_id(recipe.model))
        family = family.with_limits(*recipe_limits(recipe, family))
        data = _few_rows(recipe, table, family, folder / "rows", own)
        _write_stand_in(recipe, family, folder / "tiny", own, replaced)
        small = recipe.model_copy(
            update={
                "model": str(folder / "tiny"),
                "family": recipe.family if recipe.family is not None else family.name,
                "data": data,
                "reward": recipe.reward.model_copy(update={"judge": None}),
                "sft": None if recipe.sft is None else _small_sft(recipe.sft),
                "grpo": None if recipe.grpo is None else _small_grpo(recipe.grpo),
            }
        )
        if stage is run_sft or not table.get("use_vllm") or not _by_vllm(stage, recipe, small, folder, own, replaced):
            stage(small, folder / "run", show_progress=False)
    if recipe.reward.judge is not None:
        replaced.append("the judge by words (facts are matched, nobody is asked)")
    replaced += [f"{key} by one process" for key in ("deepspeed", "fsdp") if table.get(key)]
    return (
        f"{recipe.name}: one step ran ({recipe.task}, {family.name})\n"
        f"  the recipe's own: {'; '.join(own)}\n"
        f"  replaced: {'; '.join(replaced)}\n"
        f"  launcher: {_launcher(table)}"
    )


def _few_rows(recipe: Recipe, table: dict[str, Any], family: Family, folder: Path, own: list[str]) -> Data:
    """The recipe's ``data`` with a few rows of each source that the stage reads."""
    try:
        train, n_train = few_rows(recipe, recipe.data.train, family, folder)
        held_out, n_eval = few_rows(recipe, recipe.data.eval if _evaluation(table) else (), family, folder)
    except DataError as error:
        task = "diagrams" if recipe.task == "geometry" else "digits"
        raise DataError(
            f"{error} (without the data yet, --set 'data.train=[{{source: {task}}}]' tries the rest)"
        ) from None
    n_sources = len(train) + len(held_out)
    own.append(f"{n_train + n_eval} rows and pictures of {n_sources} source{'s' * (n_sources > 1)}, all of them read")
    return recipe.data.model_copy(update={"train": train, "eval": held_out, "total": None})


def _write_stand_in(recipe: Recipe, family: Family, folder: Path, own: list[str], replaced: list[str]) -> None:
    """Save a tiny model into ``folder``: like the recipe's where its files are at hand, else of its family."""
    from perception_r1.models.at_hand import config_at_hand, processor_at_hand
    from perception_r1.models.processors import HUB_OPTIONS
    from perception_r1.models.tiny import TINY_FAMILIES, build_tiny
    from perception_r1.models.tiny_like import build_like

    named = (recipe.grpo or recipe.sft or {}).get("model_init_kwargs") or {}
    hub = {key: value for key, value in named.items() if key in HUB_OPTIONS}
    processor, config = processor_at_hand(recipe.model, **hub), config_at_hand(recipe.model, **hub)
    if processor is not None and config is not None:
        model = build_like(config, processor.tokenizer)
        own.append(f"tokenizer, chat template, processor and architecture of {recipe.model}")
        replaced.append(f"the weights by a tiny {config.model_type} with random ones")
    else:
        tiny = family.name if family.name in TINY_FAMILIES else "qwen3_vl"
        model, processor = build_tiny(tiny)
        replaced.append(f"{recipe.model}, of which nothing is here, by a tiny {tiny} with a tokenizer of our own")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _by_vllm(
    stage: Callable[..., Path], recipe: Recipe, small: Recipe, folder: Path, own: list[str], replaced: list[str]
) -> bool:
    """Run the step with vLLM's rollouts where they can be had; whether it ran."""
    import torch

    from perception_r1.train.vllm_ready import package_problem

    table = recipe.grpo or {}
    reason = package_problem()
    if reason is None and table.get("vllm_mode", "colocate") != "colocate":
        reason = "its server holds the real model"
    if reason is None and not torch.cuda.is_available():
        reason = "no GPU is visible"
    if reason is None:
        engine = {key: value for key, value in table.items() if key.startswith("vllm_")}
        engine |= {"use_vllm": True, "use_cpu": False, "vllm_tensor_parallel_size": 1}
        try:
            tried = small.model_copy(update={"grpo": {**(small.grpo or {}), **engine}})
            stage(tried, folder / "run-vllm", show_progress=False)
            own.append("rollouts by vLLM")
            return True
        except Exception as error:  # of an engine that does not take so small a model; the recipe's own come again
            reason = f"it does not run the tiny model: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    replaced.append(f"vLLM by transformers ({reason.split(';')[0]})")
    return False


def _launcher(table: dict[str, Any]) -> str:
    from perception_r1.train.launch import n_to_start

    n = n_to_start(None, table)
    return "one process, as in the run" if n == 1 else f"one process here; the run starts {n}, one for each visible GPU"


def _evaluation(table: dict[str, Any]) -> dict[str, Any]:
    """An evaluation after the step where the recipe has them during training."""
    wanted = table.get("eval_strategy", "no") not in ("no", False)
    return {"eval_strategy": "steps", "eval_steps": 1} if wanted else {}


def _small_sft(table: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if key not in _BIG}
    return {
        **kept,
        **_MACHINE,
        **_evaluation(table),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
    }


def _small_grpo(table: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if key not in (*_BIG, "generation_batch_size")}
    small = {
        **kept,
        **_MACHINE,
        **_evaluation(table),
        "use_vllm": False,
        "max_completion_length": 16,
        "per_device_train_batch_size": kept.get("num_generations", 8),
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
    }
    return {key: value for key, value in small.items() if not key.startswith("vllm_")}


def _family_of_id(model: str) -> str:
    """The family by the model's name, so that a dry run needs no download; of a folder by its configuration."""
    if Path(model).exists():
        from perception_r1.models.load import detect_family

        return detect_family(model).name
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
