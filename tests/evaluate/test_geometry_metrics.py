from __future__ import annotations

import pytest

from perception_r1.evaluate.metrics import compare, quality, summarise
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import AnswerTarget, Completion, RewardRecord, Sample


def test_perception_is_measured_where_facts_are_known() -> None:
    """Two problems with facts (one read wholly, one by half) and one without; two right answers."""
    rows = [(1.0, 2, 2), (0.0, 1, 2), (1.0, 0, 0)]
    scored = [
        (
            Sample(str(i), "geometry", "?", AnswerTarget("1", ("AB = 1", "BC = 2")[:n])),
            RewardRecord(1.0, {"accuracy": right}, n_valid=found, n_target=n),
        )
        for i, (right, found, n) in enumerate(rows)
    ]
    metrics = summarise("geometry", scored, resamples=50)["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 3)
    assert metrics["visual"]["value"] == pytest.approx(0.75)
    assert metrics["perception"]["value"] == pytest.approx(0.5)
    assert metrics["visual"]["n"] == 2


@pytest.mark.parametrize("weights", [{"accuracy": 1.0}, {"visual": 1.0}, {"format": 1.0}, None])
def test_metrics_do_not_depend_on_what_the_reward_pays_for(weights: dict[str, float] | None) -> None:
    task = make_task("geometry", family="qwen2_5_vl", reward=reward_spec("geometry", components=weights))
    sample = Sample("1", "geometry", "Find BC.", AnswerTarget("12", ("AB = 5", "AC = 7")))
    told = "<think>\nAB = 5. AC = 7.\n</think>\n<answer>\n\\boxed{%s}\n</answer>"
    scored = [(sample, task.score(sample, Completion(told % said, "stop"))) for said in ("12.0", "13", "12 or 13")]
    metrics = summarise("geometry", scored, resamples=50)["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(1 / 3)
    assert (metrics["visual"]["value"], metrics["perception"]["value"]) == (1.0, 1.0)
    assert [quality(*pair) for pair in scored] == [1.0, 0.0, 0.0]


def test_presets_that_count_different_facts_are_compared_where_both_count_some() -> None:
    """The first question gives its only fact away: ``robust`` does not count it, ``paper`` does."""
    said = Completion("<think>\nAB = 5.\n</think>\n<answer>\n\\boxed{12}\n</answer>", "stop")
    samples = [Sample(q, "geometry", q, AnswerTarget("12", ("AB = 5",))) for q in ("AB = 5. Find BC.", "Find BC.")]
    sides = [
        [(sample, task.score(sample, said)) for sample in samples]
        for task in (make_task("geometry", family="qwen2_5_vl", reward=preset) for preset in ("robust", "released"))
    ]
    found = compare("geometry", *sides, resamples=50)
    assert (found["visual"]["n"], found["visual"]["value"], found["accuracy"]["n"]) == (1, 0.0, 2)
