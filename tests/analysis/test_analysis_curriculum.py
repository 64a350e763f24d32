from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_r1.analysis.curriculum import plan_stages, question_scores, write_stages
from perception_r1.analysis.rollouts import group_of
from perception_r1.errors import RecipeError, UserError
from perception_r1.recipe.schema import load_recipe
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample


def group(name: str, right: int, of: int = 10, step: int = 1):
    """A question of which ``right`` answers name the right number."""
    sample = Sample(name, "counting", "dog", BoxTarget(((0, 0, 9, 9),)), image=f"/x/{name}.png", image_size=(20, 20))
    records = [RewardRecord(float(i < right), n_pred=1, n_valid=1 if i < right else 2) for i in range(of)]
    return group_of(step, sample, [(Completion(""), record) for record in records])


GROUPS = [group(str(right), right) for right in (3, 9, 0, 6, 10, 2, 8, 5)]


def test_from_easy_to_hard():
    stages, solved = plan_stages(GROUPS, (8, 16))
    assert [[s.id for s in stage.samples] for stage in stages] == [["9", "8", "6", "5"], ["3", "2", "0"]]
    assert [(stage.high, stage.low, stage.rollouts) for stage in stages] == [(0.9, 0.5, 8), (0.3, 0.0, 16)]
    assert [sample.id for sample in solved] == ["10"]
    stages, solved = plan_stages(GROUPS, (8, 16, 32), edges=(0.85, 0.25), keep_solved=True)
    assert [[s.id for s in stage.samples] for stage in stages] == [["10", "9"], ["8", "6", "5", "3"], ["2", "0"]]
    assert solved == []


def test_the_latest_answers_count():
    scores = question_scores([group("a", 2), group("a", 7, step=2)])
    assert scores["a"][1] == pytest.approx(0.7)
    assert question_scores([group("a", 5)], by="reward", most=2.0)["a"][1] == pytest.approx(0.25)


def test_what_cannot_be_staged():
    with pytest.raises(UserError, match="stage 1 would be empty: 7 questions are left"):
        plan_stages(GROUPS, (8, 16), edges=(0.99,))
    with pytest.raises(UserError, match="2 stages need 1 edges"):
        plan_stages(GROUPS, (8, 16), edges=(0.9, 0.1))
    with pytest.raises(UserError, match="would be empty"):
        plan_stages(GROUPS[:1], (8, 16))


def recipe_file(folder: Path, **grpo: int) -> Path:
    path = folder / "mine.yaml"
    table = json.dumps({"num_generations": 8, "max_steps": 70, **grpo})
    path.write_text(
        "name: mine\ntask: counting\nmodel: some/model\nfamily: qwen3_vl\nwarm_start: sft\nsft: {}\n"
        f"data: {{train: [{{source: jsonl, path: all.jsonl}}]}}\ngrpo: {table}\n"
    )
    return path


def test_stages_are_recipes_that_start_from_one_another(tmp_path):
    stages, _ = plan_stages(GROUPS, (8, 16))
    files = write_stages(recipe_file(tmp_path), stages, tmp_path / "out", runs="runs")
    first, second = (load_recipe(path) for path in files)
    assert (first.model, first.warm_start) == ("some/model", "sft")
    assert (second.model, second.warm_start) == ("runs/mine-stage-1/grpo/model", None)
    assert (first.save_dtype, second.save_dtype) == ("float32", None)  # the last one has the base's dtype
    assert first.grpo["num_generations"] == 8 and "gradient_accumulation_steps" not in first.grpo
    assert (second.grpo["num_generations"], second.grpo["gradient_accumulation_steps"]) == (16, 2)
    assert (first.grpo["max_steps"], second.grpo["max_steps"]) == (40, 30)  # 70 steps, shared out 4 : 3
    (source,) = second.data.train
    assert [row["id"] for row in map(json.loads, Path(source.path).read_text().splitlines())] == ["3", "2", "0"]
    script = (tmp_path / "out" / "train.sh").read_text().splitlines()
    assert script[0] == "set -e" and script[2].endswith("stage-2.yaml --out runs/mine-stage-2 --resume")
    files = write_stages(recipe_file(tmp_path), plan_stages(GROUPS, (8,))[0], tmp_path / "a b; c")
    (line,) = (tmp_path / "a b; c" / "train.sh").read_text().splitlines()[1:]
    assert shlex.split(line) == ["pr1", "train", str(files[0]), "--out", "runs/mine-stage-1", "--resume"]
    with pytest.raises(RecipeError, match="12 rollouts: expected a multiple"):
        write_stages(recipe_file(tmp_path), plan_stages(GROUPS, (12,))[0], tmp_path / "out")


def test_command(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    pytest.importorskip("transformers")
    from perception_r1.analysis.rollouts import write_groups
    from perception_r1.cli import app

    monkeypatch.chdir(tmp_path)
    recipe = recipe_file(tmp_path)
    write_groups("scored/rollouts", GROUPS)
    Path("scored/config.json").write_text(json.dumps({**load_recipe(recipe).model_dump_plain(), "stage": "diagnose"}))
    done = CliRunner().invoke(app, ["curriculum", "mine.yaml", "--run", "scored", "--rollouts", "8,16", "--out", "c"])
    assert done.exit_code == 0, done.output
    assert "stage 2:      3 questions, metric 0.300 to 0.000" in done.output
    assert "left out: 1 questions" in done.output
    assert (load_recipe("c/stage-2.yaml").data.train[0].path) == "c/stage-2.jsonl"
    assert len(Path("c/stage-1.jsonl").read_text().splitlines()) == 4
    done = CliRunner().invoke(app, ["curriculum", "mine.yaml", "--run", "scored", "--rollouts", "8,x"])
    assert done.exit_code == 2 and "expected numbers" in done.output


def test_answers_of_something_else_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    pytest.importorskip("transformers")
    from perception_r1.analysis.rollouts import write_groups
    from perception_r1.cli import app
    from perception_r1.models.identity import model_identity, weights_of

    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe = recipe_file(tmp_path)
    recipe.write_text(recipe.read_text().replace("some/model", str(model)))
    write_groups("scored/rollouts", GROUPS)
    config = {
        **load_recipe(recipe).model_dump_plain(),
        "stage": "diagnose",
        "inputs": {"start": weights_of(model_identity(model)), "rows": "0"},
    }
    Path("scored/config.json").write_text(json.dumps(config))
    command = ["curriculum", "mine.yaml", "--run", "scored", "--rollouts", "8,16", "--out", "c"]
    assert CliRunner().invoke(app, command).exit_code == 0
    (model / "config.json").write_text('{"trained": "again"}')
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert f"its answers are of other weights than those of {model}" in done.output
    Path("scored/config.json").write_text(json.dumps({**config, "inputs": {}}))
    recipe.write_text(recipe.read_text().replace("all.jsonl", "other.jsonl"))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "data.train differs; score the questions anew: pr1 diagnose mine.yaml" in done.output
