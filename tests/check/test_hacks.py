"""The battery summed up: robust presets pass, the paper's known flaws are warnings, a careless reward is an error."""

from __future__ import annotations

import pytest

from perception_r1.check.hacks import check_hacks
from perception_r1.data.images import prepare
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import BoxTarget, Sample

ROWS = [
    prepare(
        Sample(
            str(index), "counting", "cat", BoxTarget(((10, 20, 90, 80), (200, 100, 300, 210))), image_size=(640, 480)
        ),
        "qwen3_vl",
    )
    for index in range(3)
]


def test_robust_pays_nothing_dishonest() -> None:
    rows, findings = check_hacks(make_task("counting", family="qwen3_vl"), ROWS)
    assert findings == ()
    assert len(rows) >= 10
    assert all(row.ok and row.n <= 3 and row.worst <= row.limit + 1e-9 for row in rows)


def test_flaws_of_the_paper_are_known() -> None:
    _, findings = check_hacks(make_task("counting", family="qwen2_vl", reward="released"), ROWS)
    assert {finding.severity for finding in findings} == {"warning"}
    assert any("right number, random places" in finding.message for finding in findings)


def test_a_reward_for_the_number_alone_is_an_error() -> None:
    task = make_task("counting", family="qwen3_vl", reward=reward_spec("counting", components={"count": 1.0}))
    rows, findings = check_hacks(task, ROWS)
    assert {finding.severity for finding in findings} == {"error"}
    (row,) = [row for row in rows if row.name == "right number, random places"]
    assert (row.n, row.n_over, row.worst) == (3, 3, pytest.approx(1.0))
    message = next(finding.message for finding in findings if "random places" in finding.message)
    assert "earns up to 100% of the right answer's reward" in message
    assert message.endswith("on 3 of 3 rows")
