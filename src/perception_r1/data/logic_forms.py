"""Geometry3K's logic forms (Lu et al., arXiv 2105.04165): as sentences, and as a figure that can be drawn.

``Equals(LengthOf(Line(A, B)), 5)`` becomes "AB = 5", in the words that the lexical judge reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from perception_r1.data.plane_figure import Figure, Mark
from perception_r1.errors import DataError

Term: TypeAlias = "str | tuple[str, list[Term]]"

_NAME = re.compile(r"\s*([A-Za-z$][\w$' ]*?)\s*\(")
_TWO = re.compile(r"[A-Z]'?[A-Z]'?")


def parse_form(form: str) -> Term:
    """A logic form as nested (name, arguments); what is no call stays text.

    Example:
        >>> parse_form("Equals(LengthOf(Line(A, B)), 5)")
        ('Equals', [('LengthOf', [('Line', ['A', 'B'])]), '5'])
    """
    return _parse(form.strip(), 0)


def sentence(form: str) -> str:
    """A logic form in words and symbols.

    Example:
        >>> sentence("Perpendicular(Line(A, C), Line(D, C))")
        'AC ⊥ DC'
        >>> sentence("Equals(MeasureOf(Angle(T, R, S)), 4y-10)")
        '∠TRS = (4y-10)°'
    """
    return _words(parse_form(form))


def facts_of(forms: Sequence[str]) -> tuple[str, ...]:
    """Sentences for a diagram's logic forms, each once; a point that lies on a line that it names is left out."""
    found = []
    for form in forms:
        if not form.strip():
            continue
        term = parse_form(form)
        if isinstance(term, tuple) and term[0] == "PointLiesOnLine" and len(term[1]) == 2:
            line = term[1][1]
            if isinstance(line, tuple) and term[1][0] in line[1]:
                continue
        found.append(_words(term))
    return tuple(dict.fromkeys(found))


def figure_of(record: Mapping[str, Any]) -> Figure:
    """A problem's annotation (point positions, lines, circles, logic forms) as a figure.

    Args:
        record: keys ``point_positions`` (x right, y down), ``line_instances``, ``circle_instances`` and
            ``diagram_logic_forms`` or ``diagram_logic_form``.

    Raises:
        DataError: it has no points.
    """
    positions = {name: (float(x), -float(y)) for name, (x, y) in (record.get("point_positions") or {}).items()}
    if not positions:
        raise DataError("the problem has no point positions", field="point_positions")
    figure = Figure(positions)
    for name in record.get("line_instances") or ():
        ends = re.findall(r"[A-Z]'?", name)
        if len(ends) == 2 and all(end in positions for end in ends):
            figure.segments.append((ends[0], ends[1]))
    on_circle: dict[str, list[float]] = {name: [] for name in record.get("circle_instances") or () if name in positions}
    for form in record.get("diagram_logic_forms") or record.get("diagram_logic_form") or ():
        _add(figure, parse_form(form), on_circle)
    for center, distances in on_circle.items():
        if distances:
            figure.circles.append((center, sum(distances) / len(distances)))
    return figure


def _add(figure: Figure, term: Term, on_circle: dict[str, list[float]]) -> None:
    if not isinstance(term, tuple) or len(term[1]) != 2:
        return
    name, (first, second) = term
    if name == "PointLiesOnCircle" and isinstance(second, tuple) and isinstance(first, str):
        center = second[1][0] if second[1] else ""
        if isinstance(center, str) and center in figure.points and first in figure.points:
            gap = math.dist(figure.points[center], figure.points[first])
            on_circle.setdefault(center, []).append(gap)
        return
    points = _points(first)
    if name == "Perpendicular":
        corner = _corner(points, _points(second))
        if corner is not None and all(point in figure.points for point in corner):
            figure.marks.append(Mark("right", corner))
        return
    if name != "Equals" or not isinstance(second, str) or not all(point in figure.points for point in points):
        return
    if len(points) == 2 and _is(first, "LengthOf", "Line"):
        figure.lengths[points[0], points[1]] = second
    elif len(points) == 3 and _is(first, "MeasureOf", "Angle"):
        figure.marks.append(Mark("angle", tuple(points), f"{second}°"))


def _points(term: Term) -> list[str]:
    while isinstance(term, tuple) and len(term[1]) == 1:
        term = term[1][0]
    return [item for item in term[1] if isinstance(item, str)] if isinstance(term, tuple) else []


def _corner(one: Sequence[str], two: Sequence[str]) -> tuple[str, str, str] | None:
    shared = [point for point in one if point in two]
    if len(one) != 2 or len(two) != 2 or len(shared) != 1:
        return None
    vertex = shared[0]
    return next(p for p in one if p != vertex), vertex, next(p for p in two if p != vertex)


def _is(term: Term, outer: str, inner: str) -> bool:
    return isinstance(term, tuple) and term[0] == outer and isinstance(term[1][0], tuple) and term[1][0][0] == inner


def _parse(text: str, depth: int) -> Term:
    call = _NAME.match(text)
    if call is None or not text.rstrip().endswith(")") or depth > 20:
        return text.strip()
    inside = text.rstrip()[call.end() : -1]
    parts, level, start = [], 0, 0
    for index, char in enumerate(inside):
        level += (char == "(") - (char == ")")
        if level < 0:
            return text.strip()
        if char == "," and level == 0:
            parts.append(inside[start:index])
            start = index + 1
    parts.append(inside[start:])
    return call[1].strip(), [_parse(part.strip(), depth + 1) for part in parts]


_RELATIONS = {"Parallel": "∥", "Perpendicular": "⊥", "Similar": "~", "Congruent": "≅"}


def _words(term: Term) -> str:
    if isinstance(term, str):
        return f"∠{term[6:]}" if term.startswith("angle ") else term
    name, arguments = term
    said = [_words(argument) for argument in arguments]
    if name in ("LengthOf", "MeasureOf"):
        return " ".join(said)
    if name == "Equals" and len(said) == 2:
        angle = said[0].startswith(("∠", "arc "))
        value = isinstance(arguments[1], str) and not said[1].startswith("∠")
        if angle and value:
            return f"{said[0]} = {said[1]}°" if re.fullmatch(r"[\w.]+", said[1]) else f"{said[0]} = ({said[1]})°"
        return f"{said[0]} = {said[1]}"
    if name in _RELATIONS and len(said) == 2:
        return f"{said[0]} {_RELATIONS[name]} {said[1]}"
    if name in ("PointLiesOnLine", "PointLiesOnCircle") and len(said) == 2:
        where = f"circle {said[1]}" if name.endswith("Circle") and not said[1].startswith("circle") else said[1]
        return f"{said[0]} lies on {where}"
    if name == "Tangent" and len(said) == 2:
        return f"{said[0]} is tangent to {said[1]}"
    if name in ("Line", "Point"):
        return "".join(said)
    if name == "Angle":
        return f"∠{''.join(said)}"
    if name in ("Circle", "Cirle"):  # the second argument only tells circles of one centre apart
        return f"circle {said[0]}" if said else "circle"
    if name.endswith("Of"):
        return f"the {_spaced(name[:-2])} of {' and '.join(said)}"
    joined = "".join(said) if all(re.fullmatch(r"[A-Z]'?", item) for item in said) else " ".join(said)
    return f"{_spaced(name)} {joined}".strip()


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
