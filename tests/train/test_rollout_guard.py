"""Rollouts that are not the policy's stop a run, whoever generates them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from perception_r1.errors import ModelError, RecipeError
from perception_r1.recipe import build
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.rollout_guard import METRIC, RolloutGuard
from perception_r1.train.run import run_grpo


class _State:
    is_world_process_zero, global_step = True, 3


def log(guard: RolloutGuard, *values: float) -> None:
    for value in values:
        guard.on_log(None, _State(), None, logs={"loss": 0.0, METRIC: value})


def differences(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[METRIC] for line in lines if METRIC in line]


@pytest.mark.parametrize("extra", [[], ["lora={r: 4, target_modules: [q_proj, v_proj]}"], ["shared_prefix=false"]])
def test_the_first_rollouts_of_transformers_are_compared(extra: list[str], recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["grpo.max_steps=2", "grpo.temperature=0.7", *extra])
    run_grpo(recipe, tmp_path / "run", show_progress=False)
    (first,) = differences(tmp_path / "run")
    # What is left is the share of the image tokens, which the policy has and the sampling has not.
    assert 0 < first < 0.03


def trainer_with(guard: RolloutGuard, reward: Any, recipe_file: Path, out: Path) -> Any:
    """A ``GRPOTrainer`` as in a script of one's own."""
    from trl import GRPOConfig, GRPOTrainer

    from perception_r1.models.load import load_model
    from perception_r1.train.dataset import rollout_dataset

    recipe = load_recipe(recipe_file)
    family = build.recipe_family(recipe)
    model, processor = load_model(recipe.model, dtype="float32")
    processor.tokenizer.padding_side = "left"
    args = GRPOConfig(
        output_dir=str(out),
        max_steps=3,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=8,
        report_to="none",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        remove_unused_columns=False,
        save_strategy="no",
        log_multimodal=False,
        disable_tqdm=True,
    )
    rows = rollout_dataset(build.recipe_samples(recipe, recipe.data.train, family), build.recipe_task(recipe, family))
    trainer = GRPOTrainer(model, reward, args, train_dataset=rows, processing_class=processor, callbacks=[guard])
    guard.watch(trainer)
    return trainer


def test_other_weights_while_sampling_stop_the_run(recipe_file: Path, tmp_path: Path) -> None:
    import torch

    trainer: Any = None

    def disturbing(completions: Any, **_: Any) -> list[float]:  # called between the rollouts and the loss
        with torch.no_grad():
            for weight in trainer.model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.3)
        return [float(i % 2) for i in range(len(completions))]

    trainer = trainer_with(RolloutGuard(), disturbing, recipe_file, tmp_path)
    with pytest.raises(ModelError, match=r"not the policy's: up to step 1 .* nats .*max_rollout_difference: 0.5"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_sound_run_is_left_as_it_was(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_with(RolloutGuard(), lambda completions, **_: [0.0] * len(completions), recipe_file, tmp_path)
    trainer.train()
    assert trainer.state.global_step == 3
    assert "generate" not in vars(trainer.model)
    assert not trainer.model._forward_hooks
    assert "warning" not in capsys.readouterr().err


def test_warning_once_and_stop_by_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    guard = RolloutGuard()
    log(guard, 0.01, 0.02)
    assert capsys.readouterr().err == ""
    log(guard, 0.6, 0.6)  # the mean is 0.31
    err = capsys.readouterr().err
    assert err.startswith("warning: the rollouts are not the policy's")
    assert err.count("\n") == 1
    with pytest.raises(ModelError, match="another prompt or image, or has other weights"):
        log(guard, 1.5)
    log(RolloutGuard(None), 3.0, 3.0)  # measured only


def test_what_sets_in_later_stops_a_run_too() -> None:
    guard = RolloutGuard()
    log(guard, *[0.01] * 50)
    with pytest.raises(ModelError):
        log(guard, 1.0, 1.0, 1.0, 1.0)


def test_logs_of_an_evaluation_and_missing_values_do_not_count() -> None:
    guard = RolloutGuard()
    for logs in (None, {}, {f"eval_{METRIC}": 9.0}, {"loss": 0.0, METRIC: None}, {"loss": 0.0, METRIC: float("nan")}):
        guard.on_log(None, _State(), None, logs=logs)
    assert not guard.values


@pytest.mark.parametrize("value", ["0", "-1", "high"])
def test_the_recipes_key_is_validated(value: str, recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="max_rollout_difference"):
        load_recipe(recipe_file, [f"max_rollout_difference={value}"])
    assert load_recipe(recipe_file, ["max_rollout_difference=null"]).max_rollout_difference is None


def test_the_command_ends_with_one_line_and_code_2(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perception_r1", "train", str(recipe_file), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--set", "max_rollout_difference=1e-9"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("error: the rollouts are not the policy's")
    assert "Traceback" not in done.stderr
