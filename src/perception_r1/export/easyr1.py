"""A recipe for EasyR1: parquet, its YAML configuration, ``reward.py`` and a launch script.

EasyR1 is not on a package index; keys and the reward's signature are those it publishes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from perception_r1.export.rows import PLACEHOLDER, Rows, engine_images, packed
from perception_r1.export.settings import batches, grpo_values, left_out, trackers, warmup
from perception_r1.recipe.schema import Recipe
from perception_r1.types import Sample

_CARRIED = {
    "learning_rate",
    "num_generations",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "epsilon",
    "steps_per_generation",
    "max_completion_length",
    "temperature",
    "top_p",
    "beta",
    "num_iterations",
    "epsilon_high",
    "delta",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "max_grad_norm",
    "save_steps",
    "seed",
    "warmup_steps",
    "warmup_ratio",
    "vllm_gpu_memory_utilization",
    "vllm_tensor_parallel_size",
    "report_to",
    "loss_type",
    "scale_rewards",
    "lr_scheduler_type",
}

REWARD = '''"""The reward of the recipe {name} for EasyR1 (written by pr1 export)."""

from functools import partial
from pathlib import Path

from perception_r1.integrations import easyr1

REWARD_NAME, REWARD_TYPE = easyr1.REWARD_NAME, easyr1.REWARD_TYPE
_SETTINGS = str(Path(__file__).resolve().with_name("task.json"))
compute_score = partial(
    easyr1.compute_score, settings=_SETTINGS, unscored={unscored!r}, max_response_length={limit!r}
)
'''


def parquet_rows(rows: Rows, samples: tuple[Sample, ...], images: list[str]) -> list[dict[str, Any]]:
    """``problem``, ``images`` and ``answer``, the packed row; EasyR1 has no system turn."""
    return [
        {"problem": PLACEHOLDER + rows.task.prompt(sample).user, "images": [image], "answer": truth}
        for sample, image, truth in zip(samples, images, packed(samples), strict=True)
    ]


def configuration(
    recipe: Recipe, rows: Rows, *, gpus: int, nodes: int, prompt_tokens: int
) -> tuple[dict[str, Any], list[str]]:
    """EasyR1's configuration (paths of files are the launch script's) and what could not be carried over."""
    values = grpo_values(recipe)
    sizes = batches(values, len(rows.train), gpus * nodes, recipe.path or recipe.name)
    notes = left_out(recipe, _CARRIED)
    if rows.task.prompt(rows.train[0]).system is not None:
        notes.append("system turn: EasyR1 has none; the chat template's own takes its place")
    if recipe.lora is not None:
        notes.append("lora: not carried over")
    if values["scale_rewards"] not in (True, "group"):
        notes.append(
            f"grpo.scale_rewards: {values['scale_rewards']!r} has no counterpart; the group's deviation is taken"
        )
    if values["loss_type"] not in ("grpo", "dapo", "bnpo"):
        notes.append(f"grpo.loss_type: {values['loss_type']!r} has no counterpart; the mean over tokens is taken")
    if "constant" not in str(values["lr_scheduler_type"]):
        notes.append(f"grpo.lr_scheduler_type: {values['lr_scheduler_type']!r} is not carried over; constant is taken")
    high = float(values["epsilon_high"] or values["epsilon"])
    kind, warm = warmup(values)
    if kind == "steps":
        notes.append("grpo.warmup_steps: EasyR1 takes a share of the run; none is taken")
    found: dict[str, Any] = {
        "data": {
            "prompt_key": "problem",
            "answer_key": "answer",
            "image_key": "images",
            "max_prompt_length": prompt_tokens,
            "max_response_length": int(values["max_completion_length"]),
            "rollout_batch_size": sizes.prompts,
            "seed": int(values["seed"]),
            "min_pixels": recipe.image.min_pixels or rows.family.min_pixels,
            "max_pixels": recipe.image.max_pixels or rows.family.max_pixels,
            "filter_overlong_prompts": False,
        },
        "algorithm": {
            "adv_estimator": "grpo",
            "disable_kl": float(values["beta"]) == 0,
            "use_kl_loss": True,
            "kl_penalty": "low_var_kl",
            "kl_coef": float(values["beta"]),
        },
        "worker": {
            "actor": {
                "global_batch_size": sizes.mini,
                "micro_batch_size_per_device_for_update": sizes.micro,
                "micro_batch_size_per_device_for_experience": sizes.micro,
                "ppo_epochs": int(values["num_iterations"]),
                "max_grad_norm": float(values["max_grad_norm"]),
                "clip_ratio_low": float(values["epsilon"]),
                "clip_ratio_high": high,
                "clip_ratio_dual": float(values["delta"] or 3.0),
                "loss_avg_mode": "seq" if values["loss_type"] == "grpo" else "token",
                "model": {
                    "model_path": recipe.model,
                    "enable_gradient_checkpointing": True,
                    "freeze_vision_tower": recipe.freeze_vision,
                },
                "optim": {
                    "lr": float(values["learning_rate"]),
                    "weight_decay": float(values["weight_decay"]),
                    "lr_warmup_ratio": warm if kind == "ratio" else 0.0,
                },
            },
            "rollout": {
                "n": int(values["num_generations"]),
                "temperature": float(values["temperature"]),
                "top_p": float(values["top_p"]),
                "limit_images": 1,
                "tensor_parallel_size": int(values["vllm_tensor_parallel_size"]),
                "gpu_memory_utilization": float(values["vllm_gpu_memory_utilization"]),
            },
            "reward": {"reward_type": "batch", "skip_special_tokens": False},
        },
        "trainer": {
            "total_epochs": sizes.epochs,
            "max_steps": sizes.steps,
            "project_name": "perception-r1",
            "experiment_name": recipe.name,
            "logger": trackers(values),
            "n_gpus_per_node": gpus,
            "nnodes": nodes,
            "save_freq": int(values["save_steps"]),
            "val_freq": int(values["save_steps"]) if rows.eval else -1,
            "val_before_train": False,
        },
    }
    return found, notes


def write(out: Path, recipe: Recipe, rows: Rows, options: dict[str, Any]) -> list[str]:
    """Write the folder; returns notes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unscored = options.pop("unscored")
    found, notes = configuration(recipe, rows, **options)
    for name, samples in (("train", rows.train), ("val", rows.eval or rows.train[:8])):
        images = engine_images(samples, rows.family, out / "images" / name)
        pq.write_table(pa.Table.from_pylist(parquet_rows(rows, samples, images)), out / f"{name}.parquet")
    (out / "config.yaml").write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    limit = found["data"]["max_response_length"]
    reward = REWARD.format(name=recipe.name, unscored=unscored, limit=limit)
    (out / "reward.py").write_text(reward, encoding="utf-8")
    launch = out / "launch.sh"
    launch.write_text(
        f"""#!/usr/bin/env bash
# EasyR1 run of the recipe {recipe.name} (written by pr1 export easyr1).
set -euo pipefail
HERE=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
exec "${{PYTHON:-python3}}" -m verl.trainer.main config="$HERE/config.yaml" \\
  data.train_files="$HERE/train.parquet" \\
  data.val_files="$HERE/val.parquet" \\
  worker.reward.reward_function="$HERE/reward.py:compute_score" \\
  trainer.save_checkpoint_path="$HERE/checkpoints" \\
  "$@"
""",
        encoding="utf-8",
    )
    launch.chmod(0o755)
    return notes
