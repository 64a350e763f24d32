"""What GRPO and SFT have in common: rows, task, model and trainer arguments from a recipe."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_r1.errors import RecipeError
from perception_r1.families import Family
from perception_r1.models.generation import sample_plainly
from perception_r1.models.identity import model_identity, weights_of
from perception_r1.models.limits import set_limits
from perception_r1.models.load import load_model
from perception_r1.models.processors import known_ids
from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe
from perception_r1.tasks import Task
from perception_r1.train.distributed import sharding_asked
from perception_r1.train.renamed import installed_names

if TYPE_CHECKING:
    from perception_r1.types import Sample


_EVALUATION_METRICS = {
    "grpo": ("loss", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl"),
    "sft": ("loss", "entropy", "mean_token_accuracy"),
}


def check_best_metric(table: Mapping[str, Any], name: str, where: object) -> None:
    """Refuse a ``metric_for_best_model`` that no evaluation will have, before the hours up to the first one.

    Names with a slash (``components/iou``, ``completions/mean_length``) are checked at the first evaluation.

    Raises:
        RecipeError: naming the metrics.
    """
    metric = str(table.get("metric_for_best_model") or "loss")
    known = _EVALUATION_METRICS[name]
    if "/" not in metric and metric.removeprefix("eval_") not in known:
        raise RecipeError(
            f"{where}: field '{name}.metric_for_best_model': no metric {metric!r} (known: {', '.join(known)}, and "
            "components/NAME in GRPO)"
        )


def evaluation_samples(recipe: Recipe, args: Any, family: Family) -> list[Sample]:
    """The rows of ``data.eval`` where the trainer evaluates during training (``eval_strategy``), else none.

    Raises:
        RecipeError: it evaluates, but on nothing. DataError: a bad row.
    """
    return build.recipe_samples(recipe, recipe.data.eval, family) if args.eval_strategy != "no" else []


def trainer_args(config_class: type, table: dict[str, Any] | None, *, name: str, folder: Path, where: object) -> Any:
    """A TRL config from a recipe's table, with our defaults for what the table leaves out.

    Raises:
        RecipeError: a key that TRL does not have, one that is ours to set, or a value that TRL refuses.
    """
    import torch

    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    table = installed_names(table or {}, known, f"{where}: field '{name}")
    check_best_metric(table, name, where)
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise RecipeError(f"{where}: field '{name}.{key}': {config_class.__name__} has no such setting{hint}")
    for key, reason in {
        "output_dir": "--out names the run's folder",
        "remove_unused_columns": "rows need all columns",
    }.items():
        if key in table:
            raise RecipeError(f"{where}: field '{name}.{key}': not to be set here ({reason})")
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if gpu and not bf16 and table.get("bf16") and not table.get("use_cpu"):
        raise RecipeError(
            f"{where}: field '{name}.bf16': the GPU has no bfloat16; leave it out (float32), or fp16: true"
        )
    attention = str((table.get("model_init_kwargs") or {}).get("attn_implementation"))
    if attention.startswith("flash_attention") and (not gpu or table.get("use_cpu")):
        raise RecipeError(
            f"{where}: field '{name}.model_init_kwargs.attn_implementation': {attention} needs a GPU; take sdpa"
        )
    if table.get("eval_strategy", "no") not in ("no", False):
        # TRL's own defaults: an evaluation with each log (each step), in batches of 8 whatever the training's.
        batch = table.get("per_device_train_batch_size", 8)
        table = {"eval_steps": table.get("save_steps", 50), "per_device_eval_batch_size": batch, **table}
    if name == "grpo" and (table.get("load_best_model_at_end") or table.get("save_strategy") == "best"):
        table = {"metric_for_best_model": "eval_reward", **table}  # its loss says nothing
    defaults = {
        "use_cpu": not gpu,
        "bf16": bf16 and not table.get("fp16"),
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 2,
        "dataloader_pin_memory": gpu,
    }
    fixed = {"output_dir": str(folder / "checkpoints"), "remove_unused_columns": False, "disable_tqdm": True}
    try:
        args = config_class(**{**defaults, **table, **fixed})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: field '{name}': {str(error).splitlines()[0]}") from None
    if args.n_gpu > 1:  # one process that sees several GPUs takes the first: TRL refuses nn.DataParallel
        args._n_gpu = 1
    return args


def weights_dtype(recipe: Recipe, *, half: bool, sharded: bool) -> str:
    """The dtype in which the recipe's start is loaded: "float32", or "auto" (as saved) for weights that stay frozen.

    At a learning rate of 1e-6 most updates of a bfloat16 weight round to nothing, so what is trained is kept in float32
    and ``bf16: true`` computes in bfloat16 under autocast. Under LoRA the model's own weights are only computed with;
    kept as published they cost half, and no cast. The adapters are float32 either way. Weights that are sharded must be
    of one dtype.

    Args:
        recipe: its ``lora`` table says what is trained.
        half: training computes in bfloat16.
        sharded: FSDP or DeepSpeed splits the weights.
    """
    lora = recipe.lora or {}
    copies = any(lora.get(key) for key in ("modules_to_save", "trainable_token_indices"))
    frozen = bool(lora) and not copies and lora.get("bias", "none") == "none"
    return "auto" if frozen and half and not sharded else "float32"


def load_for_training(recipe: Recipe, path: str | Path, args: Any, family: Family) -> tuple[Any, Any]:
    """Model and processor, in `weights_dtype` unless the recipe's ``model_init_kwargs`` say otherwise.

    The processor has the recipe's image limits; checkpoints and the final model are saved with it, so that whoever
    loads them sees images as training did. Of the model's own generation settings only its token ids are left.

    Args:
        recipe: what is frozen, and what is trained.
        path: of the model to start from.
        args: the trainer's arguments.
        family: of the model.
    """
    dtype = weights_dtype(recipe, half=bool(args.bf16), sharded=any(sharding_asked(args).values()))
    model, processor = load_model(path, **{"dtype": dtype, **(args.model_init_kwargs or {})})
    sample_plainly(model)
    set_limits(processor, build.recipe_limits(recipe, family))
    if recipe.freeze_vision:
        for parameter in vision_tower(model).parameters():
            parameter.requires_grad_(False)
    return model, processor


def keep_trained_in_float32(trainer: Any) -> None:
    """Keep adapters in float32: over quantised weights TRL has them in bfloat16, which a small step does not move."""
    if trainer.accelerator.unwrap_model(trainer.model).__class__.__name__.startswith("Peft"):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.float()


def vision_tower(model: Any) -> Any:
    """The module that reads the pixels."""
    for name in ("visual", "vision_tower"):
        found = getattr(getattr(model, "model", model), name, None)
        if found is not None:
            return found
    raise RecipeError(f"field 'freeze_vision': {type(model).__name__} has no vision tower that we know")


def lora_config(recipe: Recipe) -> Any:
    """PEFT's ``LoraConfig`` from the recipe's table, or None."""
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for key in recipe.lora:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise RecipeError(f"{recipe.path}: field 'lora.{key}': LoraConfig has no such setting{hint}")
    return LoraConfig(**recipe.lora)


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end an answer: the tokenizer's and all that the model's generation settings name."""
    declared = model.generation_config.eos_token_id
    ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    return sorted({*ids, tokenizer.eos_token_id})


def image_token_ids(family: Family, tokenizer: Any) -> list[int]:
    """Ids of the tokens that stand for pixels; a policy that writes one breaks the next forward pass."""
    return sorted(set(known_ids(tokenizer, family.image_tokens)))


def check_prompt_length(samples: Sequence[Sample], task: Task, processor: Any, model: Any, answer_tokens: int) -> int:
    """The longest prompt in tokens, image included; refuses one that leaves no room for the answer.

    Raises:
        RecipeError: prompt and answer exceed the model's context.
    """
    from perception_r1.data.images import model_image

    def size(sample: Sample) -> int:
        width, height = sample.model_size or (0, 0)
        return width * height + 64 * len(sample.question)

    longest = max(samples, key=size)
    messages = [
        {
            **turn,
            "content": [
                {**part, "image": model_image(longest)} if part["type"] == "image" else part for part in turn["content"]
            ],
        }
        for turn in task.prompt(longest).messages()
    ]
    encoded = processor.apply_chat_template([messages], add_generation_prompt=True, tokenize=True, return_dict=True)
    n_tokens = len(encoded["input_ids"][0])
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and n_tokens + answer_tokens > limit:
        raise RecipeError(
            f"sample {longest.id!r}: its prompt has {n_tokens} tokens and the answer may have {answer_tokens}, but the "
            f"model's context is {limit}: lower image.max_pixels or max_completion_length"
        )
    return n_tokens


def best_checkpoint(trainer: Any) -> dict[str, Any]:
    """``best_step`` and the metric's name and value of the checkpoint that the trainer took at the end; {} if the last.

    With ``load_best_model_at_end`` the trainer's weights are by now those of that checkpoint.
    """
    args, state = trainer.args, trainer.state
    if not args.load_best_model_at_end or state.best_metric is None:
        return {}
    return {"best_step": state.best_global_step, args.metric_for_best_model: state.best_metric}


def tell_best(trainer: Any, show_progress: bool) -> None:
    """Say which checkpoint the final model is, where it need not be the last."""
    best = best_checkpoint(trainer)
    if best and show_progress and trainer.is_world_process_zero():
        step, name = best["best_step"], trainer.args.metric_for_best_model
        print(f"the model of step {step} is kept: {name} {best[name]:.4f} is the best", file=sys.stderr)


def run_inputs(start: str | Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """What a run depends on besides its recipe, for ``config.json``: the weights it starts from, and its rows."""
    rows = repr([(sample.id, sample.question, sample.target, sample.categories) for sample in samples])
    return {"start": weights_of(model_identity(start)), "rows": hashlib.sha256(rows.encode()).hexdigest()[:16]}


def quiet_libraries() -> None:
    """Keep other libraries' notices out of our output; their warnings about real trouble stay."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
