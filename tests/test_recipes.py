"""Every recipe of the repository: it parses, keeps to TRL's settings and to the paper's, and runs (a dry run)."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from perception_r1.cli import app
from perception_r1.data.sources import SOURCES
from perception_r1.families import get_family
from perception_r1.recipe.schema import load_recipe
from perception_r1.tasks import make_task, reward_spec
from perception_r1.train.renamed import installed_names

ROOT = Path(__file__).resolve().parents[1] / "recipes"
ALL = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name not in ("_base", "mini"))
PAPER = [path for path in ALL if path.parent.name in ("grounding", "counting", "detection", "ocr")]
TRAINED = [path for path in PAPER if path.stem != "base"]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_every_row_of_the_papers_tables_has_one() -> None:
    rows = {"base", "sft", "sft-rl", "rl", "thinking"}
    rollouts = {"rollouts-8", "rollouts-16", "rollouts-32"}
    steps = {"reward-1-format", "reward-2-iou", "reward-3-cls", "reward-4-f1", "reward-5-missing"}
    found = {
        task: {path.stem for path in PAPER if path.parent.name == task}
        for task in ("grounding", "counting", "detection", "ocr")
    }
    # One box or one text has nothing to match, so those tasks have no row without matching in the paper either.
    assert found["grounding"] == rows | rollouts
    assert found["counting"] == rows | rollouts | {"no-matching"}
    assert found["detection"] == rows | rollouts | {"no-matching"} | steps
    assert found["ocr"] == rows


def test_names_differ_and_say_where_they_are() -> None:
    names = [load_recipe(path).name for path in ALL]
    assert len(set(names)) == len(names)
    for path in PAPER:
        assert load_recipe(path).name == f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", ALL, ids=name)
def test_parses_and_makes_its_task(path: Path) -> None:
    recipe = load_recipe(path)
    reward = recipe.reward
    spec = reward_spec(
        recipe.task,
        reward.preset,
        matching=reward.matching,
        components=reward.components,
        clamp=reward.clamp,
        function=reward.function,
        options=reward.options or None,
    )
    family = get_family(recipe.family or "qwen3_vl")
    make_task(recipe.task, family=family, reward=spec, thinking=recipe.thinking, prompt=recipe.prompt)
    for source in (*recipe.data.train, *recipe.data.eval):
        assert recipe.task in SOURCES[source.source][1]


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_setting_is_one_of_trls(path: Path) -> None:
    from trl import GRPOConfig, SFTConfig

    recipe = load_recipe(path)
    for table, config in ((recipe.grpo, GRPOConfig), (recipe.sft, SFTConfig)):
        known = {field.name for field in fields(config)}
        assert installed_names(table or {}, known, name(path)).keys() <= known
    for table in (recipe.grpo or {}, recipe.sft or {}):
        for key, value in table.items():
            assert not (isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value)), (
                f"{key}: {value} is text in YAML"
            )


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_keeps_to_the_paper(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.model == (
        "Qwen/Qwen2.5-VL-3B-Instruct" if recipe.task == "detection" else "Qwen/Qwen2-VL-2B-Instruct"
    )
    assert (recipe.image.min_pixels, recipe.image.max_pixels) == (3136, 1_000_000)
    assert recipe.reward.preset == "released"
    assert recipe.thinking == (path.stem == "thinking")
    assert recipe.reward.matching == ("sequential" if path.stem == "no-matching" else None)
    stages = {"base": (False, False), "sft": (True, False), "sft-rl": (True, True)}.get(path.stem, (False, True))
    assert (recipe.sft is not None, recipe.grpo is not None) == stages
    assert recipe.warm_start == ("sft" if path.stem == "sft-rl" else None)
    if recipe.grpo is not None:
        grpo = recipe.grpo
        rollouts = int(path.stem.removeprefix("rollouts-")) if "rollouts" in path.stem else 8
        wanted = {
            "learning_rate": 1e-6,
            "num_generations": rollouts,
            "beta": 0.04,
            "temperature": 1.0,
            "loss_type": "grpo",
            "num_iterations": 1,
            "scale_rewards": "group",
            "bf16": True,
            "activation_checkpointing": True,
            "use_bias_correction_kl": False,
            "max_completion_length": 768 if recipe.task in ("grounding", "counting") else 2048,
        }
        assert {key: grpo.get(key) for key in wanted} == wanted
        # The same number of prompts a device and step (2), however many rollouts each has.
        assert grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"] == 2 * rollouts
    if recipe.sft is not None:
        assert recipe.sft["max_length"] is None  # TRL's 1,024 would cut through the image


def test_steps_of_the_detection_reward_add_up_to_the_preset() -> None:
    steps = [load_recipe(path).reward.components for path in PAPER if path.stem.startswith("reward-")]
    assert [list(step or ()) for step in steps] == [
        ["format"],
        ["format", "iou"],
        ["format", "iou", "cls"],
        ["format", "iou", "cls", "f1"],
        ["format", "iou", "cls", "f1", "missing"],
    ]
    assert steps[-1] == reward_spec("detection", "released").components


def test_the_readme_lists_each_once() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PAPER:
        link = f"({path.relative_to(ROOT)})"
        assert text.count(link) == 1, link


def test_every_file_says_what_it_reproduces() -> None:
    for path in PAPER:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# "), path
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) >= {"extends", "name"}


FAST = {"grounding/rl", "counting/no-matching", "detection/reward-3-cls", "ocr/sft"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=name(path), marks=[] if name(path) in FAST else [pytest.mark.slow]) for path in TRAINED],
)
def test_dry_run(path: Path) -> None:
    """One real step of TRL's trainer with a tiny model of the recipe's family, on digits instead of its data."""
    recipe = load_recipe(path)
    command = "sft" if recipe.grpo is None else "train"
    digits = "data.train=[{source: digits, options: {max_digits: 3}}]"
    result = CliRunner().invoke(app, [command, str(path), "--dry-run", "--set", digits])
    assert result.exit_code == 0, result.stderr
    assert f"{recipe.name}: one step ran" in result.stdout
