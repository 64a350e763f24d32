"""Evaluation on ``data.eval`` during training: what is logged, which checkpoint is kept, and that a resume is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl")

import pyarrow.parquet

from perception_r1.errors import RecipeError
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.run import run_grpo, run_sft

EVALUATES = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 3}


@pytest.fixture
def evaluating(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small recipe with rows to evaluate on, and a reward that an untrained policy gets some of."""
    (tmp_path / "some_reward.py").write_text(
        "def letters(sample, completion, parsed, match):\n    return sum(map(ord, completion.text)) % 97 / 97\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    values = yaml.safe_load(recipe_file.read_text())
    (train,) = values["data"]["train"]
    values["data"]["eval"] = [{**train, "options": {"n": 4, "max_digits": 3, "seed": 1}}]
    values["reward"] = {"function": "some_reward:letters", "components": {"function": 1.0}}
    for table in ("grpo", "sft"):
        values[table] |= EVALUATES
    recipe_file.write_text(yaml.safe_dump(values))
    return recipe_file


def logged(folder: Path, key: str) -> dict[int, float]:
    """The values of ``key`` in a run's metrics, by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}


def weights(folder: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)  # type: ignore[attr-defined]


def test_grpo_logs_the_eval_reward_keeps_the_best_and_resumes_exactly(evaluating: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    recipe = load_recipe(evaluating)
    run_grpo(recipe, whole, show_progress=False)
    rewards = logged(whole, "eval_reward")
    assert list(rewards) == [2, 4]
    for step, reward in rewards.items():
        rows = pyarrow.parquet.read_table(whole / "rollouts-eval" / f"step-{step:06d}.parquet").to_pylist()
        assert len(rows) == 4 * 4 and {row["step"] for row in rows} == {step}
        assert sum(row["reward"] for row in rows) / len(rows) == pytest.approx(reward, abs=1e-6)
    files = sorted((whole / "rollouts").iterdir())  # of the training only
    assert [file.name for file in files] == [f"step-00000{n}.parquet" for n in range(1, 5)]
    assert all(len(pyarrow.parquet.read_table(file)) == 8 for file in files)

    best = max(rewards, key=lambda step: rewards[step])
    record = json.loads((whole / "run.json").read_text())
    assert (record["best_step"], record["eval_reward"]) == (best, rewards[best])
    checkpoints = whole / "checkpoints"
    assert same(whole / "model", checkpoints / f"checkpoint-{best}")
    assert not same(checkpoints / "checkpoint-2", checkpoints / "checkpoint-4")

    # As a kill after the evaluation of step 4, before its checkpoint, leaves it.
    shutil.copytree(whole, resumed)
    for name in ("model", "checkpoints/checkpoint-4"):
        shutil.rmtree(resumed / name)
    state = resumed / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    state.write_text(state.read_text().replace(str(whole), str(resumed)))
    run_grpo(recipe, resumed, resume=True, show_progress=False)
    for key in ("eval_reward", "eval_components/function", "reward", "loss"):
        assert logged(resumed, key) == pytest.approx(logged(whole, key), abs=1e-6)
    columns = ["id", "completion", "reward"]
    for file in sorted((whole / "rollouts-eval").iterdir()):
        other = resumed / "rollouts-eval" / file.name
        assert pyarrow.parquet.read_table(other, columns=columns) == pyarrow.parquet.read_table(file, columns=columns)
    assert json.loads((resumed / "run.json").read_text())["best_step"] == best
    assert same(whole / "model", resumed / "model")


def test_sft_logs_the_eval_loss_and_keeps_the_best(evaluating: Path, tmp_path: Path) -> None:
    """At this learning rate the loss falls at first, and is thrown up by the last steps."""
    out = tmp_path / "run"
    run_sft(load_recipe(evaluating, ["sft.lr_scheduler_type=constant", "sft.max_steps=4"]), out, show_progress=False)
    losses = logged(out, "eval_loss")
    assert list(losses) == [2, 4]
    best = min(losses, key=lambda step: losses[step])
    assert json.loads((out / "run.json").read_text())["best_step"] == best
    assert same(out / "model", out / "checkpoints" / f"checkpoint-{best}")


def test_the_defaults_of_an_evaluation_are_those_of_the_training(tmp_path: Path) -> None:
    """TRL's own: an evaluation each step, batches of 8 whatever fits, and the loss (which says nothing in GRPO)."""
    from trl import GRPOConfig, SFTConfig

    from perception_r1.train.setup import trainer_args

    table = {"eval_strategy": "steps", "save_steps": 20, "load_best_model_at_end": True}
    sizes = {"per_device_train_batch_size": 12, "num_generations": 6}
    args = trainer_args(GRPOConfig, {**table, **sizes}, name="grpo", folder=tmp_path, where="recipe.yaml")
    assert (args.eval_steps, args.per_device_eval_batch_size, args.metric_for_best_model) == (20, 12, "eval_reward")
    assert args.greater_is_better is True
    args = trainer_args(SFTConfig, table, name="sft", folder=tmp_path, where="recipe.yaml")
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.eval=[]", ["field 'data.eval'", "names no source"]),
        ("grpo.metric_for_best_model=accuracy", ["grpo.metric_for_best_model", "'accuracy'", "reward"]),
        ("grpo.num_generations_eval=3", ["field 'grpo'", "eval batch size"]),
        ("grpo.eval_steps=3", ["field 'grpo'", "load_best_model_at_end"]),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(
    override: str, parts: list[str], evaluating: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        run_grpo(load_recipe(evaluating, [override]), tmp_path / "run", show_progress=False)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_component_that_is_not_there_is_said_at_the_first_evaluation(evaluating: Path, tmp_path: Path) -> None:
    settings = ["grpo.metric_for_best_model=components/iou", "grpo.max_steps=2"]
    with pytest.raises(RecipeError, match=r"no metric 'components/iou' \(the evaluation has: .*components/function"):
        run_grpo(load_recipe(evaluating, settings), tmp_path / "run", show_progress=False)
