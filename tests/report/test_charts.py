from __future__ import annotations

import pytest

from perception_r1.report.charts import dot_chart, line_chart, nice_ticks, smooth
from perception_r1.report.words import duration, figure, headline, is_clear, signed, span


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.41, 0.78, [0.4, 0.5, 0.6, 0.7, 0.8]),
        (70, 84, [70, 75, 80, 85]),
        (0.0, 0.0004, [0.0, 0.0001, 0.0002, 0.0003, 0.0004]),
    ],
)
def test_ticks_are_round_and_cover(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_a_constant():
    ticks = nice_ticks(2.0, 2.0)
    assert ticks[0] < 2.0 < ticks[-1]
    assert nice_ticks(0.0, 0.0)[0] < 0 < nice_ticks(0.0, 0.0)[-1]


def test_smooth_keeps_length_and_constants():
    assert smooth([1.0] * 50) == [1.0] * 50
    assert smooth([0.0, 3.0, 0.0], window=2) == [1.5, 1.0, 1.5]
    assert smooth([]) == []


def test_line_chart_stays_inside_its_frame():
    chart = line_chart(
        [{"name": "a", "colour": "c0", "x": [1, 2, 3], "y": [0.1, 5.0, -2.0]}], title="t", smoothed=False
    )
    points = [tuple(map(float, p.split(","))) for p in chart["lines"][0]["path"][1:].split("L")]
    assert points[0][0] == chart["left"]
    assert points[-1][0] == chart["right"]
    assert all(chart["top"] <= y <= chart["bottom"] for _, y in points)


def test_nothing_logged_is_no_chart():
    assert line_chart([{"name": "a", "colour": "c0", "x": [], "y": []}], title="t") is None
    assert line_chart([{"name": "a", "colour": "c0", "x": [1], "y": [3.0]}], title="one point")["lines"]


def test_dot_chart_positions():
    rows = [
        {"title": "a", "colour": "c0", "value": 0.0},
        {"title": "b", "colour": "c1", "value": 1.0, "low": 0.5, "high": 1.0},
    ]
    chart = dot_chart(rows, percent=True)
    assert chart["rows"][0]["x"] == chart["left"]
    assert chart["rows"][1]["x"] == chart["right"]
    assert chart["rows"][1]["x_low"] == (chart["left"] + chart["right"]) / 2


def _entry(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_words():
    assert figure("accuracy", 0.4704) == "47.0 %"
    assert figure("mae", 0.5) == "0.500"
    assert signed("accuracy", -0.123) == "−12.3"
    assert span("accuracy", _entry(0.1, 0.05, 0.2)) == "5.0 to 20.0"
    assert span("AR1", {"value": 0.1}) == ""
    assert not is_clear(_entry(0.1, -0.01, 0.2))
    assert duration(None) == "—"


def test_headline_claims_only_what_the_interval_allows():
    first = {"title": "Warm start", "entry": _entry(0.47, 0.4, 0.5)}
    clear = {"title": "RL", "entry": _entry(0.8, 0.75, 0.85), "difference": _entry(0.33, 0.28, 0.39)}
    text = headline("counting", "accuracy", [first, clear], 300, "scenes")
    assert text == (
        "RL raised count accuracy from 47.0 % to 80.0 % on 300 scenes (+33.0 points, 95 % interval +28.0 to +39.0)."
    )
    unclear = {**clear, "difference": _entry(0.01, -0.02, 0.04)}
    assert headline("counting", "accuracy", [first, unclear], 300).startswith("No clear change: ")
    worse = {**clear, "difference": _entry(-0.1, -0.2, -0.02)}
    assert "RL lowered count accuracy" in headline("counting", "accuracy", [first, worse], 300)
    assert headline("counting", "accuracy", [first], 9) == "Warm start: count accuracy 47.0 % on 9 samples."
