"""The kinds of generated geometry problem: what is drawn, asked and right, and the facts that the picture shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from perception_r1.data.plane_figure import Figure, Mark, polygon


@dataclass(frozen=True, slots=True)
class Problem:
    """A figure, what is asked of it, the answer (LaTeX) and the facts that it shows."""

    figure: Figure
    question: str
    answer: str
    facts: tuple[str, ...]


Rng: TypeAlias = np.random.Generator
Kind: TypeAlias = Callable[[Rng, Sequence[str], int], Problem]


def _pick(rng: Rng, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _triangle(sides: tuple[float, float, float], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Corners by AB, BC, CA."""
    ab, bc, ca = sides
    x = (ab * ab + ca * ca - bc * bc) / (2 * ab)
    return {names[0]: (0.0, 0.0), names[1]: (ab, 0.0), names[2]: (x, math.sqrt(max(1e-9, ca * ca - x * x)))}


def segments(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Two lengths on a line; find the whole."""
    a, b, c = names[:3]
    one, two = _pick(rng, 1, most), _pick(rng, 1, most)
    share = 0.3 + 0.4 * one / (one + two)  # both parts keep room for their number
    figure = Figure(
        {a: (0, 0), b: (share, 0), c: (1, 0)}, [(a, b), (b, c)], lengths={(a, b): str(one), (b, c): str(two)}
    )
    return Problem(figure, f"Find the length of {a}{c}.", str(one + two), (f"{a}{b} = {one}", f"{b}{c} = {two}"))


def perimeter(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Three sides; find the perimeter."""
    a, b, c = names[:3]
    while True:
        sides = tuple(_pick(rng, max(2, most // 4), most) for _ in range(3))
        if 2 * max(sides) < 0.92 * sum(sides):
            break
    points = _triangle((float(sides[0]), float(sides[1]), float(sides[2])), names)
    edges = [(a, b), (b, c), (c, a)]
    figure = Figure(points, edges, lengths={edge: str(n) for edge, n in zip(edges, sides, strict=True)})
    facts = tuple(f"{p}{q} = {n}" for (p, q), n in zip(edges, sides, strict=True))
    return Problem(figure, f"Find the perimeter of triangle {a}{b}{c}.", str(sum(sides)), facts)


def third_angle(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Two angles of a triangle; find the third."""
    a, b, c = names[:3]
    alpha = _pick(rng, 35, 85)
    beta = _pick(rng, 35, min(85, 145 - alpha))
    gamma = 180 - alpha - beta
    sines = [math.sin(math.radians(angle)) for angle in (gamma, alpha, beta)]
    points = _triangle((sines[0], sines[1], sines[2]), names)
    marks = [Mark("angle", (b, a, c), f"{alpha}°"), Mark("angle", (a, b, c), f"{beta}°")]
    figure = Figure(points, polygon([a, b, c]), marks=marks)
    facts = (f"∠{b}{a}{c} = {alpha}°", f"∠{a}{b}{c} = {beta}°")
    return Problem(figure, f"Find the measure of angle {a}{c}{b} in degrees.", str(gamma), facts)


def right_triangle(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Both legs; find the hypotenuse."""
    a, b, c = names[:3]
    one, two = _pick(rng, 2, most), _pick(rng, 2, most)
    ratio = min(max(two / one, 0.45), 2.2)
    figure = Figure(
        {b: (0, 0), a: (1, 0), c: (0, ratio)},
        polygon([a, b, c]),
        lengths={(a, b): str(one), (b, c): str(two)},
        marks=[Mark("right", (a, b, c))],
    )
    facts = (f"{a}{b} = {one}", f"{b}{c} = {two}", f"∠{a}{b}{c} = 90°")
    return Problem(figure, f"Find the length of {a}{c}.", root(one * one + two * two), facts)


def isosceles(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Equal sides by their ticks and the angle between them; find an angle at the base."""
    a, b, c = names[:3]
    apex = 2 * _pick(rng, 18, 55)
    half = math.radians(apex / 2)
    figure = Figure(
        {a: (0, math.cos(half)), b: (-math.sin(half), 0), c: (math.sin(half), 0)},
        polygon([a, b, c]),
        marks=[Mark("ticks", (a, b)), Mark("ticks", (a, c)), Mark("angle", (b, a, c), f"{apex}°")],
    )
    facts = (f"{a}{b} = {a}{c}", f"∠{b}{a}{c} = {apex}°")
    return Problem(figure, f"Find the measure of angle {a}{b}{c} in degrees.", str((180 - apex) // 2), facts)


def parallelogram(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Opposite sides as expressions in x; find x."""
    a, b, c, d = names[:4]
    x = _pick(rng, 2, max(3, most // 2))
    one, two = (int(n) for n in rng.choice(np.arange(2, 7), 2, replace=False))
    left = _pick(rng, 1, most)
    right = one * x + left - two * x
    lean, height = rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.8)
    expressions = [_linear(one, left), _linear(two, right)]
    figure = Figure(
        {a: (0, 0), b: (1, 0), c: (1 + lean, height), d: (lean, height)},
        polygon([a, b, c, d]),
        lengths={(a, b): expressions[0], (d, c): expressions[1]},
        marks=[
            Mark("arrows", (a, b)),
            Mark("arrows", (d, c)),
            Mark("arrows", (a, d), "", 2),
            Mark("arrows", (b, c), "", 2),
        ],
    )
    facts = (f"{a}{b} = {expressions[0]}", f"{c}{d} = {expressions[1]}", f"{a}{b} ∥ {c}{d}", f"{a}{d} ∥ {b}{c}")
    return Problem(figure, "Find the value of x.", str(x), facts)


def rectangle(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """Two sides; find area or perimeter."""
    a, b, c, d = names[:4]
    one, two = _pick(rng, 2, most), _pick(rng, 2, most)
    height = min(max(two / one, 0.4), 1.6)
    figure = Figure(
        {a: (0, 0), b: (1, 0), c: (1, height), d: (0, height)},
        polygon([a, b, c, d]),
        lengths={(a, b): str(one), (b, c): str(two)},
        marks=[Mark("right", (d, a, b)), Mark("right", (a, b, c)), Mark("right", (b, c, d))],
    )
    facts = (f"{a}{b} = {one}", f"{b}{c} = {two}", f"∠{a}{b}{c} = 90°", f"∠{d}{a}{b} = 90°", f"∠{b}{c}{d} = 90°")
    if rng.random() < 0.5:
        return Problem(figure, f"Find the area of {a}{b}{c}{d}.", str(one * two), facts)
    return Problem(figure, f"Find the perimeter of {a}{b}{c}{d}.", str(2 * (one + two)), facts)


def transversal(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """A line across two parallels and one angle; find the alternate or the co-interior one."""
    a, b, c, d, e, f = names[:6]
    angle = _pick(rng, 40, 140)
    lean = 0.6 / math.tan(math.radians(angle))
    figure = Figure(
        {a: (-1, 0.6), b: (1, 0.6), c: (-1, 0), d: (1, 0), e: (lean / 2, 0.6), f: (-lean / 2, 0)},
        [(a, b), (c, d), (e, f)],
        marks=[Mark("arrows", (a, b)), Mark("arrows", (c, d)), Mark("angle", (d, f, e), f"{angle}°")],
    )
    facts = (f"{a}{b} ∥ {c}{d}", f"∠{e}{f}{d} = {angle}°", f"{e} lies on {a}{b}", f"{f} lies on {c}{d}")
    wanted, answer = (f"{f}{e}{a}", angle) if rng.random() < 0.5 else (f"{f}{e}{b}", 180 - angle)
    return Problem(figure, f"Find the measure of angle {wanted} in degrees.", str(answer), facts)


def circle(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """The radius; find area or circumference."""
    a = names[0]
    radius = _pick(rng, 2, most)
    figure = Figure({"O": (0, 0), a: (0.8, 0.6)}, [("O", a)], [("O", 1.0)], {("O", a): str(radius)})
    facts = (f"O{a} = {radius}", f"{a} lies on circle O")
    if rng.random() < 0.5:
        return Problem(figure, "Find the area of the circle in terms of π.", f"{radius * radius}\\pi", facts)
    return Problem(figure, "Find the circumference of the circle in terms of π.", f"{2 * radius}\\pi", facts)


def inscribed(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """The angle at the centre; find the one at the circle."""
    a, b, c = names[:3]
    central = 2 * _pick(rng, 25, 75)
    start = math.radians(270 - central / 2)
    ends = [start, start + math.radians(central), math.pi / 2 + rng.uniform(-0.5, 0.5)]
    points = {name: (math.cos(t), math.sin(t)) for name, t in zip((a, b, c), ends, strict=True)}
    figure = Figure(
        {"O": (0, 0), **points},
        [("O", a), ("O", b), (c, a), (c, b)],
        [("O", 1.0)],
        marks=[Mark("angle", (a, "O", b), f"{central}°")],
    )
    facts = (f"∠{a}O{b} = {central}°", *(f"{name} lies on circle O" for name in (a, b, c)))
    return Problem(figure, f"Find the measure of angle {a}{c}{b} in degrees.", str(central // 2), facts)


def similar(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """A parallel to a triangle's base; find the rest of a side."""
    a, b, c, d, e = names[:5]
    upper, factor = _pick(rng, 2, max(3, most // 2)), _pick(rng, 1, 3)
    lower, other = upper * factor, _pick(rng, 2, max(3, most // 2))
    share = 1 / (1 + factor)
    points = _triangle((1.0, rng.uniform(0.8, 1.1), rng.uniform(0.9, 1.2)), [b, c, a])
    between = {
        name: tuple(points[a][k] + share * (points[end][k] - points[a][k]) for k in (0, 1))
        for name, end in ((d, b), (e, c))
    }
    figure = Figure(
        {**points, **between},  # type: ignore[dict-item]
        [(a, b), (b, c), (a, c), (d, e)],
        lengths={(a, d): str(upper), (d, b): str(lower), (a, e): str(other)},
        marks=[Mark("arrows", (d, e)), Mark("arrows", (b, c))],
    )
    facts = (f"{a}{d} = {upper}", f"{d}{b} = {lower}", f"{a}{e} = {other}", f"{d}{e} ∥ {b}{c}")
    return Problem(figure, f"Find the length of {e}{c}.", str(other * factor), facts)


def tangent(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """A tangent, the radius and the distance of its other end; find the tangent's length."""
    a, t = names[:2]
    radius = _pick(rng, 2, max(3, most // 2))
    distance = radius + _pick(rng, 2, most)
    reach = math.sqrt(distance**2 - radius**2) / radius
    shown = min(max(reach, 0.9), 2.2)
    figure = Figure(
        {"O": (0, 0), t: (0, 1), a: (shown, 1)},
        [("O", t), (t, a), ("O", a)],
        [("O", 1.0)],
        {("O", t): str(radius), ("O", a): str(distance)},
        [Mark("right", ("O", t, a))],
    )
    facts = (f"O{t} = {radius}", f"O{a} = {distance}", f"∠O{t}{a} = 90°", f"{t} lies on circle O")
    return Problem(figure, f"Find the length of {a}{t}.", root(distance**2 - radius**2), facts)


def midsegment(rng: Rng, names: Sequence[str], most: int) -> Problem:
    """The midpoints of two sides by their ticks, and the base; find the line between them."""
    a, b, c, m, n = names[:5]
    base = 2 * _pick(rng, 2, most)
    points = _triangle((1.0, rng.uniform(0.8, 1.1), rng.uniform(0.9, 1.2)), [b, c, a])
    halves = {name: tuple((points[a][k] + points[end][k]) / 2 for k in (0, 1)) for name, end in ((m, b), (n, c))}
    figure = Figure(
        {**points, **halves},  # type: ignore[dict-item]
        [(a, b), (b, c), (a, c), (m, n)],
        lengths={(b, c): str(base)},
        marks=[
            Mark("ticks", (a, m)),
            Mark("ticks", (m, b)),
            Mark("ticks", (a, n), "", 2),
            Mark("ticks", (n, c), "", 2),
        ],
    )
    facts = (f"{b}{c} = {base}", f"{a}{m} = {m}{b}", f"{a}{n} = {n}{c}")
    return Problem(figure, f"Find the length of {m}{n}.", str(base // 2), facts)


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        segments,
        perimeter,
        third_angle,
        right_triangle,
        isosceles,
        parallelogram,
        rectangle,
        transversal,
        circle,
        inscribed,
        similar,
        tangent,
        midsegment,
    )
}
"""Kinds of problem by name."""


def root(n: int) -> str:
    """√n in LaTeX, simplified.

    Example:
        >>> root(12), root(25), root(7)
        ('2\\\\sqrt{3}', '5', '\\\\sqrt{7}')
    """
    outside = max(k for k in range(1, math.isqrt(n) + 1) if n % (k * k) == 0)
    inside = n // (outside * outside)
    if inside == 1:
        return str(outside)
    return f"\\sqrt{{{inside}}}" if outside == 1 else f"{outside}\\sqrt{{{inside}}}"


def _linear(factor: int, rest: int) -> str:
    """``3x + 5``, ``2x - 1``, ``4x``."""
    return f"{factor}x" + ("" if rest == 0 else f" + {rest}" if rest > 0 else f" - {-rest}")
