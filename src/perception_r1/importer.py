"""Launch scripts of PR1 and VLM-R1, and VLM-R1's data YAML, as a recipe.

A script is read, never run: variables that it assigns are filled in, ``--key value`` arguments collected. Those that
TRL has are passed on under ``grpo``; what has no counterpart is said in a note, never dropped in silence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from perception_r1.config import parse_recipe
from perception_r1.errors import RecipeError

_PASSED = {
    "learning_rate",
    "num_generations",
    "max_completion_length",
    "per_device_train_batch_size",
    "temperature",
    "top_p",
    "gradient_accumulation_steps",
    "logging_steps",
    "bf16",
    "fp16",
    "num_train_epochs",
    "max_steps",
    "save_steps",
    "seed",
    "save_only_model",
    "save_total_limit",
    "save_strategy",
    "beta",
    "num_iterations",
    "epsilon",
    "epsilon_high",
    "top_k",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "report_to",
    "run_name",
    "data_seed",
    "use_vllm",
    "vllm_mode",
    "vllm_gpu_memory_utilization",
    "loss_type",
    "scale_rewards",
    "delta",
    "ddp_timeout",
    "dataloader_num_workers",
    "adam_beta1",
    "adam_beta2",
    "max_prompt_length",
}
_RENAMED = {"gradient_checkpointing": "activation_checkpointing", "warmup_ratio": "warmup_steps"}
_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
}
_SILENT = {
    "output_dir",
    "nproc_per_node",
    "nnodes",
    "node_rank",
    "master_addr",
    "master_port",
    "run_name",
    "standalone",
    "max_prompt_length",
    "lora_task_type",
    "use_peft",
    "torch_dtype",
    "answer_template",
    "dataset_config",
    "system_prompt",
    "overwrite_output_dir",
    "skip_special_tokens",
    "gradient_checkpointing_kwargs",
}
_READ = {
    "model_name_or_path",
    "dataset_name",
    "image_dir",
    "image_root",
    "data_file_paths",
    "image_folders",
    "task_type",
    "reward_funcs",
    "question_template",
    "system_prompt_template",
    "answer_key",
    "train_sample_size",
    "max_pixels",
    "min_pixels",
    "freeze_vision_modules",
    "attn_implementation",
    "deepspeed",
    "is_reward_customized_from_vlm_module",
    "reward_method",
    "val_split_ratio",
}
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
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+|local\s+|declare\s+)?([A-Za-z_]\w*)(\+?=)(.*)$")
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)")


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
        raise RecipeError(f"{path}: cannot be read ({error})") from None
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


def parse_arguments(script: str) -> dict[str, Any]:
    """``--key value`` arguments of the commands in a shell script; several values give a list, none gives True.

    Example:
        >>> parse_arguments("N=8\\ntorchrun --nproc_per_node=$N x.py --bf16 --reward_funcs a b")
        {'nproc_per_node': '8', 'bf16': True, 'reward_funcs': ['a', 'b']}
    """
    variables: dict[str, str] = {}
    found: dict[str, Any] = {}
    for line in re.sub(r"\\\r?\n", " ", script).splitlines():
        if line.lstrip().startswith("#"):
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment and "--" not in line.split("=", 1)[0]:
            name, operator, value = assignment.groups()
            text = " ".join(_words(_expand(value, variables)))
            variables[name] = variables.get(name, "") + text if operator == "+=" else text
            continue
        key = None
        for word in _words(_expand(line, variables)):
            if re.match(r"--[A-Za-z_]", word):
                key, equals, value = word[2:].partition("=")
                found[key] = value if equals else True
            elif word in ("|", ">", ">>", "2>&1", "&", "&&", ";", "tee") or (key is not None and word.endswith(".py")):
                key = None
            elif key is not None:
                before = found[key]
                found[key] = word if before is True else [*([before] if isinstance(before, str) else before), word]
    return found


def _expand(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, default, short = match.groups()
        known = variables.get(name or short)
        if known is not None:
            return known
        return _expand(default, variables).strip("\"'") if default is not None else match.group()

    return _VARIABLE.sub(value, text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # an unbalanced quote somewhere in the script
        return text.split()


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
    values["data"] = {"seed": int(arguments.get("data_seed", arguments.get("seed", 0)))}
    values["data"]["train"] = _sources(arguments, path, task, pr1, notes)
    image = {key: int(float(arguments[key])) for key in ("min_pixels", "max_pixels") if key in arguments}
    if image:
        values["image"] = image
    if _yes(arguments.get("freeze_vision_modules", False)):
        values["freeze_vision"] = True
    values["grpo"] = _grpo(arguments, notes)
    lora = {name: _scalar(arguments[key]) for key, name in _LORA.items() if key in arguments}
    if _yes(arguments.get("use_peft", False)) or lora:
        values["lora"] = {"target_modules": "all-linear", **lora}
    if "deepspeed" in arguments:
        notes.append(f"deepspeed: {arguments['deepspeed']}: launch with accelerate and recipes/engines/zero3.yaml")
    notes.append("data: look at the rows before training: pr1 data show, pr1 check")
    return found


def _task(arguments: Mapping[str, Any], path: Path, scripts: str) -> str:
    for key in ("task_type", "question_template", "reward_funcs"):
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
        if "max_pixels" in arguments:
            options["max_pixels"] = int(float(arguments["max_pixels"]))
    key = arguments.get("answer_key")
    if isinstance(key, str) and key != "solution":
        options["answer"] = key
    count = int(arguments["train_sample_size"]) if "train_sample_size" in arguments else None
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


def _grpo(arguments: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in _SILENT or key in _LORA or key == "seed_worker":
            continue
        if key in _PASSED or key in _RENAMED:
            found[_RENAMED.get(key, key)] = _scalar(value)
        elif key not in _READ:
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


def _yes(value: Any) -> bool:
    return _scalar(value) is True


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
