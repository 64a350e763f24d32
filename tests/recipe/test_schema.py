from __future__ import annotations

from pathlib import Path

import pytest

from perception_r1.errors import RecipeError
from perception_r1.recipe import schema
from perception_r1.recipe.schema import load_recipe, read_yaml

BASE = """
name: base
task: counting
model: some/model
reward: {preset: released, components: {format: 1.0}}
data:
  train: [{source: jsonl, path: a.jsonl, count: 10}]
grpo: {learning_rate: 1.0e-6, num_generations: 8}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_extends_merges_tables_and_replaces_components(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    child = write(
        tmp_path,
        "child.yaml",
        "extends: base.yaml\nname: child\nreward: {components: {iou: 2.0}}\ngrpo: {num_generations: 16}\n",
    )
    recipe = load_recipe(child)
    assert recipe.name == "child"
    assert recipe.grpo == {"learning_rate": 1e-6, "num_generations": 16}
    assert recipe.reward.preset == "released"
    assert recipe.reward.components == {"iou": 2.0}  # not merged with the base's
    assert recipe.data.train[0].count == 10


def test_overrides_reach_into_tables_and_are_typed(tmp_path: Path) -> None:
    path = write(tmp_path, "base.yaml", BASE)
    recipe = load_recipe(path, ["grpo.max_steps=10", "thinking=true", "image.max_pixels=50176"])
    assert recipe.grpo is not None
    assert recipe.grpo["max_steps"] == 10
    assert recipe.thinking is True
    assert recipe.image.max_pixels == 50176


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (BASE + "rewards: {}\n", ["unknown key 'rewards'", "did you mean 'reward'"]),
        (BASE + "image: {max_pixel: 3}\n", ["unknown key 'image.max_pixel'", "max_pixels"]),
        (BASE.replace("path: a.jsonl", "pth: a.jsonl"), ["unknown key 'data.train.0.pth'", "path"]),
        (BASE.replace("task: counting", "task: cuonting"), ["field 'task'"]),
        (BASE.replace("count: 10", "count: 10, share: 0.5"), ["'count' or 'share', not both"]),
        (BASE.replace("name: base", "name: a/b"), ["field 'name'"]),
        (BASE + "warm_start: sft\n", ["needs an 'sft' table"]),
        ("- a\n- b\n", ["expected a mapping"]),
        ("name: [unclosed\n", ["not YAML"]),
        ("extends: missing.yaml\n", ["missing.yaml: no such recipe"]),
        ("extends: recipe.yaml\n", ["circle"]),
        ("name: x\ntask: ocr\n", ["field 'model': missing"]),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_file_and_field(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, "recipe.yaml", text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert ".yaml" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("override", ["grpo.max_steps", "=3", "name.x=3", "grpo.x=[1"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(write(tmp_path, "base.yaml", BASE), [override])


def test_tags_that_would_run_code_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, "evil.yaml", f"name: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(RecipeError):
        load_recipe(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-6", 1e-6), ("5E-05", 5e-5), ("1.5e3", 1500.0), ("-2e+1", -20.0), ("1e", "1e"), ("e5", "e5"), ("10", 10)],
)
def test_numbers_with_an_exponent_are_numbers(text: str, value: object) -> None:
    """PyYAML alone reads 1e-6 as text, and the optimizer dies of it."""
    assert read_yaml(text) == value and type(read_yaml(text)) is type(value)


def test_earlier_names_are_taken_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema._say_renamed.cache_clear()
    file = tmp_path / "old.yaml"
    file.write_text("name: a\ntask: counting\nmodel: x\nprompt: released\nreward: {preset: paper}\n")
    recipe = load_recipe(file)
    assert (recipe.prompt, recipe.reward.preset) == ("evaluation", "released")
    assert capsys.readouterr().err.splitlines() == [
        "note: 'released' is now called 'evaluation'",
        "note: 'paper' is now called 'released'",
    ]
