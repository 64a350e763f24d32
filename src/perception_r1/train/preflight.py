"""What stops a training before anything heavy is loaded: packages, files, ids and functions that a recipe names."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception_r1.errors import RecipeError, UserError
from perception_r1.models.load import check_available
from perception_r1.packages import is_installed, pip_line
from perception_r1.recipe.schema import Recipe
from perception_r1.rewards.function import load_function
from perception_r1.train.vllm_ready import package_problem

Table = Mapping[str, Any]
Problem = tuple[str, str]
"""(key of the table, what is wrong with it and the fix)."""

# report_to: modules of which one is needed, and what pip calls the package.
_TRACKERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "wandb": (("wandb",), "wandb"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "mlflow": (("mlflow",), "mlflow"),
    "trackio": (("trackio",), "trackio"),
    "comet_ml": (("comet_ml",), "comet_ml"),
    "neptune": (("neptune",), "neptune"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "dagshub": (("dagshub",), "dagshub"),
    "dvclive": (("dvclive",), "dvclive"),
    "swanlab": (("swanlab",), "swanlab"),
    "flyte": (("flytekit",), "flytekit"),
    "azure_ml": (("azureml",), "azureml-core"),
    "kubeflow": ((), ""),
}

# Parts of an optimizer's name, the module that it needs, and what pip calls the package.
_OPTIMIZERS: tuple[tuple[str, str, str], ...] = (
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("adamw_torch_4bit", "torchao", "torchao"),
    ("adamw_torch_8bit", "torchao", "torchao"),
    ("paged_", "bitsandbytes", "bitsandbytes"),
    ("bnb", "bitsandbytes", "bitsandbytes"),
    ("_8bit", "bitsandbytes", "bitsandbytes"),
    ("ademamix", "bitsandbytes", "bitsandbytes"),
    ("lion_32bit", "bitsandbytes", "bitsandbytes"),
)


def preflight(recipe: Recipe, stage: str, out: Path) -> None:
    """Refuse what would fail after the model was loaded. Imports neither torch nor transformers.

    Args:
        recipe: what to train.
        stage: the table that is run, ``grpo`` (after ``sft``, with ``warm_start: sft``) or ``sft``.
        out: the run's folder.

    Raises:
        UserError: the first thing that is wrong, where, and the fix.
    """
    where = recipe.path or recipe.name
    tables = {"sft": recipe.sft, "grpo": recipe.grpo}
    stages = ("sft", "grpo") if stage == "grpo" and recipe.warm_start == "sft" else (stage,)
    for name in stages:
        for key, problem in _problems(tables[name] or {}, recipe):
            raise RecipeError(f"{where}: field '{name}.{key}': {problem}")
    if recipe.lora is not None and not is_installed("peft"):
        raise RecipeError(f"{where}: field 'lora': {_missing('peft')}")
    if recipe.reward.function is not None:
        load_function(recipe.reward.function)
    check_writable(out)
    check_available(recipe.model)


def _problems(table: Table, recipe: Recipe) -> Iterator[Problem]:
    yield from _model_problems(table.get("model_init_kwargs") or {})
    yield from _tracker_problems(table.get("report_to"))
    yield from _optimizer_problems(str(table.get("optim") or ""))
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    for key, wanted, package in (
        ("use_vllm", table.get("use_vllm"), "vllm"),
        ("deepspeed", table.get("deepspeed") or deepspeed, "deepspeed"),
        ("use_liger_kernel", table.get("use_liger_kernel"), "liger-kernel"),
    ):
        if wanted and not is_installed(package.replace("-", "_")):
            yield key, _missing(package)
    if table.get("use_vllm") and is_installed("trl") and (problem := package_problem()):
        yield "use_vllm", problem
    file = table.get("deepspeed")
    if isinstance(file, str) and not Path(file).is_file():
        yield "deepspeed", f"{file}: no such file"
    if table.get("push_to_hub"):
        from perception_r1.models.hub import push_problem

        if problem := push_problem(table.get("hub_token")):
            yield "push_to_hub", problem
    if table.get("eval_strategy", "no") not in ("no", False, None) and not recipe.data.eval:
        yield "eval_strategy", "there is nothing to evaluate on: name rows under 'data.eval'"


def _model_problems(init: Table) -> Iterator[Problem]:
    quantization = init.get("quantization_config")
    bits = ("load_in_4bit", "load_in_8bit")
    four = isinstance(quantization, Mapping) and any(quantization.get(key) for key in bits)
    if (four or any(init.get(key) for key in bits)) and not is_installed("bitsandbytes"):
        yield "model_init_kwargs", _missing("bitsandbytes")
    attention = str(init.get("attn_implementation") or "")
    if attention.startswith("flash_attention_"):
        modules = {"2": "flash_attn", "3": "flash_attn_interface"}
        module = modules.get(attention.removeprefix("flash_attention_"))
        # transformers fetches the kernel from the hub where the package `kernels` is there instead.
        if module and not is_installed(module) and not is_installed("kernels"):
            package = "flash-attn --no-build-isolation" if module == "flash_attn" else "kernels"
            yield (
                "model_init_kwargs.attn_implementation",
                f"{module} is not installed: {pip_line(package)}, or take sdpa",
            )
    elif "/" in attention and not is_installed("kernels"):
        yield "model_init_kwargs.attn_implementation", f"kernels is not installed: {pip_line('kernels')}, or take sdpa"


def _tracker_problems(report_to: Any) -> Iterator[Problem]:
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in _TRACKERS:
            close = difflib.get_close_matches(str(name), _TRACKERS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: none, {', '.join(_TRACKERS)}"
            yield "report_to", f"there is no tracker {name!r} ({hint})"
            continue
        modules, package = _TRACKERS[name]
        if modules and not any(is_installed(module) for module in modules):
            yield "report_to", f"{_missing(package)} (or report_to: none; metrics.jsonl is written anyway)"


def _optimizer_problems(optim: str) -> Iterator[Problem]:
    for part, module, package in _OPTIMIZERS:
        if part in optim:
            if not is_installed(module):
                yield "optim", f"{optim}: {_missing(package)} (or take adamw_torch)"
            return


def _missing(package: str) -> str:
    return f"{package} is not installed: {pip_line(package)}"


def check_writable(folder: Path) -> None:
    """Refuse a run's folder that cannot be made or written to.

    Raises:
        UserError: why.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{folder}: cannot be made, {place} is a file; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None
