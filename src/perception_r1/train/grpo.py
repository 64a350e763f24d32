"""GRPO on a recipe: TRL's ``GRPOTrainer``, unmodified, with our rows and our reward."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from perception_r1.disk import room_in
from perception_r1.errors import ModelError, RecipeError
from perception_r1.integrations.trl import reward_function
from perception_r1.models.dtype import cast_saved, published_dtype
from perception_r1.models.generation import keep_settings, sample_plainly
from perception_r1.models.load import check_model_path, load_model
from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe
from perception_r1.train import distributed, run_folder, setup, vision_sync
from perception_r1.train.vllm_ready import check_vllm


def train_grpo(
    recipe: Recipe,
    out: str | Path,
    *,
    model_path: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Path:
    """Train and return the folder of the final model, ``OUT/model``.

    Args:
        recipe: what to train on what.
        out: the run's folder.
        model_path: start from this model instead of the recipe's (a warm start).
        resume: go on from the last complete checkpoint; a finished run is left as it is.
        show_progress: print progress on standard error.

    Raises:
        UserError: bad recipe, data or model; nothing is left half-written.
    """
    distributed.main_does(lambda: check_vllm(recipe.grpo, recipe.path or recipe.name))

    from trl import GRPOConfig, GRPOTrainer

    from perception_r1.train.callbacks import AtEvaluation, KeepSettings, MetricsWriter, Progress, RolloutWriter
    from perception_r1.train.rollout_guard import METRIC, RolloutGuard
    from perception_r1.train.vllm_prompts import keep_prompts

    setup.quiet_libraries()
    out = Path(out)
    start = Path(model_path) if model_path is not None else recipe.model
    check_model_path(start)
    # TRL gathers the pictures of each step for its logs, and only from processes that have some: the others would wait.
    table = {"log_multimodal": False, **(recipe.grpo or {})}
    args = setup.trainer_args(GRPOConfig, table, name="grpo", folder=out, where=recipe.path or recipe.name)
    family = build.recipe_family(recipe.model_copy(update={"model": str(start)}))
    task = build.recipe_task(recipe, family)
    with distributed.main_first():
        samples = build.recipe_samples(recipe, recipe.data.train, family)
        held_out = setup.evaluation_samples(recipe, args, family)
    adapter = setup.lora_config(recipe)
    check_enough_rows(len(samples), args, recipe)
    model, processor = setup.load_for_training(recipe, start, args, family)
    args.model_init_kwargs = {"dtype": "float32", **(args.model_init_kwargs or {})}  # of the reference model
    setup.check_prompt_length([*samples, *held_out], task, processor, model, args.max_completion_length)
    ban_image_tokens(args, setup.image_token_ids(family, processor.tokenizer))

    config = {**recipe.model_dump_plain(), "stage": "grpo", "start": str(start)}
    config["inputs"] = setup.run_inputs(start, samples)
    distributed.main_does(lambda: run_folder.open_run(out, config, resume=resume))
    if resume and (out / "model" / "config.json").is_file():
        return out / "model"
    checkpoint = run_folder.last_checkpoint(out / "checkpoints") if resume else None
    distributed.main_does(lambda: run_folder.drop_after(out, step_of(checkpoint)))

    judge = build.recipe_judge(recipe, out)
    written = {"rank": args.process_index, "scale": args.scale_rewards}
    rollouts = RolloutWriter(out / "rollouts", args.num_generations, **written)
    of_eval = args.num_generations_eval or args.num_generations
    evaluated = RolloutWriter(out / "rollouts-eval", of_eval, **written, at_once=False)
    ends = setup.end_token_ids(model, processor.tokenizer)
    shown = [
        ("reward", "reward"),
        ("eval_reward", "of data.eval"),
        ("kl", "KL"),
        ("completions/mean_length", "length"),
        (METRIC, "log-prob. difference"),
    ]
    guard = RolloutGuard(recipe.max_rollout_difference)
    began = time.monotonic()
    trainer = GRPOTrainer(
        model=model,
        args=args,
        reward_funcs=reward_function(task, processor.tokenizer, ends, rollouts, judge, evaluated),
        train_dataset=rollout_dataset_of(samples, task),
        eval_dataset=rollout_dataset_of(held_out, task, evaluation=True) if held_out else None,
        processing_class=processor,
        peft_config=adapter,
        callbacks=[
            guard,
            MetricsWriter(out / "metrics.jsonl"),
            AtEvaluation(evaluated.write),
            KeepSettings(start),
            *([Progress("GRPO", shown)] if show_progress else []),
        ],
    )
    trainer.remove_callback(_printer())
    distributed.check_distribution(trainer.accelerator, args)
    keep_prompts(trainer)
    guard.watch(trainer)
    setup.keep_trained_in_float32(trainer)
    keep_in_step(trainer)
    saved = share_prefixes(trainer) if recipe.shared_prefix else None
    with room_in(out):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        model_folder = finish(trainer, processor, out, start, began, dtype=recipe.save_dtype)
    setup.tell_best(trainer, show_progress)
    if saved and show_progress and trainer.is_world_process_zero():
        print(saved, file=sys.stderr)
    return model_folder


def keep_in_step(trainer: Any) -> None:
    """Where several processes train, let one whose batch has no image take part in the vision tower's work."""
    if trainer.accelerator.num_processes > 1:
        for model in (trainer.model, getattr(trainer, "ref_model", None)):
            if model is not None:
                vision_sync.enable(model)


def share_prefixes(trainer: Any) -> object:
    """Forward each group's prompt once where the model allows it; returns what to print when training ends."""
    from perception_r1 import shared_prefix

    shared_prefix.share_pixels(trainer.processing_class)
    try:
        return shared_prefix.enable(trainer.model, trainer.ref_model)
    except ModelError as error:
        return f"{error}: trained without"


def check_enough_rows(n_rows: int, args: Any, recipe: Recipe) -> None:
    """Refuse data that do not fill one generation batch: TRL would drop them and train for no step at all.

    Raises:
        RecipeError: naming both numbers.
    """
    prompts = args.generation_batch_size // args.num_generations
    if n_rows < prompts:
        raise RecipeError(
            f"{recipe.path or recipe.name}: {n_rows} training rows, but one generation batch takes {prompts} prompts "
            f"({args.generation_batch_size} rollouts / {args.num_generations} each): lower per_device_train_batch_size"
        )


def rollout_dataset_of(samples: list[Any], task: Any, *, evaluation: bool = False) -> Any:
    """The training or evaluation rows; separate so that ``train_grpo`` reads in one go."""
    from perception_r1.train.dataset import rollout_dataset

    return rollout_dataset(samples, task, evaluation=evaluation)


def ban_image_tokens(args: Any, ids: list[int]) -> None:
    """Keep the policy from writing image tokens, in transformers' ``generate`` and in vLLM."""
    if not ids:
        return
    kwargs = dict(args.generation_kwargs or {})
    if args.use_vllm:
        kwargs["logit_bias"] = {**dict.fromkeys(ids, -100.0), **kwargs.get("logit_bias", {})}
    else:
        kwargs["suppress_tokens"] = sorted({*ids, *kwargs.get("suppress_tokens", [])})
    args.generation_kwargs = kwargs


def step_of(checkpoint: Path | None) -> int:
    """The step of ``checkpoint-STEP``, 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def finish(
    trainer: Any, processor: Any, out: Path, start: str | Path, began: float, *, dtype: str | None = None
) -> Path:
    """Save model and processor into ``OUT/model``, whole or not at all, and the run's length into ``run.json``.

    Its ``seconds`` are those of this sitting: what a resumed run took before it was stopped is not in them.

    A LoRA adapter is kept in ``OUT/adapter`` and merged into the model it was trained on, so that ``OUT/model`` is a
    model like any other. Weights are trained in float32 and rounded once, here, to ``dtype``, by default that of the
    base (``run.json`` keeps its name for a run that starts from this one); checkpoints stay in float32.
    """
    saving = out / ".model"
    distributed.gather_for_saving(trainer.accelerator)
    adapted = trainer.accelerator.unwrap_model(trainer.model).__class__.__name__.startswith("Peft")
    trainer.save_model(str(out / "adapter" if adapted else saving))
    if trainer.is_world_process_zero():
        base = published_dtype(start)
        if adapted:
            merge_adapter(start, out / "adapter", saving)
        cast_saved(saving, dtype or base)
        keep_settings(start, saving)
        processor.save_pretrained(str(saving))
        saving.rename(out / "model")
        length = {"steps": trainer.state.global_step, "seconds": round(time.monotonic() - began, 1)}
        run_folder.write_json(out / "run.json", {**length, "base_dtype": base, **setup.best_checkpoint(trainer)})
    trainer.accelerator.wait_for_everyone()
    return out / "model"


def merge_adapter(base: str | Path, adapter: Path, merged: Path) -> None:
    """Write the model ``base`` with ``adapter`` merged into its weights, from files, however a run was sharded.

    In float32, so that the sum is rounded once, by whoever wants another dtype, and not the adapter's part first.
    """
    from peft import PeftModel

    model, _ = load_model(base, dtype="float32")
    sample_plainly(model)  # settings that are not valid could not be saved
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(merged)


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
