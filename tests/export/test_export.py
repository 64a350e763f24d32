"""What `pr1 export` writes: rows, images, settings, and what it refuses. Real engines: tests/integrations."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from engine_data import make_recipe
from perception_r1.cli import app
from perception_r1.errors import DataError, RecipeError, UserError
from perception_r1.export import ENGINES, export
from perception_r1.export.rows import rows_of
from perception_r1.export.settings import DEFAULTS, batches, grpo_values
from perception_r1.export.verl import hydra, overrides
from perception_r1.integrations.scoring import sample_of, task_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_recipe(tmp_path_factory.mktemp("data"))


def test_defaults_are_trls() -> None:
    trl = pytest.importorskip("trl")
    ours = {"save_steps", "report_to"}
    known = {field.name: field.default for field in fields(trl.GRPOConfig)}
    for key, value in DEFAULTS.items():
        assert key in known
        if key not in ours:
            assert value == known[key], key


def test_a_step_has_the_prompts_that_trl_would_draw(recipe: Any) -> None:
    values = grpo_values(recipe)  # 4 completions a device, accumulated twice, groups of 4
    sizes = batches(values, 800, 8, "r")
    assert (sizes.prompts, sizes.mini, sizes.micro, sizes.epochs, sizes.steps) == (16, 16, 4, 2, None)
    more = batches({**values, "steps_per_generation": 4, "max_steps": 100}, 800, 8, "r")
    assert (more.prompts, more.mini, more.epochs, more.steps) == (32, 16, 4, 100)
    with pytest.raises(RecipeError, match="whole groups of 4"):
        batches({**values, "per_device_train_batch_size": 1}, 800, 1, "r")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gets_rows_that_score(engine: str, recipe: Any, tmp_path: Path) -> None:
    done = export(recipe, engine, tmp_path / "out", gpus=1)
    assert (done.n_train, done.n_eval) == (8, 4)
    folder = tmp_path / "out"
    task = task_of(folder / "task.json")
    rows = rows_of(recipe)
    assert task == rows.task
    if engine in ("verl", "easyr1"):
        pq = pytest.importorskip("pyarrow.parquet")
        found = pq.read_table(folder / "train.parquet").to_pylist()
        key = (lambda row: row["reward_model"]["ground_truth"]) if engine == "verl" else (lambda row: row["answer"])
        truths = [key(row) for row in found]
    else:
        found = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        truths = [row["row"] if engine == "swift" else row["conversations"][1]["value"] for row in found]
    for truth, sample in zip(truths, rows.train, strict=True):
        answer = rows.task.gold(sample)
        assert task.score(sample_of(truth), answer) == rows.task.score(sample, answer)
        assert "image" not in json.loads(truth)
    for file in folder.glob("*.py"):
        compile(file.read_text(), str(file), "exec")
    for script in folder.glob("*.sh"):
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    export(recipe, engine, folder, gpus=1)  # an export may be written again


def test_images_go_by_path_and_are_copied_only_where_an_engine_would_get_them_wrong(
    recipe: Any, tmp_path: Path
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    export(recipe, "verl", tmp_path / "verl", gpus=1)
    samples = rows_of(recipe).train
    for row, sample in zip(pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist(), samples, strict=True):
        (image,) = row["images"]
        assert image["image"] == sample.image
        assert (image["resized_width"], image["resized_height"]) == sample.model_size
    export(recipe, "swift", tmp_path / "swift", gpus=1)
    for line, sample in zip((tmp_path / "swift" / "train.jsonl").read_text().splitlines(), samples, strict=True):
        (image,) = json.loads(line)["images"]
        with Image.open(image) as opened:
            assert opened.size == sample.model_size  # pixels of the resized image are what the model answers in
    # Where answers are 0 to 1000, only the two rotated pictures of each set have to be copied.
    export(recipe.model_copy(update={"family": "qwen3_vl"}), "swift", tmp_path / "q3", gpus=1)
    assert len(list((tmp_path / "q3" / "images" / "train").iterdir())) == 2


def test_easyr1_configuration_and_reward(recipe: Any, tmp_path: Path) -> None:
    export(recipe, "easyr1", tmp_path / "out", gpus=2, unscored=-1.0)
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["data"]["rollout_batch_size"] == config["worker"]["actor"]["global_batch_size"] == 4
    assert config["worker"]["reward"] == {"reward_type": "batch", "skip_special_tokens": False}
    assert config["algorithm"]["kl_coef"] == 0.04
    names: dict[str, Any] = {"__file__": str(tmp_path / "out" / "reward.py"), "__name__": "reward"}
    exec((tmp_path / "out" / "reward.py").read_text(), names)
    rows = rows_of(recipe)
    from perception_r1.integrations.scoring import pack

    inputs = [{"response": rows.task.gold(s), "response_length": 9, "ground_truth": pack(s)} for s in rows.train]
    assert all(score["overall"] > 0.9 for score in names["compute_score"](inputs))


def test_what_is_not_carried_over_is_said(recipe: Any, tmp_path: Path) -> None:
    grpo = {**recipe.grpo, "mask_truncated_completions": True, "lr_scheduler_type": "linear", "loss_type": "sapo"}
    changed = recipe.model_copy(update={"grpo": grpo})
    _, notes = overrides(changed, rows_of(changed), gpus=1, nodes=1, strategy="fsdp2", prompt_tokens=128)
    text = "\n".join(notes)
    for part in ("grpo.mask_truncated_completions: True", "'linear'", "'sapo'", "shared_prefix"):
        assert part in text


def test_hydra_values_are_quoted() -> None:
    assert hydra("a", "plain/path-1.x") == "a=plain/path-1.x"
    assert hydra("a", "with space, = {x}") == "a='with space, = {x}'"
    assert hydra("a", [1, 0.5, False, None]) == "a=[1,0.5,false,null]"
    assert hydra("a", "12") == "a='12'"


def test_what_is_refused(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    with pytest.raises(UserError, match="no export of ours"):
        export(recipe, "verl", tmp_path / "thesis")
    with pytest.raises(RecipeError, match="8 training rows, but a step draws 16"):
        export(recipe, "verl", tmp_path / "out", gpus=8)
    with pytest.raises(RecipeError, match="no 'grpo' table"):
        export(recipe.model_copy(update={"grpo": None}), "verl", tmp_path / "out")
    with pytest.raises(RecipeError, match="unknown engine"):
        export(recipe, "openrlhf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    trap = make_recipe(tmp_path / "trap")
    file = tmp_path / "trap" / "train.jsonl"
    file.write_text(file.read_text().replace('"categories": ["cat"', '"categories": ["<image>", "cat"'))
    with pytest.raises(DataError, match="<image>"):
        export(trap, "verl", tmp_path / "out", gpus=1)


def test_from_the_command_line(recipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    plain = {key: value for key, value in recipe.model_dump_plain().items() if value is not None}
    file.write_text(yaml.safe_dump(plain))
    done = CliRunner().invoke(app, ["export", "verl", str(file), str(tmp_path / "out"), "--gpus", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["train"] == 8
    lines = (tmp_path / "out" / "overrides.txt").read_text().splitlines()
    assert "actor_rollout_ref.rollout.n=4" in lines
    done = CliRunner().invoke(app, ["export", "verl", str(file), str(tmp_path / "o2"), "--strategy", "ddp"])
    assert done.exit_code == 2
