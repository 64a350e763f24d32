"""``--dry-run``: the recipe's own rows, processor and architecture; what it replaces, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl")

from PIL import Image
from typer.testing import CliRunner, Result

from perception_r1.cli import app
from perception_r1.models.tiny import TINY_FAMILIES, build_tiny


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [*map(str, args), "--dry-run"])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Six grounding rows on pictures of their own, of different sizes."""
    lines = []
    for n in range(6):
        Image.effect_noise((200 + 30 * n, 150), 80).convert("RGB").save(tmp_path / f"{n}.jpg")
        lines.append(
            {
                "id": str(n),
                "image": f"{n}.jpg",
                "task": "grounding",
                "question": f"thing {'x ' * n}",
                "boxes": [[10, 10, 90, 80]],
            }
        )
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def recipe(tmp_path: Path, rows: Path) -> Path:
    file = tmp_path / "mine.yaml"
    values = {
        "name": "mine",
        "task": "grounding",
        "model": "Qwen/Qwen2.5-VL-3B-Instruct",
        "data": {"train": [{"source": "jsonl", "path": str(rows)}]},
        "grpo": {"num_generations": 2, "bf16": True, "deepspeed": "none.json"},
        "sft": {},
    }
    file.write_text(yaml.safe_dump(values))
    return file


def test_of_a_model_that_is_not_here(recipe: Path) -> None:
    before = set(recipe.parent.iterdir())
    result = run("train", recipe)
    assert result.exit_code == 0, result.output
    first, own, replaced, launcher, here = result.stdout.splitlines()
    assert first == "mine: one step ran (grounding, qwen2_5_vl)"
    assert own == "  the recipe's own: 5 rows and pictures of 1 source, all of them read"
    assert "Qwen/Qwen2.5-VL-3B-Instruct, of which nothing is here, by a tiny qwen2_5_vl" in replaced
    assert "deepspeed by one process" in replaced
    assert launcher == "  launcher: one process, as in the run"
    assert here.startswith("  here the run itself would stop: ") and "grpo.deepspeed" in here
    assert set(recipe.parent.iterdir()) == before


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_of_a_model_that_is_here(recipe: Path, tmp_path: Path, family: str) -> None:
    """Its processor, template and architecture; vocabulary and context are its own."""
    model, processor = build_tiny(family)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = "train" if family == "qwen3_vl" else "sft"
    result = run(command, recipe, "--set", f"model={tmp_path / 'model'}")
    assert result.exit_code == 0, result.output
    assert f"tokenizer, chat template, processor and architecture of {tmp_path / 'model'}" in result.stdout
    assert f"the weights by a tiny {family} with random ones" in result.stdout


def test_an_evaluation_during_training_is_tried_too(recipe: Path, rows: Path) -> None:
    settings = ["--set", "grpo.eval_strategy=steps", "--set", "grpo.load_best_model_at_end=true"]
    result = run("train", recipe, *settings, "--set", f"data.eval=[{{source: jsonl, path: {rows}, count: 2}}]")
    assert result.exit_code == 0, result.output
    assert "10 rows and pictures of 2 sources" in result.stdout
    result = run("train", recipe, *settings, "--set", "data.eval=[{source: jsonl, path: gone.jsonl}]")
    assert result.exit_code == 2
    assert "gone.jsonl: no such file or folder" in result.stderr


def test_vllm_is_replaced_where_it_cannot_run(recipe: Path) -> None:
    result = run("train", recipe, "--set", "grpo.use_vllm=true", "--set", "grpo.vllm_mode=server")
    assert result.exit_code == 0, result.output
    assert "vLLM by transformers (" in result.stdout


def test_a_few_scenes_are_drawn_and_none_beside_the_users(recipe: Path, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    digits = f"data.train=[{{source: digits, path: {scenes}, count: 4000}}]"
    result = run("sft", recipe, "--set", digits)
    assert result.exit_code == 0, result.output
    assert list(scenes.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train=[{source: jsonl, path: gone.jsonl}]", "gone.jsonl: no such file or folder"),
        ("data.train=[{source: jsonl, path: ROWS, count: 7}]", "has 6 rows but 7 are asked of it"),
        ("data.train=[]", "names no source of rows"),
        ("model=./gone", "./gone: no such model folder"),
        ("grpo.learning_rat=1", "did you mean 'learning_rate'?"),
    ],
)
def test_what_the_run_would_refuse_is_refused(recipe: Path, rows: Path, setting: str, message: str) -> None:
    result = run("train", recipe, "--set", setting.replace("ROWS", str(rows)))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_bad_row_and_a_broken_picture_are_named(recipe: Path, rows: Path, tmp_path: Path) -> None:
    whole = (tmp_path / "5.jpg").read_bytes()
    (tmp_path / "5.jpg").write_bytes(whole[: len(whole) // 2])
    result = run("train", recipe)
    assert result.exit_code == 2  # the largest picture is always among the few
    assert f"{rows}:6: field 'image': {tmp_path}{os.sep}5.jpg: the image cannot be decoded" in result.stderr
    with rows.open("a") as stream:
        stream.write('{"id": "9", "image": "0.jpg", "task": "grounding", "question": "x", "boxes": [[9, 0, 3, 5]]}\n')
    result = run("train", recipe)
    assert f"{rows}:7: field 'boxes': [9, 0, 3, 5] has x2 < x1" in result.stderr


def test_what_would_stop_the_run_itself_is_said(recipe: Path) -> None:
    done = run("train", recipe, "--set", "grpo.deepspeed=null", "--set", "grpo.report_to=neptune")
    assert done.exit_code == 0, done.output
    assert "here the run itself would stop: " in done.output
    assert "field 'grpo.report_to'" in done.output


def test_a_package_that_the_step_needs_is_one_line(recipe: Path) -> None:
    done = CliRunner().invoke(
        app, ["train", str(recipe), "--dry-run", "--set", "grpo.deepspeed=null", "--set", "grpo.optim=galore_adamw"]
    )
    assert done.exit_code == 2, done.output
    assert "field 'grpo.optim'" in done.output
    assert "Traceback" not in done.output
