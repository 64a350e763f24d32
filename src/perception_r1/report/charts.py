"""Geometry of the report's charts.

Python computes positions, the template draws SVG, so that all text is escaped there and colours follow the page's light
or dark style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 24


def nice_ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About ``n`` round numbers that cover [low, high].

    Example:
        >>> nice_ticks(0.0, 0.83)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / n
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, digits + 1) for i in range(first, last + 1)]


def smooth(values: Sequence[float], window: int | None = None) -> list[float]:
    """Centred moving mean; the window shrinks at both ends. Default width: a fifteenth of the length, at least 1."""
    half = (max(1, len(values) // 15) if window is None else window) // 2
    return [_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def line_chart(
    series: Sequence[dict[str, Any]],
    *,
    title: str,
    note: str = "",
    zero: bool = False,
    smoothed: bool = True,
    x_label: str = "step",
    dots: bool = False,
    percent: bool = False,
) -> dict[str, Any] | None:
    """A chart of lines, or None when there is nothing to draw.

    Args:
        series: ``{name, colour, x, y}`` and, if known, ``low`` and ``high`` for a band.
        title: above the chart.
        note: what a reader should know about it.
        zero: whether the axis starts at 0.
        smoothed: draw the moving mean thick over the values as they are.
        x_label: what the x axis counts.
        dots: mark each value (few of them).
        percent: values are shares.
    """
    series = [line for line in series if len(line["x"]) > 0]
    if not series:
        return None
    every_y = [v for line in series for key in ("y", "low", "high") for v in line.get(key, ())]
    low, high = min([*every_y, 0.0] if zero else every_y), max(every_y)
    ticks = nice_ticks(low, high) if high > low or low != 0 else [0.0, 1.0]
    if percent:
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    every_x: list[float] = [v for line in series for v in line["x"]]
    x_low, x_high = min(every_x), max(every_x)
    if dots:
        pad = max(0.3, 0.06 * (x_high - x_low))
        x_low, x_high = x_low - pad, x_high + pad
    x_span = float(x_high - x_low) or 1.0

    def px(value: float) -> float:
        return round(_LEFT + (value - x_low) / x_span * (WIDTH - _LEFT - _RIGHT), 2)

    def py(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 2)

    lines = []
    for line in series:
        bold = smooth(line["y"]) if smoothed else list(line["y"])
        raw = _path([(px(x), py(y)) for x, y in zip(line["x"], line["y"], strict=True)])
        band = ""
        if line.get("low"):
            upper = [(px(x), py(y)) for x, y in zip(line["x"], line["high"], strict=True)]
            lower = [(px(x), py(y)) for x, y in zip(line["x"], line["low"], strict=True)]
            band = _path(upper + lower[::-1]) + "Z"
        points = [(px(x), py(y)) for x, y in zip(line["x"], bold, strict=True)]
        lines.append(
            {
                "name": line["name"],
                "colour": line["colour"],
                "raw": raw if smoothed else "",
                "path": _path(points),
                "band": band,
                "dots": points if dots else [],
                "last": _short(line["y"][-1], percent),
            }
        )
    steps = [tick for tick in nice_ticks(x_low, x_high, 4) if x_low <= tick <= x_high and tick % 1 == 0]
    if dots:
        steps = sorted(set(every_x))
    return {
        "title": title,
        "note": note,
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "lines": lines,
        "x_label": x_label,
        "y_ticks": [(py(tick), _short(tick, percent)) for tick in ticks],
        "x_ticks": [(px(tick), f"{tick:g}") for tick in steps],
        "hover": [
            {
                "name": line["name"],
                "colour": line["colour"],
                "px": [px(x) for x in line["x"]],
                "x": [_compact(x) for x in line["x"]],
                "y": [_compact(y) for y in line["y"]],
            }
            for line in series
        ],
    }


def dot_chart(rows: Sequence[dict[str, Any]], *, percent: bool) -> dict[str, Any]:
    """Values with their intervals, one row a model, on one axis from 0.

    Args:
        rows: ``{title, colour, value, low, high}``.
        percent: values are shares; the axis then ends at 100 % if a value comes near.
    """
    width, row_height, top = 720, 54, 14
    left, right = 16, width - 16
    top_value = max(row.get("high", row["value"]) for row in rows)
    # Nothing right at all: an axis of the usual length says so better than one of a millionth.
    ticks = nice_ticks(0.0, top_value if top_value > 0 else 1.0)
    if percent and not 0 < top_value <= 0.5:
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    bottom = top + row_height * len(rows)

    def px(value: float) -> float:
        return round(left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left), 2)

    return {
        "width": width,
        "height": bottom + 26,
        "top": top,
        "bottom": bottom,
        "left": left,
        "right": right,
        "start": px(rows[0]["value"]),
        "ticks": [(px(tick), f"{100 * tick:g} %" if percent else f"{tick:g}") for tick in ticks],
        "rows": [
            {
                **row,
                "x": px(row["value"]),
                "x_low": px(row.get("low", row["value"])),
                "x_high": px(row.get("high", row["value"])),
                "y": top + row_height * (index + 0.5),
            }
            for index, row in enumerate(rows)
        ],
    }


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _compact(value: float) -> float:
    return float(f"{value:.5g}")


def _short(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:.0f} %"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−").replace("e+0", "e")
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}"
