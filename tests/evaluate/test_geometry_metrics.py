from __future__ import annotations

import pytest

from perception_r1.evaluate.metrics import summarise
from perception_r1.types import AnswerTarget, RewardRecord, Sample


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
