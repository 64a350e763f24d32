"""Entries of an answer: numbers as written become a box or a point, or an entry with an issue.

Issue codes (``ParsedObject.issue``), each for one entry alone:

================  ====================================================================================
``inverted``      x2 < x1 or y2 < y1
``degenerate``    a box without area (x2 == x1 or y2 == y1)
``numbers``       a box without four numbers, a point without two
``non_numeric``   something that is not a finite decimal number (words, strings, NaN, Infinity)
``runaway``       more than six digits before the point, or a number of absurd length
``unclosed``      a list of numbers whose bracket is missing
``missing``       an object with a label and no coordinates
``yxyx``          Gemini's ``box_2d`` (y, x, y, x): named, not misread
``truncated``     the entry in which the text ends
================  ====================================================================================
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from perception_r1.answers.formats import MAX_DIGITS, check_box
from perception_r1.types import XY, XYXY, ParsedObject

_MAX_ITEMS = 64
_MAX_LITERAL = 40

_NUMBER = re.compile(r"[-+]?(?:([0-9]++)(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?")

Kind = Literal["box", "point", "any", "yxyx"]
"""What a list of numbers stands for: ``any`` is a box when it has four numbers and a point when it has two."""


class Numbers(NamedTuple):
    """A comma-separated list as written: its numbers, how many items there were, and what is wrong with one of them."""

    values: tuple[float, ...]
    items: int
    issue: str | None


def read_numbers(content: str) -> Numbers:
    """Read ``"1, 2.5, -3"``; a trailing comma is forgiven, anything else is reported.

    ``values`` holds the readable numbers only, so ``len(values) == items`` exactly when ``issue`` is None.
    """
    count = content.count(",")
    if count > _MAX_ITEMS:  # nobody's box; not worth a million floats
        return Numbers((), count + 1, "numbers" if any(c.isdigit() for c in content[:64]) else "non_numeric")
    items = [item.strip() for item in content.split(",")]
    if not items[-1]:
        items.pop()
    values: list[float] = []
    issue: str | None = None
    for item in items:
        found = _NUMBER.fullmatch(item)
        if found is None:
            issue = issue or "non_numeric"
        elif (
            len(item) > _MAX_LITERAL or len(found[1] or "") > MAX_DIGITS or abs(value := float(item)) >= 10**MAX_DIGITS
        ):
            issue = "runaway"
        else:
            values.append(value)
    return Numbers(tuple(values), len(items), issue)


class Entry:
    """One entry while the scan still learns about it (its label may come after its numbers)."""

    __slots__ = ("box", "end", "issue", "kind", "label", "merged", "point", "start")

    def __init__(self, start: int, end: int, label: str | None, issue: str | None, kind: Kind = "any") -> None:
        self.start, self.end, self.label, self.issue, self.kind = start, end, label, issue, kind
        self.box: XYXY | None = None
        self.point: XY | None = None
        self.merged = False
        """Its numbers went to another entry of the same object."""

    def freeze(self) -> ParsedObject:
        """The finished, immutable object."""
        return ParsedObject(self.box, self.point, self.label, (self.start, self.end), self.issue)


def make_entry(numbers: Numbers, start: int, end: int, label: str | None, kind: Kind = "any") -> Entry:
    """An entry from a list of numbers; never a box or a point unless all of its numbers are sound."""
    entry = Entry(start, end, label, numbers.issue, kind)
    values = numbers.values
    if kind == "yxyx":
        entry.issue = "yxyx"
    elif numbers.issue is not None:
        pass
    elif len(values) == 4 and kind != "point":
        x1, y1, x2, y2 = values
        entry.kind = "box"
        entry.issue = check_box(x1, y1, x2, y2)
        if entry.issue is None:
            entry.box = (x1, y1, x2, y2)
    elif len(values) == 2 and kind != "box":
        entry.kind = "point"
        entry.point = (values[0], values[1])
    else:
        entry.issue = "numbers"
    return entry
