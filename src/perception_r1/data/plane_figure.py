"""A plane figure as data (named points, segments, circles, marks), and how it is drawn with PIL."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

XY: TypeAlias = tuple[float, float]
MarkKind: TypeAlias = Literal["angle", "right", "ticks", "arrows"]

_OVERSAMPLE = 3
_ROOT, _FRACTION = re.compile(r"\\sqrt\s*\{([^{}]*)\}"), re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark on a figure.

    ``angle``: arc and text at the middle of three points; ``right``: a small square there; ``ticks`` (equal lengths) or
    ``arrows`` (parallel lines): ``count`` of them on the segment of two points.
    """

    kind: MarkKind
    points: tuple[str, ...]
    text: str = ""
    count: int = 1


@dataclass(slots=True)
class Figure:
    """What is drawn. Coordinates are mathematical (y up), of any size: the drawing fits them into the picture.

    ``lengths``: text beside a segment, by its two points. ``hidden``: points without a dot and a name.
    """

    points: dict[str, XY]
    segments: list[tuple[str, str]] = field(default_factory=list)
    circles: list[tuple[str, float]] = field(default_factory=list)
    lengths: dict[tuple[str, str], str] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    hidden: frozenset[str] = frozenset()

    def turned(self, angle: float, mirrored: bool) -> Figure:
        """The figure turned round the origin by ``angle`` (radians), after a reflection if ``mirrored``."""
        cos, sin = math.cos(angle), math.sin(angle)
        points = {}
        for name, (x, y) in self.points.items():
            x = -x if mirrored else x
            points[name] = (x * cos - y * sin, x * sin + y * cos)
        return Figure(points, self.segments, self.circles, self.lengths, self.marks, self.hidden)


@dataclass(frozen=True, slots=True)
class Style:
    """How a figure is drawn: RGB colours, width of lines and height of letters as shares of the picture's side."""

    paper: tuple[int, int, int] = (255, 255, 255)
    ink: tuple[int, int, int] = (20, 20, 30)
    line: float = 0.006
    letters: float = 0.06


def draw(figure: Figure, size: int | tuple[int, int], style: Style | None = None) -> Image.Image:
    """Draw a figure, as large as it fits with its letters.

    Args:
        figure: at least one point.
        size: side of a square picture, or (width, height), in pixels.
        style: colours and sizes.
    """
    style = style or Style()
    width, height = (size, size) if isinstance(size, int) else size
    pen = _Pen(figure, (width * _OVERSAMPLE, height * _OVERSAMPLE), style)
    for center, radius in figure.circles:
        pen.circle(figure.points[center], radius)
    for a, b in figure.segments:
        pen.line(figure.points[a], figure.points[b])
    for mark in figure.marks:
        pen.mark(mark)
    for (a, b), text in figure.lengths.items():
        pen.length(figure.points[a], figure.points[b], text)
    for name in figure.points:
        if name not in figure.hidden:
            pen.name(name)
    return pen.image.resize((width, height), Image.Resampling.LANCZOS)


class _Pen:
    def __init__(self, figure: Figure, size: tuple[int, int], style: Style) -> None:
        self.figure, self.style = figure, style
        self.image = Image.new("RGB", size, style.paper)
        self.canvas = ImageDraw.Draw(self.image)
        self.unit = min(size)
        self.font = ImageFont.load_default(size=max(8.0, style.letters * self.unit))
        self.width = max(1, round(style.line * self.unit))
        xs, ys = [x for x, _ in figure.points.values()], [y for _, y in figure.points.values()]
        for center, radius in figure.circles:
            x, y = figure.points[center]
            xs += [x - radius, x + radius]
            ys += [y - radius, y + radius]
        margin = 1.6 * style.letters * self.unit
        span_x, span_y = max(max(xs) - min(xs), 1e-6), max(max(ys) - min(ys), 1e-6)
        self.scale = min((size[0] - 2 * margin) / span_x, (size[1] - 2 * margin) / span_y)
        self.offset = (
            size[0] / 2 - self.scale * (max(xs) + min(xs)) / 2,
            size[1] / 2 + self.scale * (max(ys) + min(ys)) / 2,
        )
        self.middle = (float(np.mean(xs)), float(np.mean(ys)))

    def at(self, point: XY) -> XY:
        return self.offset[0] + self.scale * point[0], self.offset[1] - self.scale * point[1]

    def line(self, a: XY, b: XY) -> None:
        self.canvas.line([self.at(a), self.at(b)], fill=self.style.ink, width=self.width)

    def circle(self, center: XY, radius: float) -> None:
        x, y = self.at(center)
        r = radius * self.scale
        self.canvas.ellipse([x - r, y - r, x + r, y + r], outline=self.style.ink, width=self.width)

    def text(self, at: XY, text: str) -> None:
        """Centred at a place of the picture, over a patch of paper, kept inside."""
        text = _FRACTION.sub(r"\1/\2", _ROOT.sub(r"√\1", text)).replace("\\pi", "π")
        left, top, right, bottom = self.canvas.textbbox(at, text, font=self.font, anchor="mm")
        dx = max(0.0, 2 - left) - max(0.0, right - self.image.width + 2)
        dy = max(0.0, 2 - top) - max(0.0, bottom - self.image.height + 2)
        at = (at[0] + dx, at[1] + dy)
        box = self.canvas.textbbox(at, text, font=self.font, anchor="mm")
        self.canvas.rectangle(box, fill=self.style.paper)
        self.canvas.text(at, text, font=self.font, fill=self.style.ink, anchor="mm")

    def length(self, a: XY, b: XY, text: str) -> None:
        """Beside the middle of a segment, on the side away from the figure's middle."""
        (x1, y1), (x2, y2) = self.at(a), self.at(b)
        length = math.hypot(x2 - x1, y2 - y1) or 1.0
        nx, ny = (y2 - y1) / length, (x1 - x2) / length
        mx, my = (x1 + x2) / 2, (y1 + y2) / 2
        cx, cy = self.at(self.middle)
        if (mx - cx) * nx + (my - cy) * ny < 0:
            nx, ny = -nx, -ny
        box = self.canvas.textbbox((0, 0), text, font=self.font, anchor="mm")
        reach = (
            0.5 * (abs(nx) * (box[2] - box[0]) + abs(ny) * (box[3] - box[1])) + 0.35 * self.style.letters * self.unit
        )
        self.text((mx + nx * reach, my + ny * reach), text)

    def name(self, name: str) -> None:
        """A dot, and the name on the side away from the lines that meet there."""
        x, y = self.at(self.figure.points[name])
        r = 1.2 * self.width
        self.canvas.ellipse([x - r, y - r, x + r, y + r], fill=self.style.ink)
        reach = 0.75 * self.style.letters * self.unit
        taken = [self._direction(name, other) for other in self._neighbours(name)]
        taken += [self._direction(name, center) for center, _ in self.figure.circles if center != name]
        best = max(range(16), key=lambda k: min((_gap(k * math.pi / 8, t) for t in taken), default=math.pi))
        angle = best * math.pi / 8
        self.text((x + reach * math.cos(angle), y - reach * math.sin(angle)), name)

    def _neighbours(self, name: str) -> list[str]:
        """Points towards which a line leaves ``name``, lines that only pass through it included."""
        found = []
        x, y = self.figure.points[name]
        for a, b in self.figure.segments:
            if name in (a, b):
                found.append(b if name == a else a)
                continue
            (x1, y1), (x2, y2) = self.figure.points[a], self.figure.points[b]
            length = math.hypot(x2 - x1, y2 - y1) or 1.0
            if abs((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / length < 1e-6 * (1 + length):
                found += [a, b]
        return found

    def _direction(self, a: str, b: str) -> float:
        (x1, y1), (x2, y2) = self.figure.points[a], self.figure.points[b]
        return math.atan2(y2 - y1, x2 - x1)

    def mark(self, mark: Mark) -> None:
        if mark.kind in ("angle", "right"):
            self._angle(mark)
        else:
            self._on_segment(mark)

    def _angle(self, mark: Mark) -> None:
        a, vertex, b = mark.points
        x, y = self.at(self.figure.points[vertex])
        one, two = self._direction(vertex, a), self._direction(vertex, b)
        sweep = (two - one + math.pi) % (2 * math.pi) - math.pi
        if mark.kind == "right":
            r = 0.045 * self.unit
            (ux, uy), (vx, vy) = (math.cos(one), -math.sin(one)), (math.cos(two), -math.sin(two))
            corner = [(x + r * ux, y + r * uy), (x + r * (ux + vx), y + r * (uy + vy)), (x + r * vx, y + r * vy)]
            self.canvas.line(corner, fill=self.style.ink, width=self.width)
            return
        r = 0.085 * self.unit
        steps = [one + sweep * k / 24 for k in range(25)]
        arc = [(x + r * math.cos(t), y - r * math.sin(t)) for t in steps]
        self.canvas.line(arc, fill=self.style.ink, width=self.width)
        if mark.text:
            middle = one + sweep / 2
            # A narrow angle has room for its number only farther out.
            reach = r + (0.75 + 0.55 / max(0.35, abs(sweep))) * self.style.letters * self.unit
            self.text((x + reach * math.cos(middle), y - reach * math.sin(middle)), mark.text)

    def _on_segment(self, mark: Mark) -> None:
        (x1, y1), (x2, y2) = (self.at(self.figure.points[name]) for name in mark.points)
        length = math.hypot(x2 - x1, y2 - y1) or 1.0
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        if mark.kind == "arrows" and (ux, uy) < (0, 0):  # parallel lines' arrows point the same way
            ux, uy = -ux, -uy
        size = 0.022 * self.unit
        share = 0.5 if mark.kind == "ticks" else 0.62
        for k in range(mark.count):
            shift = (k - (mark.count - 1) / 2) * 0.9 * size
            x, y = x1 + share * (x2 - x1) + shift * ux, y1 + share * (y2 - y1) + shift * uy
            if mark.kind == "ticks":
                ends = [(x - uy * size, y + ux * size), (x + uy * size, y - ux * size)]
            else:
                back = (x - size * ux, y - size * uy)
                ends = [(back[0] - uy * size * 0.7, back[1] + ux * size * 0.7), (x, y)]
                ends.append((back[0] + uy * size * 0.7, back[1] - ux * size * 0.7))
            self.canvas.line(ends, fill=self.style.ink, width=self.width)


def _gap(a: float, b: float) -> float:
    return abs((a - b + math.pi) % (2 * math.pi) - math.pi)


def polygon(names: Sequence[str]) -> list[tuple[str, str]]:
    """The sides of a polygon by its corners."""
    return [(name, names[(index + 1) % len(names)]) for index, name in enumerate(names)]
