"""Checks of single fields, shared by every reader of data.

Each check returns the value in the type that the rest of the program uses, or raises a ``DataError`` that names file,
line and field, quotes what was found and says what was expected, on one line.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from perception_r1.errors import DataError
from perception_r1.types import XY, XYXY, Size

OUTSIDE_TOLERANCE = 1.0
"""Pixels that a box or point may lie outside its image: float boxes are rounded by tools; more is a mistake."""


_TOKEN = re.compile(r"<\|[a-z_/]{1,24}\|>|</?(?:ref|box|img)>|<IMG_CONTEXT>")


class MissingImageError(DataError):
    """An image that a row names and that is not there; readers may be told to skip such rows."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file of data, for error messages.

    ``names`` maps our field names to those of the file's own format ('boxes' → 'solution'), so that the message names
    what the user sees in the file.
    """

    path: object
    line: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def error(self, message: str, name: str | None = None, kind: type[DataError] = DataError) -> DataError:
        """The error to raise; ``name`` is our name of the offending field."""
        shown_name = None if name is None else self.names.get(name, name)
        return kind(" ".join(message.split()), path=self.path, line=self.line, field=shown_name)


def shown(value: object, limit: int = 80) -> str:
    """``value`` as JSON on one line, shortened: what a message quotes."""
    if is_list(value):
        value = [int(item) if isinstance(item, float) and item.is_integer() else item for item in value]
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ", did you mean 'boxes'?", or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def require(row: Mapping[str, Any], name: str, where: Where, expected: str) -> Any:
    """The value of ``name``, which must be there and not null."""
    value = row.get(name)
    if value is None:
        close = difflib.get_close_matches(name, [key for key in row if key != name], n=1, cutoff=0.6)
        found = "is null" if name in row else f"is missing, but there is {close[0]!r}" if close else "is missing"
        raise where.error(f"{found} (expected {expected})", name)
    return value


def number(value: object, where: Where, name: str, expected: str = "a number") -> float:
    """A finite number; ``true`` is not 1 and ``"12"`` is not 12."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise where.error(f"{shown(value)} is not a number (expected {expected})", name)
    try:
        as_float = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        as_float = math.inf
    if not math.isfinite(as_float):
        raise where.error(f"{shown(value)} is not a finite number (expected {expected})", name)
    return as_float


def integer(value: object, where: Where, name: str, *, minimum: int = 0, maximum: int | None = None) -> int:
    """A whole number of at least ``minimum``; 3.0 is read as 3, since tables often store counts as floats."""
    expected = f"a whole number of at least {minimum}" + (f" and at most {maximum:,}" if maximum is not None else "")
    as_float = number(value, where, name, expected)
    if as_float != int(as_float) or as_float < minimum or (maximum is not None and as_float > maximum):
        raise where.error(f"{shown(value)} is out of range (expected {expected})", name)
    return int(as_float)


def text(value: object, where: Where, name: str, *, empty: bool = False) -> str:
    """A string, not blank unless ``empty``."""
    if not isinstance(value, str):
        raise where.error(f"{shown(value)} is not a string (expected text in quotes)", name)
    if not empty and not value.strip():
        raise where.error("is empty (expected some text)", name)
    return value


def text_list(value: object, where: Where, name: str) -> tuple[str, ...]:
    """A list of strings that are not blank."""
    if not is_list(value):
        raise where.error(f'{shown(value)} is not a list (expected a list of strings, ["cat", "dog"])', name)
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise where.error(f"{shown(item)} is not a label (expected a list of strings that are not empty)", name)
    return tuple(value)


def words(value: str, where: Where, name: str) -> str:
    """A phrase or label that an answer can be written with: without tokens that models write answers with.

    A tokenizer turns ``<|box_start|>`` inside a label into the token itself, and an answer that holds it cannot be read
    back.
    """
    found = _TOKEN.search(value)
    if found is not None:
        raise where.error(f"{shown(value)} holds {found[0]}, a token that models write answers with (remove it)", name)
    return value


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """A sequence that is not text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def box(value: object, size: Size, where: Where, name: str = "boxes") -> XYXY:
    """One box [x1, y1, x2, y2] in pixels of an image of ``size`` (width, height).

    Up to ``OUTSIDE_TOLERANCE`` pixels outside the image are clipped; more is an error, as are inverted corners and a
    box without area.
    """
    if type(value) is list and len(value) == 4 and all(type(item) is int or type(item) is float for item in value):
        x1, y1, x2, y2 = value
        if 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]:  # nearly every box; NaN compares false
            return float(x1), float(y1), float(x2), float(y2)
    expected = "[x1, y1, x2, y2] in pixels of the original image"
    if not is_list(value) or len(value) != 4:
        raise where.error(f"{shown(value)} is not a box (expected {expected})", name)
    x1, y1, x2, y2 = (number(item, where, name, expected) for item in value)
    for low, high, axis in ((x1, x2, "x"), (y1, y2, "y")):
        if high < low:
            raise where.error(f"{shown(value)} has {axis}2 < {axis}1 (expected {expected})", name)
        if high == low:
            raise where.error(f"{shown(value)} has no area, {axis}2 = {axis}1 (remove it or correct it)", name)
    clipped = (_inside(x1, size[0]), _inside(y1, size[1]), _inside(x2, size[0]), _inside(y2, size[1]))
    if None in clipped or clipped[0] == clipped[2] or clipped[1] == clipped[3]:
        raise where.error(
            f"{shown(value)} lies outside its image of {size[0]} × {size[1]} pixels (expected {expected}, after EXIF "
            "rotation; are the coordinates normalised, or of a resized image?)",
            name,
        )
    return clipped  # type: ignore[return-value]


def point(value: object, size: Size, where: Where, name: str = "points") -> XY:
    """One point [x, y] (or {"x": …, "y": …}) in pixels of an image of ``size``, clipped like a box."""
    expected = "[x, y] in pixels of the original image"
    if isinstance(value, Mapping) and "x" in value and "y" in value:
        value = [value["x"], value["y"]]
    if not is_list(value) or len(value) != 2:
        raise where.error(f"{shown(value)} is not a point (expected {expected})", name)
    x, y = (number(item, where, name, expected) for item in value)
    clipped = (_inside(x, size[0]), _inside(y, size[1]))
    if None in clipped:
        raise where.error(
            f"{shown(value)} lies outside its image of {size[0]} × {size[1]} pixels (expected {expected})", name
        )
    return clipped  # type: ignore[return-value]


def _inside(coordinate: float, side: int) -> float | None:
    if not -OUTSIDE_TOLERANCE <= coordinate <= side + OUTSIDE_TOLERANCE:
        return None
    return min(max(coordinate, 0.0), float(side))
