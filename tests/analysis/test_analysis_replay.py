from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perception_r1.analysis.replay import compare_rewards, kendall, rescore
from perception_r1.analysis.rollouts import group_of
from perception_r1.analysis.runs import merged, read_settings
from perception_r1.errors import RecipeError
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample

SAMPLE = Sample("a", "counting", "dog", BoxTarget(((0, 0, 50, 50), (60, 60, 90, 90))), image_size=(100, 100))


def group(*rewards: float | None, step: int = 1):
    return group_of(step, SAMPLE, [(Completion(""), RewardRecord(reward, n_valid=2)) for reward in rewards])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendall_is_scipys(pairs):
    from scipy.stats import kendalltau

    a, b = zip(*pairs, strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert kendall(a, b) is None
    else:
        assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_figures_by_hand():
    before = [group(1.0, 0.5, 0.0, 0.0), group(0.2, 0.2), group(0.0, 0.0), group(1.0, None)]
    after = [group(0.0, 0.5, 1.0, 1.0), group(0.1, 0.3), group(0.0, 0.0), group(1.0, 0.5)]
    found = compare_rewards(before, after).to_dict()
    assert (found["n_groups"], found["n_rollouts"]) == (4, 10)
    assert found["zero_spread"] == {"before": 0.75, "after": 0.25}
    assert found["all_zero"] == {"before": 0.25, "after": 0.25}
    assert found["not_scored"] == {"before": 1, "after": 0}
    assert found["rank_agreement"]["value"] == -1.0 and found["rank_agreement"]["n"] == 1
    assert found["same_best"]["value"] == 0.0
    # Group 1: means 0.375 and 0.625, so signs + + - - and - - + +: all flip. Groups 2 and 4 gain a signal.
    assert (found["sign_flips"]["value"], found["sign_flips"]["n"]) == (pytest.approx(4 / 7), 7)
    assert found["signal_gained"]["value"] == pytest.approx(3 / 7)  # group 2's two, and the one of group 4
    assert found["most_flipped"] == [{"step": 1, "id": "a", "flips": 4, "of": 4}]


def test_intervals_of_shares_resample_whole_groups():
    # Every other group of eight is turned round: 20 coins were thrown, not 160.
    rows = [(0.0, 0.1, 0.3, 0.4, 0.6, 0.7, 0.9, 1.0)] * 20
    after = [tuple(1 - value for value in row) if i % 2 else row for i, row in enumerate(rows)]
    found = compare_rewards([group(*row) for row in rows], [group(*row) for row in after]).figures["sign_flips"]
    assert (found["value"], found["n"]) == (0.5, 160)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * (0.25 / 20) ** 0.5, rel=0.2)


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=6), min_size=1, max_size=4), st.floats(0.1, 5))
def test_a_reward_scaled_pushes_the_same_way(rows, factor):
    rows = [[round(value, 3) for value in row] for row in rows]
    found = compare_rewards([group(*row) for row in rows], [group(*(factor * v for v in row)) for row in rows])
    assert found.figures["sign_flips"]["value"] in (None, 0.0)
    assert found.figures["rank_agreement"]["value"] in (None, pytest.approx(1.0))
    assert found.figures["signal_lost"]["value"] in (None, 0.0)


def test_rescoring_uses_the_tasks_own_path():
    robust = make_task("counting", family="qwen3_vl")
    gold = robust.gold(SAMPLE)
    swapped = '[{"bbox_2d": [600, 600, 900, 900], "label": "dog"}, {"bbox_2d": [0, 0, 500, 500], "label": "dog"}]'
    answers = [(Completion(text, "stop"), robust.score(SAMPLE, text)) for text in (gold, swapped, "[]")]
    before = [group_of(1, SAMPLE, answers)]
    assert before[0].rewards == pytest.approx([1.0, 1.0, 0.0])
    # Without matching the order of the boxes matters.
    spec = reward_spec("counting", "robust", matching="sequential")
    after = rescore(before, make_task("counting", family="qwen3_vl", reward=spec))
    assert after[0].rewards == pytest.approx([1.0, 0.5, 0.0])
    assert rescore(before, robust) == before


def test_settings_are_merged_as_a_recipe_is():
    values = {"reward": {"preset": "released", "components": {"iou": 1.0}}}
    changes = read_settings(["reward.components={f1: 1e-1}", "reward.options.floor=0.2"])
    assert merged(values, changes) == {
        "reward": {"preset": "released", "components": {"f1": 0.1}, "options": {"floor": 0.2}}
    }
    assert values == {"reward": {"preset": "released", "components": {"iou": 1.0}}}
    with pytest.raises(RecipeError, match="expected key"):
        read_settings(["reward"])
    with pytest.raises(RecipeError, match="is not a table"):
        merged({"name": "x"}, {"name.sub": 1})


@pytest.fixture()
def run(tmp_path) -> Path:
    pytest.importorskip("pyarrow")
    pytest.importorskip("transformers")
    from perception_r1.analysis.rollouts import write_groups
    from perception_r1.recipe.schema import parse_recipe

    out = tmp_path / "run"
    task = make_task("counting", family="qwen3_vl")
    swapped = '[{"bbox_2d": [600, 600, 900, 900], "label": "dog"}, {"bbox_2d": [0, 0, 500, 500], "label": "dog"}]'
    texts = [task.gold(SAMPLE), swapped, "[]", "?"]
    write_groups(
        out / "rollouts",
        [group_of(step, SAMPLE, [(Completion(t, "stop"), task.score(SAMPLE, t)) for t in texts]) for step in (1, 2)],
    )
    recipe = parse_recipe({"name": "a", "task": "counting", "model": "none", "family": "qwen3_vl", "grpo": {}})
    (out / "config.json").write_text(json.dumps({**recipe.model_dump_plain(), "stage": "grpo", "start": "none"}))
    return out


def test_command(run, tmp_path):
    from perception_r1.analysis.rollouts import read_groups
    from perception_r1.cli import app

    other = tmp_path / "other"
    done = CliRunner().invoke(app, ["replay", str(run), "--set", "reward.matching=sequential", "--out", str(other)])
    assert done.exit_code == 0, done.output
    assert "8 rollouts in 2 groups" in done.output and "rank agreement in a group" in done.output
    assert [g.rewards for g in read_groups(other)] == [pytest.approx([1.0, 0.5, 0.0, 0.0])] * 2
    done = CliRunner().invoke(app, ["replay", str(other), "--preset", "robust", "--json", "--quiet"])
    found = json.loads(done.stdout)
    # From sequential back to matching: 1, ½, 0, 0 becomes 1, 1, 0, 0.
    assert found["mean_reward"] == {"before": pytest.approx(0.375), "after": pytest.approx(0.5)}
    assert found["sign_flips"]["value"] == 0.0


def test_a_judge_that_is_not_asked_again_is_named(run):
    from perception_r1.cli import app

    settings = json.loads((run / "config.json").read_text())
    settings["reward"]["judge"] = {"kind": "openai", "base_url": "http://localhost:9/v1", "model": "big-judge"}
    (run / "config.json").write_text(json.dumps(settings))
    done = CliRunner().invoke(app, ["replay", str(run), "--preset", "released", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "note: big-judge is not asked again" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which other reward"),
        (["--set", "grpo.beta=1"], "only the reward can be changed"),
        (["--preset", "nice"], "reward.preset"),
    ],
)
def test_what_cannot_be_replayed(run, arguments, message):
    from perception_r1.cli import app

    done = CliRunner().invoke(app, ["replay", str(run), *arguments])
    assert done.exit_code == 2
    assert message in done.output
