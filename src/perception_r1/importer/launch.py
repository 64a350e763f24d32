"""Arguments of a launch script, or a data YAML of VLM-R1, as the values of a recipe.

Arguments that TRL has are passed on under ``grpo``. What would change the run and has no counterpart is said in a note,
never dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from perception_r1.config import parse_recipe
from perception_r1.errors import RecipeError
from perception_r1.importer.shell import parse_arguments

_NUMBERS = {
    "learning_rate", "num_generations", "max_completion_length", "per_device_train_batch_size", "temperature", "top_p",
    "top_k", "min_p", "repetition_penalty", "gradient_accumulation_steps", "logging_steps", "num_train_epochs",
    "max_steps", "save_steps", "seed", "data_seed", "save_total_limit", "beta", "num_iterations", "epsilon",
    "epsilon_high", "warmup_steps", "weight_decay", "max_grad_norm", "vllm_gpu_memory_utilization",
    "vllm_tensor_parallel_size", "delta", "ddp_timeout", "dataloader_num_workers", "adam_beta1", "adam_beta2",
    "adam_epsilon",
}  # fmt: skip
"""Arguments with a number that TRL has too."""

_PASSED = {
    "bf16", "fp16", "tf32", "save_only_model", "save_strategy", "lr_scheduler_type", "report_to", "use_vllm",
    "vllm_mode", "loss_type", "scale_rewards", "optim",
}  # fmt: skip
_RENAMED = {"gradient_checkpointing": "activation_checkpointing", "warmup_ratio": "warmup_steps"}
_OLD_DEFAULTS = {"beta": 0.04, "loss_type": "grpo", "use_bias_correction_kl": False, "max_completion_length": 256}
"""What their trainers do where a script says nothing, and TRL's defaults have changed since."""

_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
}
_SILENT = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "nproc_per_node", "nnodes", "node_rank",
    "master_addr", "master_port", "standalone", "max_prompt_length", "lora_task_type", "use_peft", "torch_dtype",
    "answer_template", "dataset_config", "system_prompt", "skip_special_tokens", "gradient_checkpointing_kwargs",
    "remove_unused_columns", "is_reward_customized_from_vlm_module",
}  # fmt: skip
"""What the launcher, the run's folder, the task or the processor settle here."""

_READ = {
    "model_name_or_path", "dataset_name", "image_dir", "image_root", "data_file_paths", "image_folders", "task_type",
    "reward_funcs", "reward_method", "question_template", "system_prompt_template", "answer_key", "train_sample_size",
    "max_pixels", "min_pixels", "freeze_vision_modules", "attn_implementation", "deepspeed",
}  # fmt: skip
_TASKS = {
    "rec": "grounding",
    "grounding": "grounding",
    "refgta": "grounding",
    "counting": "counting",
    "detection": "detection",
    "ovd": "detection",
    "odlength": "detection",
    "weighted_sum": "detection",
    "ocr": "ocr",
}


@dataclass
class Imported:
    """The recipe's values and what a reader should know about them."""

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def to_yaml(self, origin: str) -> str:
        """The recipe as a file, its notes on top."""
        head = [f"# Imported from {origin} by pr1 import.", *(f"# note: {note}" for note in self.notes)]
        return "\n".join(head) + "\n" + yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)


def import_launch(path: str | Path, *, task: str | None = None, model: str | None = None) -> Imported:
    """A launch script (``.sh``), or a data YAML of VLM-R1, as a recipe.

    Args:
        path: the file.
        task: where the script does not tell.
        model: where the file names none (a data YAML), or to take another.

    Raises:
        RecipeError: nothing to import in it, or no task can be told.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if path.suffix in (".yaml", ".yml"):
        arguments: dict[str, Any] = {"dataset_name": str(path)}
    else:
        arguments = parse_arguments(text)
        if not arguments.keys() & _READ:
            raise RecipeError(f"{path}: no launch arguments of PR1 or VLM-R1 found (expected --model_name_or_path …)")
    arguments = {**arguments, **({"model_name_or_path": model} if model else {})}
    scripts = " ".join(re.findall(r"[\w./-]+\.py\b", text))
    found = _recipe(arguments, path, task, scripts)
    parse_recipe(found.values, path)
    return found


def _recipe(arguments: dict[str, Any], path: Path, task: str | None, scripts: str) -> Imported:
    pr1 = any("pr1_" in str(arguments.get(key, "")) for key in ("reward_funcs", "question_template", "answer_template"))
    task = task or _task(arguments, path, scripts)
    found = Imported(
        {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", str(path.stem)).strip("-._") or "imported", "task": task}
    )
    values, notes = found.values, found.notes
    model = arguments.get("model_name_or_path")
    if not isinstance(model, str):
        raise RecipeError(f"{path}: names no model (add --model)")
    values["model"] = model
    thinking = any("think" in str(arguments.get(key, "")) for key in ("question_template", "system_prompt_template"))
    values["thinking"] = thinking or not pr1
    if pr1:
        values["reward"] = {"preset": "paper"}
    else:
        asked = arguments.get("reward_funcs", "accuracy format")
        notes.append(f"reward: {_text(asked)} is scored by our robust preset, format included")
        notes.append("thinking: VLM-R1 asks for <think> and <answer>; set thinking: false to ask without")
    seed = _whole(arguments, "data_seed", path)
    seed = _whole(arguments, "seed", path) if seed is None else seed
    values["data"] = {"seed": seed or 0}
    values["data"]["train"] = _sources(arguments, path, task, pr1, notes)
    limits = {key: _whole(arguments, key, path) for key in ("min_pixels", "max_pixels")}
    if any(limits.values()):
        values["image"] = {key: value for key, value in limits.items() if value is not None}
    if _yes(arguments.get("freeze_vision_modules", False)):
        values["freeze_vision"] = True
    values["grpo"] = _grpo(arguments, path, notes)
    lora = {name: _scalar(arguments[key]) for key, name in _LORA.items() if key in arguments}
    for key, name in list(_LORA.items())[:3]:
        if name in lora:
            lora[name] = _number(arguments, key, path)
    if _yes(arguments.get("use_peft", False)) or lora:
        values["lora"] = {"target_modules": "all-linear", **lora}
    if "deepspeed" in arguments:
        stage = "zero2" if "2" in Path(_text(arguments["deepspeed"])).name else "zero3"
        notes.append(
            f"deepspeed: accelerate launch --config_file configs/accelerate/{stage}.yaml -m perception_r1 train …"
        )
    if unset := sorted(set(re.findall(r"\$[({]?\w+[)}]?|<[^<>\n]+>", str(values)))):
        notes.append(f"the script does not set {', '.join(unset)}: fill in")
    notes.append("data: look at the rows before training: pr1 data show, pr1 check")
    return found


def _task(arguments: Mapping[str, Any], path: Path, scripts: str) -> str:
    for key in ("task_type", "question_template", "reward_funcs", "reward_method"):
        for word in re.split(r"[\s_,]+", _text(arguments.get(key, ""))):
            if word.lower() in _TASKS:
                return _TASKS[word.lower()]
    for word in re.split(r"[\W_]+", f"{scripts} {path.stem} {arguments.get('dataset_name', '')}".lower()):
        if word in _TASKS:
            return _TASKS[word]
    raise RecipeError(f"{path}: does not tell the task (add --task grounding, counting, detection or ocr)")


def _sources(arguments: Mapping[str, Any], path: Path, task: str, pr1: bool, notes: list[str]) -> list[dict[str, Any]]:
    options: dict[str, Any] = {}
    if pr1 and task in ("grounding", "counting"):
        options["coordinates"] = "norm1000"
    elif pr1 and task == "detection":
        options["coordinates"] = "resized"
        limit = _whole(arguments, "max_pixels", path)
        if limit is not None:
            options["max_pixels"] = limit
    key = arguments.get("answer_key")
    if isinstance(key, str) and key != "solution":
        options["answer"] = key
    count = _whole(arguments, "train_sample_size", path)
    if isinstance(arguments.get("data_file_paths"), str):
        files = str(arguments["data_file_paths"]).split(":")
        folders = str(arguments.get("image_folders", "")).split(":")
        if len(folders) != len(files):
            raise RecipeError(f"{path}: {len(files)} data files but {len(folders)} image folders")
        return [_source(file, folder or None, options, None) for file, folder in zip(files, folders, strict=True)]
    name = arguments.get("dataset_name")
    images = arguments.get("image_dir") or arguments.get("image_root")
    images = images if isinstance(images, str) else None
    if not isinstance(name, str):
        raise RecipeError(f"{path}: names no data (expected --data_file_paths or --dataset_name)")
    if name.endswith((".yaml", ".yml")):
        return _data_yaml(name, path, images, options, notes)
    if not name.endswith((".json", ".jsonl", ".parquet")):
        notes.append(f"data: {name} is taken for a Hugging Face data set saved on disk; give its folder")
        return [{"source": "hf", "path": name, **({"count": count} if count else {})}]
    return [_source(name, images, options, count)]


def _data_yaml(
    name: str, path: Path, images: str | None, options: dict[str, Any], notes: list[str]
) -> list[dict[str, Any]]:
    """VLM-R1's list of data sets: ``json_path`` and ``sampling_strategy`` (all, first:N, end:N, random:N, or N%)."""
    file = next((each for each in (Path(name), path.parent / name) if each.is_file()), None)
    if file is None:
        notes.append(f"data: {name} is not here; import again where it is, or fill in data.train")
        return [{"source": "records", "path": name}]
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("datasets"), list):
        raise RecipeError(f"{file}: expected VLM-R1's list 'datasets' of json_path and sampling_strategy")
    sources = []
    for number, entry in enumerate(content["datasets"], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
            raise RecipeError(f"{file}: entry {number} of 'datasets' has no json_path")
        how, _, amount = str(entry.get("sampling_strategy", "all")).partition(":")
        count = int(amount) if amount.isdigit() else None
        if amount and count is None:
            notes.append(f"data: {entry['json_path']}: {how}:{amount} is taken whole; write a count")
        elif count and how != "random":
            notes.append(f"data: {entry['json_path']}: {how}:{count} becomes {count} rows drawn at random")
        sources.append(_source(entry["json_path"], images, options, count))
    if not sources:
        raise RecipeError(f"{file}: 'datasets' is empty")
    return sources


def _source(file: str, images: str | None, options: dict[str, Any], count: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"source": "records", "path": file}
    if images:
        found["images"] = images
    if count:
        found["count"] = count
    if options:
        found["options"] = dict(options)
    return found


def _grpo(arguments: Mapping[str, Any], path: Path, notes: list[str]) -> dict[str, Any]:
    found = dict(_OLD_DEFAULTS)
    for key, value in arguments.items():
        if key in _NUMBERS or key == "warmup_ratio":
            found[_RENAMED.get(key, key)] = _number(arguments, key, path)
        elif key in _PASSED or key in _RENAMED:
            found[_RENAMED.get(key, key)] = _scalar(value)
        elif key not in _READ and key not in _SILENT and key not in _LORA:
            notes.append(f"--{key} {_text(value)}: not carried over")
    attention = arguments.get("attn_implementation")
    if isinstance(attention, str):
        found["model_init_kwargs"] = {"attn_implementation": attention}
    return found


def _scalar(value: Any) -> Any:
    """``"1e-6"`` and ``"true"`` as what they mean."""
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _number(arguments: Mapping[str, Any], key: str, path: Path) -> Any:
    value = "" if arguments[key] is True else _scalar(arguments[key])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(f"{path}: --{key} {_text(arguments[key] if value != '' else '')}: expected a number")
    return value


def _whole(arguments: Mapping[str, Any], key: str, path: Path) -> int | None:
    """An argument that is a whole number, perhaps written as ``1e6``; None where it is not given."""
    if key not in arguments:
        return None
    value = _number(arguments, key, path)
    if value != int(value) or value < 0:
        raise RecipeError(f"{path}: --{key} {_text(arguments[key])}: expected a whole number")
    return int(value)


def _yes(value: Any) -> bool:
    return _scalar(value) is True


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
