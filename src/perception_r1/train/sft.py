"""Supervised fine-tuning on the gold answers: TRL's ``SFTTrainer``, unmodified; the baseline and the warm start."""

from __future__ import annotations

import time
from pathlib import Path

from perception_r1.disk import room_in
from perception_r1.models.load import check_model_path
from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe
from perception_r1.train import distributed, run_folder, setup
from perception_r1.train.grpo import _printer, finish, keep_in_step, step_of


def train_sft(
    recipe: Recipe,
    out: str | Path,
    *,
    model_path: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Path:
    """Train on answers and return the folder of the final model, ``OUT/model``; arguments as in ``train_grpo``."""
    from trl import SFTConfig, SFTTrainer

    from perception_r1.train.callbacks import AtEvaluation, KeepSettings, MetricsWriter, Progress
    from perception_r1.train.dataset import answer_dataset

    setup.quiet_libraries()
    out = Path(out)
    start = Path(model_path) if model_path is not None else recipe.model
    check_model_path(start)
    table = {"max_length": None, "completion_only_loss": True, **(recipe.sft or {})}
    args = setup.trainer_args(SFTConfig, table, name="sft", folder=out, where=recipe.path or recipe.name)
    family = build.recipe_family(recipe.model_copy(update={"model": str(start)}))
    task = build.recipe_task(recipe, family)
    with distributed.main_first():
        samples = build.recipe_samples(recipe, recipe.data.train, family)
        held_out = setup.evaluation_samples(recipe, args, family)
    adapter = setup.lora_config(recipe)
    model, processor = setup.load_for_training(recipe, start, args, family)
    args.model_init_kwargs = None
    setup.check_prompt_length([*samples, *held_out], task, processor, model, 0)

    config = {**recipe.model_dump_plain(), "stage": "sft", "start": str(start)}
    config["inputs"] = setup.run_inputs(start, samples)
    distributed.main_does(lambda: run_folder.open_run(out, config, resume=resume))
    if resume and (out / "model" / "config.json").is_file():
        return out / "model"
    checkpoint = run_folder.last_checkpoint(out / "checkpoints") if resume else None
    distributed.main_does(lambda: run_folder.drop_after(out, step_of(checkpoint)))

    began = time.monotonic()
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=answer_dataset(samples, task),
        eval_dataset=answer_dataset(held_out, task) if held_out else None,
        processing_class=processor,
        peft_config=adapter,
        callbacks=[
            MetricsWriter(out / "metrics.jsonl"),
            AtEvaluation(),
            KeepSettings(start),
            *([Progress("SFT", [("loss", "loss"), ("eval_loss", "of data.eval")])] if show_progress else []),
        ],
    )
    trainer.remove_callback(_printer())
    distributed.check_distribution(trainer.accelerator, args)
    setup.keep_trained_in_float32(trainer)
    keep_in_step(trainer)
    with room_in(out):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        setup.tell_best(trainer, show_progress)
        return finish(trainer, processor, out, start, began, dtype=recipe.save_dtype)
