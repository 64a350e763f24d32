"""A recipe for ms-swift: JSON lines, a plugin file with the rewards, a launch script (tested with 4.6.0)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from perception_r1.evaluate.results import write_lines
from perception_r1.export.rows import Rows, engine_images, messages_of, packed
from perception_r1.export.settings import batches, grpo_values, left_out
from perception_r1.recipe.schema import Recipe
from perception_r1.types import Sample

_SAME = (
    "learning_rate",
    "num_generations",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "epsilon",
    "max_completion_length",
    "temperature",
    "top_p",
    "beta",
    "num_iterations",
    "loss_type",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
    "save_steps",
    "seed",
)
"""Settings that have TRL's name and meaning there; each is written down, since the defaults differ."""

_WHERE_GIVEN = (
    "steps_per_generation",
    "epsilon_high",
    "delta",
    "importance_sampling_level",
    "vllm_mode",
    "vllm_gpu_memory_utilization",
    "vllm_tensor_parallel_size",
    "deepspeed",
    "logging_steps",
)

PLUGIN = '''"""Rewards of the recipe {name} for ms-swift (written by pr1 export): --external_plugins plugin.py."""

from pathlib import Path

from swift.rewards import ORM, AsyncORM, orms

from perception_r1.integrations.swift import reward_class

_SETTINGS = Path(__file__).resolve().with_name("task.json")
orms["perception_r1"] = reward_class(ORM, _SETTINGS)
orms["perception_r1_async"] = reward_class(AsyncORM, _SETTINGS)
'''


def jsonl_rows(rows: Rows, samples: tuple[Sample, ...], images: list[str]) -> list[dict[str, Any]]:
    """Rows of ms-swift's standard form; columns of ours reach the reward by name."""
    return [
        {"messages": messages_of(rows.task, sample), "images": [image], "row": truth}
        for sample, image, truth in zip(samples, images, packed(samples), strict=True)
    ]


def arguments(recipe: Recipe, rows: Rows, *, gpus: int, nodes: int) -> tuple[dict[str, Any], list[str]]:
    """Arguments of ``swift rlhf`` and sentences on what could not be carried over."""
    values = grpo_values(recipe)
    sizes = batches(values, len(rows.train), gpus * nodes, recipe.path or recipe.name)
    carried = {
        *_SAME,
        *_WHERE_GIVEN,
        "num_train_epochs",
        "max_steps",
        "top_k",
        "scale_rewards",
        "warmup_steps",
        "warmup_ratio",
        "report_to",
        "use_vllm",
    }
    notes = left_out(recipe, carried)
    found: dict[str, Any] = {"rlhf_type": "grpo", "model": recipe.model, **{key: values[key] for key in _SAME}}
    found.update({key: values[key] for key in _WHERE_GIVEN if (recipe.grpo or {}).get(key) is not None})
    found["per_device_eval_batch_size"] = values["num_generations"]  # it too must hold whole groups
    found["num_train_epochs"] = values["num_train_epochs"]
    if sizes.steps is not None:
        found["max_steps"] = sizes.steps
    found["scale_rewards"] = {True: "group", False: "none"}.get(values["scale_rewards"], values["scale_rewards"])
    found["top_k"] = int(values["top_k"]) or -1
    warm = float(values.get("warmup_ratio") or values["warmup_steps"])
    found["warmup_ratio" if warm < 1 else "warmup_steps"] = warm if warm < 1 else int(warm)
    found["report_to"] = values["report_to"]
    found["use_vllm"] = bool(values.get("use_vllm", False))
    found["torch_dtype"] = "bfloat16"
    found["freeze_vit"] = recipe.freeze_vision
    if recipe.lora is None:
        found["tuner_type"] = "full"
    else:
        lora = dict(recipe.lora)
        found |= {"tuner_type": "lora", "lora_rank": lora.pop("r", 8), "lora_alpha": lora.pop("lora_alpha", 8)}
        if "target_modules" in lora:
            found["target_modules"] = lora.pop("target_modules")
        found["lora_dropout"] = lora.pop("lora_dropout", 0.0)
        notes += [f"lora.{key}: {value!r} is not carried over" for key, value in lora.items()]
    return found, notes


def launch_script(recipe: Recipe, rows: Rows, found: dict[str, Any], gpus: int, evaluates: bool) -> str:
    """The script that starts the run; further arguments are passed on."""
    lines = [f"  --{key} {_words(value)} \\" for key, value in found.items()]
    if evaluates:
        lines.append('  --val_dataset "$HERE/val.jsonl" \\')
    high = recipe.image.max_pixels or rows.family.max_pixels
    return f"""#!/usr/bin/env bash
# ms-swift run of the recipe {recipe.name} (written by pr1 export swift).
set -euo pipefail
HERE=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
export NPROC_PER_NODE=${{NPROC_PER_NODE:-{gpus}}} MAX_PIXELS={high} IMAGE_MAX_TOKEN_NUM={high // rows.family.grid**2}
exec swift rlhf \\
  --dataset "$HERE/train.jsonl" \\
  --external_plugins "$HERE/plugin.py" \\
  --reward_funcs perception_r1 \\
  --output_dir "$HERE/checkpoints" \\
  --padding_free false \\
{chr(10).join(lines)}
  "$@"
"""


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(shlex.quote(str(item)) for item in value)
    return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))


def write(out: Path, recipe: Recipe, rows: Rows, options: dict[str, Any]) -> list[str]:
    """Write the folder; returns notes."""
    gpus = options["gpus"]
    found, notes = arguments(recipe, rows, gpus=gpus, nodes=options["nodes"])
    for name, samples in (("train", rows.train), ("val", rows.eval)):
        if samples:
            images = engine_images(samples, rows.family, out / "images" / name)
            write_lines(out / f"{name}.jsonl", jsonl_rows(rows, samples, images))
    (out / "plugin.py").write_text(PLUGIN.format(name=recipe.name), encoding="utf-8")
    launch = out / "launch.sh"
    launch.write_text(launch_script(recipe, rows, found, gpus, bool(rows.eval)), encoding="utf-8")
    launch.chmod(0o755)
    return notes
