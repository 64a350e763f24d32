"""The miniature training: its figures by hand, and (slow) all stages with a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_r1.types import RewardRecord
from perception_r1.vpr.demo import arm_of, compare, demo_recipe, figures_of, run_demo


def record(found: int, right: bool, n: int = 2) -> RewardRecord:
    return RewardRecord(1.0, {"accuracy": float(right), "visual": found / n, "format": 1.0}, n_valid=found, n_target=n)


def test_figures() -> None:
    figures = figures_of([record(2, True), record(1, False)])
    assert figures == {"visual": 0.75, "perception": 0.5, "answer": 0.5, "format": 1.0}


def test_compare_counts_discordant_pairs() -> None:
    first = {str(i): record(2 if i < 3 else 1, i < 3) for i in range(12)}
    second = {str(i): record(1 if i < 1 else 2, i % 2 == 0) for i in range(12)}
    found = compare("perception", first, second)
    # 0 only in the first, 3 … 11 only in the second: 2 · (1 + 10) / 2^10
    assert (found.n, found.first_right, found.second_right, found.only_first, found.only_second) == (12, 3, 11, 1, 9)
    assert found.p == pytest.approx(22 / 1024)
    answer = compare("answer", first, second)
    assert (answer.only_first, answer.only_second) == (1, 4)


def test_the_arms_differ_in_what_the_visual_component_pays(tmp_path: Path) -> None:
    recipe = demo_recipe(tmp_path)
    assert arm_of(recipe, "visual") is recipe
    other = arm_of(recipe, "accuracy")
    assert other.reward.components == {"accuracy": 0.9, "format": 0.1, "visual": 0.0, "repetition": 1.0}
    assert (other.grpo, other.data, other.sft) == (recipe.grpo, recipe.data, recipe.sft)


@pytest.mark.slow
def test_all_stages(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    changes = ("sft.max_steps=2", "grpo.max_steps=1", "grpo.per_device_train_batch_size=8", "eval.max_new_tokens=8")
    result = run_demo(tmp_path / "run", overrides=changes, show_progress=False, say=lambda line: None)
    assert set(result["models"]) == {"start", "visual", "accuracy"}
    assert [row["what"] for row in result["comparisons"]] == ["perception", "answer"] * 2
    assert json.loads((tmp_path / "run" / "comparison.json").read_text())["models"] == result["models"]
    again = run_demo(tmp_path / "run", resume=True, overrides=changes, show_progress=False, say=lambda line: None)
    assert again["models"] == result["models"]
