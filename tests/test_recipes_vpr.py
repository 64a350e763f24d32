"""Recipes of the visual perception reward: the paper's settings, and a real step of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_r1.cli import app
from perception_r1.recipe.schema import load_recipe

ROOT = Path(__file__).resolve().parents[1] / "recipes" / "vpr"
TRAINED = sorted(path for path in ROOT.glob("*.yaml") if path.stem not in ("base", "tiny"))


def test_keeps_to_the_paper() -> None:
    recipe = load_recipe(ROOT / "rl.yaml")
    assert recipe.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (recipe.image.min_pixels, recipe.image.max_pixels) == (3136, 1_806_336)
    assert recipe.reward.preset == "released" and recipe.reward.components is None
    judge = recipe.reward.judge
    assert judge is not None and judge.model == "Qwen/Qwen2.5-32B-Instruct-AWQ"
    assert (judge.prompt, judge.max_tokens) == ("judge_info", 512)
    wanted = {
        "learning_rate": 1e-6,
        "weight_decay": 1e-3,
        "warmup_steps": 0.05,
        "num_train_epochs": 25,
        "num_generations": 8,
        "temperature": 1.0,
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.3,
        "delta": 3.0,
        "beta": 0.0,
        "max_completion_length": 4096,
        "scale_rewards": "group",
    }
    grpo = recipe.grpo or {}
    assert {key: grpo.get(key) for key in wanted} == wanted
    # 128 prompts × 8 rollouts on 8 GPUs
    assert grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"] * 8 == 128 * 8


def test_the_robust_one_wants_quotes() -> None:
    base, recipe = load_recipe(ROOT / "rl.yaml"), load_recipe(ROOT / "rl-robust.yaml")
    assert base.reward.judge is not None and recipe.reward.judge is not None
    assert recipe.reward.preset == "robust"
    assert recipe.reward.judge == base.reward.judge.model_copy(update={"prompt": "judge", "max_tokens": None})


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("no-visual", {"accuracy": 0.9, "format": 0.1, "repetition": 1.0}),
        ("no-repetition", {"accuracy": 0.9, "format": 0.1, "visual": 0.7}),
        ("accuracy-only", {"accuracy": 0.9, "format": 0.1}),
    ],
)
def test_ablations_differ_in_the_reward_alone(name: str, components: dict[str, float]) -> None:
    base, recipe = load_recipe(ROOT / "rl.yaml"), load_recipe(ROOT / f"{name}.yaml")
    assert recipe.reward.components == components
    assert (recipe.grpo, recipe.data, recipe.image) == (base.grpo, base.data, base.image)
    assert (recipe.reward.judge is None) == ("visual" not in components)


def test_the_docs_list_each() -> None:
    text = (ROOT.parents[1] / "docs" / "vpr.md").read_text(encoding="utf-8")
    for path in ROOT.glob("*.yaml"):
        assert f"recipes/vpr/{path.name}" in text or path.stem == "tiny"


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem == "rl" else [pytest.mark.slow]) for p in TRAINED],
)
def test_dry_run(path: Path) -> None:
    """One real step of TRL's trainer with a tiny model of the recipe's family, on diagrams, without the judge."""
    recipe = load_recipe(path)
    command = "sft" if recipe.grpo is None else "train"
    diagrams = "data.train=[{source: diagrams, options: {size: 112}}]"
    result = CliRunner().invoke(app, [command, str(path), "--dry-run", "--set", diagrams])
    assert result.exit_code == 0, result.stderr
    assert f"{recipe.name}: one step ran" in result.stdout
