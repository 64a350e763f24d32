"""Forms of answer: how a model writes boxes and points, and how its own way of writing is read back.

A new form is one class here with its instance in `FORMS`, and a row of `perception_r1.families`. `Form.read` takes what
`Form.write` writes, to the letter; any other answer is left to the tolerant `answers.scanner`, whatever the family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeAlias

from perception_r1.types import XY, XYXY, ParsedObject

Place: TypeAlias = XYXY | XY
WrittenEntry: TypeAlias = tuple[Place, str | None]
"""A box or a point in the frame's coordinates, and its label (None: the phrase that was asked for)."""

MAX_DIGITS = 6
"""Digits before the point of a believable coordinate."""
MAX_ENTRIES = 4096
"""More entries than an image holds; matching them would take longer than reading them."""
MAX_CHARS = 1 << 18
"""Longer than any completion; the rest of a longer text is not read."""

_N = r"-?(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,12})?"
_S = r"[ \t\r\n]*+"
_LIMIT = 10**MAX_DIGITS


class Form:
    """One way to write boxes, points and labels."""

    name: ClassVar[str]
    can_write: ClassVar[bool] = True
    """Whether a family may answer in it; a form without is only read."""
    writes_points: ClassVar[bool] = False
    """Whether a point can be written; otherwise it becomes a small box round it."""
    is_json: ClassVar[bool] = False
    """Whether the form is JSON, which a prompt may have to ask for by name."""

    def write(self, entries: Sequence[tuple[Place, str]], *, box_key: str, point_key: str) -> str:
        """Write labelled entries (at least one); the keys are the family's, for forms that have keys."""
        raise NotImplementedError(f"answers are not written in the form {self.name!r}")

    def phrase(self, text: str) -> str:
        """The phrase of a question as this form's models are asked for it."""
        return text

    def accepts(self, answer: str) -> bool:
        """Whether an answer without outer blanks keeps to this form to the letter."""
        raise NotImplementedError

    def read(self, text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
        """Read ``text[start:end]`` where it is written as `write` writes boxes; None leaves it to the scanner."""
        return None


class QwenRefBox(Form):
    """Qwen2-VL: ``<|object_ref_start|>cat<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``."""

    name = "qwen_ref_box"
    point: ClassVar[str] = rf"\({_N},{_N}\)"
    _ref: ClassVar[str] = r"<\|object_ref_start\|>[^<]*+<\|object_ref_end\|>"
    _strict: ClassVar[re.Pattern[str]] = re.compile(
        rf"(?:(?:{_ref})?+(?:<\|box_start\|>{point}(?:,{point})*+<\|box_end\|>)++|{_ref})++"
    )

    _group_text: ClassVar[re.Pattern[str]] = re.compile(
        rf"(?:<\|object_ref_start\|>([^<]*+)<\|object_ref_end\|>)?<\|box_start\|>"
        rf"(\(({_N}),({_N})\),\(({_N}),({_N})\))<\|box_end\|>"
    )

    def write(self, entries: Sequence[tuple[Place, str]], *, box_key: str, point_key: str) -> str:
        """A phrase, then one group a box; neighbours of one label share their phrase."""
        return "".join(
            f"<|object_ref_start|>{label}<|object_ref_end|>" + "".join(map(self._group, places))
            for label, places in _by_label(entries)
        )

    def accepts(self, answer: str) -> bool:
        """Phrases and groups of two corners, of several, or of points."""
        return self._strict.fullmatch(answer) is not None

    def read(self, text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
        """One box a group, a phrase before the first at least where there are any."""
        if not text.startswith("<|", start):
            return None
        return _read_groups(self._group_text, text, start, end)

    @staticmethod
    def _group(place: Place) -> str:
        corners = ",".join(f"({place[i]},{place[i + 1]})" for i in range(0, len(place), 2))
        return f"<|box_start|>{corners}<|box_end|>"


class StrippedRefBox(Form):
    """The same as engines decode it, without special tokens: ``cat(x1,y1),(x2,y2)``. Read only."""

    name = "stripped_ref_box"
    can_write = False
    _strict: ClassVar[re.Pattern[str]] = re.compile(
        rf"(?:[^()\[\]{{}}<>\n.:;!?\"]*+(?:{QwenRefBox.point}(?:,{QwenRefBox.point})?+)++)++"
    )

    _group_text: ClassVar[re.Pattern[str]] = re.compile(
        rf"([^()\[\]{{}}<>\n.:;!?\"]{{0,200}}+)(\(({_N}),({_N})\),\(({_N}),({_N})\))"
    )

    def accepts(self, answer: str) -> bool:
        """Phrases without punctuation, each followed by boxes or points."""
        return answer[:1] not in "<[{`" and self._strict.fullmatch(answer) is not None

    def read(self, text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
        """Two corners a box, a phrase before it or none."""
        if text[start : start + 1] in "<[{`" or not text.endswith(")", start, end):
            return None
        return _read_groups(self._group_text, text, start, end, trim=" \t\r,;:")


class InternVL(Form):
    """InternVL: ``<ref>cat</ref><box>[[x1, y1, x2, y2], …]</box>``."""

    name = "internvl"
    _list4: ClassVar[str] = rf"\[{_N}(?:, ?{_N}){{3}}\]"
    _strict: ClassVar[re.Pattern[str]] = re.compile(rf"(?:<ref>[^<]*+</ref><box>\[{_list4}(?:, ?{_list4})*+\]</box>)++")

    _head: ClassVar[re.Pattern[str]] = re.compile(r"(?:<ref>([^<]*+)</ref>)?<box>\[(?=\[)")
    _box: ClassVar[re.Pattern[str]] = re.compile(rf"(\[({_N}), ?({_N}), ?({_N}), ?({_N})\])(?:, ?(?=\[)|(\]</box>))")

    def write(self, entries: Sequence[tuple[Place, str]], *, box_key: str, point_key: str) -> str:
        """A phrase, then all boxes of its label in one list."""
        return "".join(
            f"<ref>{label}</ref><box>[{', '.join(str(list(place)) for place in places)}]</box>"
            for label, places in _by_label(entries)
        )

    def phrase(self, text: str) -> str:
        """The phrase in its own tags, as in InternVL's documentation."""
        return f"<ref>{text}</ref>"

    def accepts(self, answer: str) -> bool:
        """Phrases with lists of four numbers."""
        return self._strict.fullmatch(answer) is not None

    def read(self, text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
        """Phrases with lists of boxes, one after the other."""
        if not text.startswith(("<ref>", "<box>"), start):
            return None
        objects: list[ParsedObject] = []
        label: str | None = None
        pos = start
        while pos < end:
            head = self._head.match(text, pos, end)
            if head is None:
                return None
            if head[1] is not None:
                label = head[1].strip() or None
            pos, closed = head.end(), None
            while closed is None:
                found = self._box.match(text, pos, end)
                if found is None or len(objects) == MAX_ENTRIES:
                    return None
                objects.append(box_object(found.group(2, 3, 4, 5), label, found.span(1)))
                pos, closed = found.end(), found[6]
        return tuple(objects)


class Json(Form):
    """Qwen2.5-VL and later: ``[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]``, in a fence or not."""

    name = "json"
    writes_points = True
    is_json = True
    _fence: ClassVar[re.Pattern[str]] = re.compile(r"```(?:json)?[ \t]*+\r?\n?(.*?)```\Z", re.DOTALL)

    _head: ClassVar[re.Pattern[str]] = re.compile(rf"(?:```(?:json)?{_S})?(?:\[{_S})?(?=\{{)")
    _object: ClassVar[re.Pattern[str]] = re.compile(
        rf'(\{{{_S}"bbox(?:_2d)?"{_S}:{_S}\[{_S}({_N}){_S},{_S}({_N}){_S},{_S}({_N}){_S},{_S}({_N}){_S}\]'
        rf'(?:{_S},{_S}"label"{_S}:{_S}"([^"\\\x00-\x1f]*+)")?{_S}\}}){_S}(,{_S}(?=\{{)|\]|\Z|(?=```))'
    )
    _tail: ClassVar[re.Pattern[str]] = re.compile(rf"{_S}(?:```)?\Z")

    def write(self, entries: Sequence[tuple[Place, str]], *, box_key: str, point_key: str) -> str:
        """A list of objects, without a fence."""
        objects = [{box_key if len(place) == 4 else point_key: list(place), "label": label} for place, label in entries]
        return json.dumps(objects, ensure_ascii=False)

    def accepts(self, answer: str) -> bool:
        """An object or a list of objects with one place each, a bare list of four numbers, or ``[]``."""
        if answer[:1] not in ("[", "{", "`"):
            return False
        fence = self._fence.match(answer)
        try:
            value = json.loads(fence[1] if fence else answer)
        except (ValueError, RecursionError):
            return False
        if _is_numbers(value, 4) or isinstance(value, dict):
            value = [value]
        return isinstance(value, list) and all(map(_is_entry, value))

    def read(self, text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
        """A valid list (or a single object) of ``bbox_2d`` and ``label``, fenced or not."""
        if text[start : start + 1] not in ("[", "{", "`"):
            return None
        head = self._head.match(text, start, end)
        if head is None:
            return None
        objects: list[ParsedObject] = []
        pos, after = head.end(), ","
        while after[:1] == ",":
            found = self._object.match(text, pos, end)
            if found is None or len(objects) == MAX_ENTRIES:
                return None
            label = found[6].strip() or None if found[6] is not None else None
            objects.append(box_object(found.group(2, 3, 4, 5), label, found.span(1)))
            pos, after = found.end(), found[7]
        listed, fenced = "[" in head.group(), "`" in head.group()
        tail = self._tail.match(text, pos, end)
        if tail is None or listed != (after == "]") or fenced != ("`" in tail.group()):
            return None
        return tuple(objects) if listed or len(objects) == 1 else None


FORMS: dict[str, Form] = {form.name: form for form in (QwenRefBox(), Json(), InternVL(), StrippedRefBox())}
"""Forms by name."""


def strict_form(answer: str) -> str | None:
    """The name of the form that an answer keeps to the letter, with nothing before, between or after; else None.

    Example:
        >>> strict_form('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'), strict_form("about (1, 2)")
        ('json', None)
    """
    answer = answer.strip()
    return next((name for name, form in FORMS.items() if answer and form.accepts(answer)), None)


def write_objects(
    entries: Iterable[WrittenEntry],
    form: str,
    *,
    phrase: str = "object",
    box_key: str = "bbox_2d",
    point_key: str = "point_2d",
) -> str:
    """Write entries in a form; ``phrase`` labels those without a label of their own. No entries give ``[]``.

    Example:
        >>> write_objects([((1, 2, 3, 4), None)], "qwen_ref_box", phrase="cat")
        '<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>'
    """
    listed = [(place, phrase if label is None else label) for place, label in entries]
    return FORMS[form].write(listed, box_key=box_key, point_key=point_key) if listed else "[]"


def _by_label(entries: Sequence[tuple[Place, str]]) -> list[tuple[str, list[Place]]]:
    groups: list[tuple[str, list[Place]]] = []
    for place, label in entries:
        if groups and groups[-1][0] == label:
            groups[-1][1].append(place)
        else:
            groups.append((label, [place]))
    return groups


def check_box(x1: float, y1: float, x2: float, y2: float) -> str | None:
    """``inverted``, ``degenerate`` or None for a box with area."""
    if x2 > x1 and y2 > y1:
        return None
    return "inverted" if x2 < x1 or y2 < y1 else "degenerate"


def box_object(numbers: Sequence[str], label: str | None, span: tuple[int, int]) -> ParsedObject:
    """The entry of four numbers as written; one with inverted or equal corners keeps its place, with an issue."""
    x1, y1, x2, y2 = map(float, numbers)
    issue = check_box(x1, y1, x2, y2)
    return ParsedObject((x1, y1, x2, y2) if issue is None else None, None, label, span, issue)


def is_usable_number(value: object) -> bool:
    """Whether a value is a finite JSON number with at most six digits before the point; a bool is not."""
    return type(value) in (int, float) and -_LIMIT < value < _LIMIT


def _read_groups(
    pattern: re.Pattern[str], text: str, start: int, end: int, trim: str | None = None
) -> tuple[ParsedObject, ...] | None:
    """Groups of (phrase, box, four numbers), contiguous; a phrase holds until the next."""
    objects: list[ParsedObject] = []
    label: str | None = None
    pos = start
    while pos < end:
        found = pattern.match(text, pos, end)
        if found is None or len(objects) == MAX_ENTRIES:
            return None
        if found[1] is not None:
            label = found[1].strip(trim) or (label if trim else None)
        objects.append(box_object(found.group(3, 4, 5, 6), label, found.span(2)))
        pos = found.end()
    return tuple(objects) or None


def _is_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(is_usable_number, value))


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict):
        return _is_numbers(value, 4)
    places = [key for key in ("bbox_2d", "bbox", "box", "point_2d", "point") if key in value]
    return len(places) == 1 and _is_numbers(value[places[0]], 2 if "point" in places[0] else 4)
