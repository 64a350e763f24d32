"""A recipe for verl on Ray: parquet, Hydra overrides, ``reward.py`` and a launch script (tested with verl 0.9.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from perception_r1.errors import RecipeError
from perception_r1.export.rows import Rows, messages_of, packed
from perception_r1.export.settings import batches, grpo_values, left_out, trackers, warmup
from perception_r1.recipe.schema import Recipe
from perception_r1.types import Sample

Strategy: TypeAlias = Literal["fsdp", "fsdp2", "megatron"]
STRATEGIES: tuple[str, ...] = ("fsdp", "fsdp2", "megatron")

_AGGREGATION = {
    "grpo": "seq-mean-token-mean",
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
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
    "top_k",
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
}


def parquet_rows(rows: Rows, samples: tuple[Sample, ...], split: str) -> list[dict[str, Any]]:
    """Rows as ``RLHFDataset`` reads them; images by path, with the size at which the model is to see them.

    ``resized_width`` and ``resized_height`` are the names that qwen_vl_utils knows too, so that verl's stock data set
    class shows the model an image of the same size as ours does.
    """
    found = []
    for i, (sample, truth) in enumerate(zip(samples, packed(samples), strict=True)):
        width, height = sample.model_size or (0, 0)
        found.append(
            {
                "data_source": f"pr1/{sample.task}",
                "prompt": messages_of(rows.task, sample),
                "images": [{"image": sample.image, "resized_width": width, "resized_height": height}],
                "ability": sample.task,
                "reward_model": {"style": "rule", "ground_truth": truth},
                "extra_info": {"index": i, "id": sample.id, "split": split},
            }
        )
    return found


def overrides(
    recipe: Recipe, rows: Rows, *, gpus: int, nodes: int, strategy: Strategy, prompt_tokens: int
) -> tuple[dict[str, Any], list[str]]:
    """Hydra overrides (key → value) and sentences on what could not be carried over.

    Raises:
        RecipeError: a batch that does not hold whole groups, or a setting that verl has not.
    """
    values = grpo_values(recipe)
    where = recipe.path or recipe.name
    sizes = batches(values, len(rows.train), gpus * nodes, where)
    notes = left_out(
        recipe, _CARRIED | {"loss_type", "scale_rewards", "lr_scheduler_type", "importance_sampling_level"}
    )
    actor, rollout, model = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
    answer = int(values["max_completion_length"])
    if len(rows.train) < sizes.prompts:
        raise RecipeError(f"{where}: {len(rows.train)} training rows, but a step draws {sizes.prompts} prompts")
    found: dict[str, Any] = {
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        "algorithm.norm_adv_by_std_in_grpo": values["scale_rewards"] not in (False, "none"),
        "data.custom_cls.path": "pkg://perception_r1.integrations.verl_data",
        "data.custom_cls.name": "PerceptionDataset",
        "data.image_key": "images",
        "data.train_batch_size": sizes.prompts,
        "data.max_prompt_length": prompt_tokens,
        "data.max_response_length": answer,
        # True drops a row, or all of them, whenever anything goes wrong while its length is measured.
        "data.filter_overlong_prompts": False,
        "data.truncation": "error",
        "data.image_patch_size": rows.family.grid // 2,
        "data.seed": int(values["seed"]),
        f"{model}.path": recipe.model,
        f"{model}.enable_gradient_checkpointing": True,
        f"{actor}.strategy": strategy,
        "actor_rollout_ref.ref.strategy": strategy,
        f"{actor}.ppo_mini_batch_size": sizes.mini,
        f"{actor}.ppo_micro_batch_size_per_gpu": sizes.micro,
        f"{actor}.ppo_epochs": int(values["num_iterations"]),
        f"{actor}.optim.lr": float(values["learning_rate"]),
        f"{actor}.optim.weight_decay": float(values["weight_decay"]),
        f"{actor}.optim.clip_grad": float(values["max_grad_norm"]),
        f"{actor}.grad_clip": float(values["max_grad_norm"]),
        f"{actor}.clip_ratio": float(values["epsilon"]),
        f"{actor}.clip_ratio_low": float(values["epsilon"]),
        f"{actor}.clip_ratio_high": float(values["epsilon_high"] or values["epsilon"]),
        f"{actor}.use_kl_loss": float(values["beta"]) > 0,
        f"{actor}.kl_loss_coef": float(values["beta"]),
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.entropy_coeff": 0,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": int(values["num_generations"]),
        f"{rollout}.temperature": float(values["temperature"]),
        f"{rollout}.top_p": float(values["top_p"]),
        f"{rollout}.top_k": int(values["top_k"]) or -1,
        f"{rollout}.tensor_model_parallel_size": int(values["vllm_tensor_parallel_size"]),
        f"{rollout}.gpu_memory_utilization": float(values["vllm_gpu_memory_utilization"]),
        f"{rollout}.max_model_len": prompt_tokens + answer,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": sizes.micro,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": sizes.micro,
        "reward.reward_manager.name": "naive",
        "trainer.total_epochs": sizes.epochs,
        "trainer.save_freq": int(values["save_steps"]),
        "trainer.test_freq": int(values["save_steps"]) if rows.eval else -1,
        "trainer.val_before_train": False,
        "trainer.logger": trackers(values),
        "trainer.project_name": "perception-r1",
        "trainer.experiment_name": recipe.name,
        "trainer.n_gpus_per_node": gpus,
        "trainer.nnodes": nodes,
    }
    if strategy == "megatron":
        del found[f"{actor}.grad_clip"]
    if sizes.steps is not None:
        found["trainer.total_training_steps"] = sizes.steps
    kind, value = warmup(values)
    found[f"{actor}.optim.lr_warmup_steps{'_ratio' if kind == 'ratio' else ''}"] = (
        value if kind == "ratio" else int(value)
    )
    found.update(_loss(values, actor, notes))
    found.update(_schedule(values, actor, strategy, notes))
    found.update(_adapter(recipe, model, strategy, notes))
    if recipe.freeze_vision:
        found[f"{actor}.freeze_vision_tower"] = True
    return found, notes


def _loss(values: Mapping[str, Any], actor: str, notes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if values["loss_type"] in _AGGREGATION:
        found[f"{actor}.loss_agg_mode"] = _AGGREGATION[values["loss_type"]]
    else:
        notes.append(f"grpo.loss_type: {values['loss_type']!r} has no counterpart; verl's token-mean is taken")
        found[f"{actor}.loss_agg_mode"] = "token-mean"
    if values["loss_type"] == "dr_grpo":
        found[f"{actor}.loss_scale_factor"] = int(values["max_completion_length"])
    if values["delta"] is not None:
        found[f"{actor}.clip_ratio_c"] = float(values["delta"])
    if values["importance_sampling_level"] == "sequence":
        found[f"{actor}.policy_loss.loss_mode"] = "gspo"
    if values["scale_rewards"] == "batch":
        notes.append("grpo.scale_rewards: 'batch' has no counterpart; the group's deviation is taken")
    return found


def _schedule(values: Mapping[str, Any], actor: str, strategy: Strategy, notes: list[str]) -> dict[str, Any]:
    name = str(values["lr_scheduler_type"]).removesuffix("_with_warmup")
    if strategy == "megatron" and name in ("constant", "linear", "cosine"):
        return {f"{actor}.optim.lr_decay_style": name}
    if name not in ("constant", "cosine"):
        notes.append(f"grpo.lr_scheduler_type: verl has constant and cosine, not {name!r}; constant is taken")
        name = "constant"
    key = "lr_decay_style" if strategy == "megatron" else "lr_scheduler_type"
    return {f"{actor}.optim.{key}": name}


def _adapter(recipe: Recipe, model: str, strategy: Strategy, notes: list[str]) -> dict[str, Any]:
    if recipe.lora is None:
        return {}
    lora = dict(recipe.lora)
    rank, alpha = int(lora.pop("r", 8)), int(lora.pop("lora_alpha", 8))
    modules = lora.pop("target_modules", None)
    notes += [f"lora.{key}: {value!r} is not carried over" for key, value in lora.items()]
    if strategy == "megatron":
        notes.append("lora.target_modules: megatron has names of its own; its defaults are taken")
        return {f"{model}.lora.rank": rank, f"{model}.lora.alpha": alpha}
    found: dict[str, Any] = {f"{model}.lora_rank": rank, f"{model}.lora_alpha": alpha}
    if modules is not None:
        found[f"{model}.target_modules"] = modules
    return found


def hydra(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, whatever characters the value has.

    Example:
        >>> hydra("a.b", "it's"), hydra("a.c", ["x", True, None, 1e-06])
        ("a.b='it\\\\'s'", 'a.c=[x,true,null,1e-06]')
    """
    return f"{key}={_hydra_value(value)}"


def _hydra_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_hydra_value(item) for item in value)}]"
    text = str(value)
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./:@-]*", text):
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return text


def launch_script(name: str, strategy: Strategy) -> str:
    """The script that starts the run; further arguments are further overrides."""
    config = "\n  --config-name ppo_megatron_trainer.yaml \\" if strategy == "megatron" else ""
    return f"""#!/usr/bin/env bash
# verl run of the recipe {name} (written by pr1 export verl; docs/engines.md has more).
#   one machine:  bash launch.sh            see the whole configuration:  bash launch.sh --cfg job
#   more:         `ray start` on each, then this on the head: bash launch.sh trainer.nnodes=4
# perception-r1 must be installed beside verl on every machine, and this folder and the images be at the same paths.
set -euo pipefail
HERE=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
PYTHON=${{PYTHON:-python3}}
REWARD=$("$PYTHON" -m perception_r1.integrations.verl)   # the key moved between versions of verl
mapfile -t OVERRIDES < <(grep -v '^#' "$HERE/overrides.txt")
exec "$PYTHON" -m verl.trainer.main_ppo \\{config}
  "${{OVERRIDES[@]}}" \\
  "data.train_files='$HERE/train.parquet'" \\
  "data.val_files='$HERE/val.parquet'" \\
  "$REWARD.path='$HERE/reward.py'" \\
  "$REWARD.name=compute_score" \\
  "trainer.default_local_dir='$HERE/checkpoints'" \\
  "$@"
"""


REWARD = '''"""The reward of the recipe {name} (written by pr1 export; scored by perception_r1's task.score)."""

from pathlib import Path

from perception_r1.integrations.verl import load

compute_score = load(Path(__file__).resolve().with_name("task.json"), unscored={unscored!r})
'''


def write(out: Path, recipe: Recipe, rows: Rows, options: dict[str, Any]) -> list[str]:
    """Write the folder; returns notes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unscored = options.pop("unscored")
    found, notes = overrides(recipe, rows, **options)
    head = f"# Hydra overrides of the recipe {recipe.name}; launch.sh adds the files of this folder."
    lines = [head, *(hydra(key, value) for key, value in found.items())]
    (out / "overrides.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    held_out = rows.eval
    if not held_out:
        held_out = rows.train[:8]
        notes.append("data.eval: the recipe has none; val.parquet holds eight training rows and is not evaluated on")
    for name, samples in (("train", rows.train), ("val", held_out)):
        pq.write_table(pa.Table.from_pylist(parquet_rows(rows, samples, name)), out / f"{name}.parquet")
    (out / "reward.py").write_text(REWARD.format(name=recipe.name, unscored=unscored), encoding="utf-8")
    launch = out / "launch.sh"
    launch.write_text(launch_script(recipe.name, options["strategy"]), encoding="utf-8")
    launch.chmod(0o755)
    return notes
