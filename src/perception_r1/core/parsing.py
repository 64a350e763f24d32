"""From a completion's text to objects: one parser for every family, which only declares its coordinate frame.

``parse_objects`` reads boxes and points, ``parse_text`` plain text (OCR). Both never raise, never execute anything and
never invent a box; time is linear in the length of the text, whatever it holds. An entry that cannot be used keeps its
place with an ``issue`` (the codes are listed in ``core.entries``) and still counts as a prediction.

Fast paths read the well-formed answers of Qwen2-VL, InternVL and the JSON families with a pattern each; everything else
goes to the careful ``core.scanner``. A property test holds the two to exactly the same result.
"""

from __future__ import annotations

import json
import re
from typing import Literal, TypeAlias

from perception_r1.core.blocks import Answer, split_thinking
from perception_r1.core.entries import check_box, is_usable_number
from perception_r1.core.scanner import MAX_CHARS, MAX_ENTRIES, Scanner
from perception_r1.types import FinishReason, Parsed, ParsedObject, ParseStatus

__all__ = ["Form", "parse_objects", "parse_text", "split_thinking", "strict_form"]

Form: TypeAlias = Literal["qwen_ref_box", "stripped_ref_box", "json", "internvl", "empty"]

_N = r"-?(?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,12})?"
_PT = rf"\({_N},{_N}\)"
_REF = r"<\|object_ref_start\|>[^<]*+<\|object_ref_end\|>"
_S = r"[ \t\r\n]*+"
_FAST_QWEN = re.compile(
    r"(?:<\|object_ref_start\|>([^<]*+)<\|object_ref_end\|>)?<\|box_start\|>"
    rf"\(({_N}),({_N})\),\(({_N}),({_N})\)<\|box_end\|>"
)
_FAST_INTERNVL_HEAD = re.compile(r"(?:<ref>([^<]*+)</ref>)?<box>\[(?=\[)")
_FAST_INTERNVL = re.compile(rf"\[({_N}), ?({_N}), ?({_N}), ?({_N})\](?:, ?(?=\[)|(\]</box>))")
_FAST_STRIPPED = re.compile(rf"([^()\[\]{{}}<>\n.:;!?\"]{{0,200}}+)\(({_N}),({_N})\),\(({_N}),({_N})\)")
_FAST_HEAD = re.compile(rf"(?:```(?:json)?{_S})?(?:\[{_S})?(?=\{{)")
_FAST_JSON = re.compile(
    rf'\{{{_S}"bbox(?:_2d)?"{_S}:{_S}\[{_S}({_N}){_S},{_S}({_N}){_S},{_S}({_N}){_S},{_S}({_N}){_S}\]'
    rf'(?:{_S},{_S}"label"{_S}:{_S}"([^"\\\x00-\x1f]*+)")?{_S}\}}{_S}(,{_S}(?=\{{)|\]|\Z|(?=```))'
)
_FAST_TAIL = re.compile(rf"{_S}(?:```)?\Z")

_STRICT_QWEN = re.compile(rf"(?:(?:{_REF})?+(?:<\|box_start\|>{_PT}(?:,{_PT})*+<\|box_end\|>)++|{_REF})++")
_STRICT_STRIPPED = re.compile(rf"(?:[^()\[\]{{}}<>\n.:;!?\"]*+(?:{_PT}(?:,{_PT})?+)++)++")
_LIST4 = rf"\[{_N}(?:, ?{_N}){{3}}\]"
_STRICT_INTERNVL = re.compile(rf"(?:<ref>[^<]*+</ref><box>\[{_LIST4}(?:, ?{_LIST4})*+\]</box>)++")
_FENCE = re.compile(r"```(?:json)?[ \t]*+\r?\n?(.*?)```\Z", re.DOTALL)
_EMPTY = re.compile(
    r"\[\s*+\]|\{\s*+\}|\[\s*+\{\s*+\}\s*+\]|\[\s*+\[\s*+\]\s*+\]"
    r"|\{\s*+[\"'](?:objects|boxes|bboxes|detections|instances|results|points)[\"']\s*+:\s*+\[\s*+\]\s*+\}"
    r"|[\"']?(?:none|null|nothing|n/a|no (?:such )?(?:objects?|box(?:es)?|match(?:es)?)(?: (?:found|detected))?"
    r"|not found|there (?:is|are) (?:none|no such objects?|nothing)(?: in (?:the|this) image)?)[.!]?[\"']?",
    re.IGNORECASE,
)
_EMPTY_FENCE = re.compile(r"```(?:json)?\s*+(?:\[\s*+\]|\{\s*+\}|none|null)\s*+```", re.IGNORECASE)
_FOREIGN = re.compile(r"<loc[0-9]{4}>|<points? ")
_TEXT_FENCE = re.compile(r"```[A-Za-z]{0,12}[ \t]*+\r?\n(.*)\n[ \t]*+```\Z", re.DOTALL)
_OPEN_TEXT_FENCE = re.compile(r"```[A-Za-z]{0,12}[ \t]*+\r?\n")
_MAX_EMPTY = 80
_HARMLESS = frozenset({"inverted", "degenerate"})
"""Issues of the numbers' values, which leave the form intact."""


def parse_objects(text: str, *, finish_reason: FinishReason | None = None, thinking: bool = False) -> Parsed:
    """Read the boxes and points of a completion, in the model's own frame, in order of position.

    Args:
        text: the completion, with or without its special tokens.
        finish_reason: ``length`` when it was cut at the token limit. When it is not known (None) an answer that visibly
            breaks off is taken for cut.
        thinking: whether ``<think>`` and ``<answer>`` blocks were asked for.

    Returns:
        ``ok`` with at least one entry, usable or not; ``empty`` for an explicit "nothing there" (``[]``, ``None``, a
        Qwen phrase without boxes); ``malformed`` when nothing can be read; ``truncated`` when cut (entries before the
        cut are kept). ``format_ok`` is strict: see ``strict_form``. Numbers in prose are never entries.

    Example:
        >>> parse_objects("<|box_start|>(10,20),(30,40)<|box_end|><|im_end|>").objects[0].box_xyxy
        (10.0, 20.0, 30.0, 40.0)
    """
    answer = split_thinking(text, thinking=thinking)
    length = finish_reason == "length"
    start, end = answer.start, answer.end
    if answer.issues and start == end:
        return Parsed("truncated" if length else "malformed", issues=answer.issues)
    body = text[start:end]
    cut = length or (finish_reason is None and answer.cut)
    objects = _fast(text, start, end)
    if objects is not None:
        status: ParseStatus = "truncated" if cut else "ok"
        issues = answer.issues
        if any(found.issue for found in objects):
            issues += tuple(dict.fromkeys(found.issue for found in objects if found.issue))
        return Parsed(status, objects, body, answer.strict and not cut, issues)
    return _careful(text, body, answer, finish_reason, cut)


def _careful(text: str, body: str, answer: Answer, finish_reason: FinishReason | None, cut: bool) -> Parsed:
    """The general case; gives exactly what the fast paths give wherever they apply."""
    if len(body) <= _MAX_EMPTY and (_EMPTY.fullmatch(body) or _EMPTY_FENCE.fullmatch(body)):
        form = strict_form(body)
        return Parsed("truncated" if cut else "empty", (), body, answer.strict and not cut and form is not None)
    scan = Scanner(text, answer.start, answer.end, cut=cut).run()
    objects = tuple(entry.freeze() for entry in scan.entries)
    codes = dict.fromkeys(found.issue for found in objects if found.issue)
    issues = answer.issues + tuple(codes)
    if scan.excess is not None:
        issues += (scan.excess,)
    strict = answer.strict and not cut and scan.excess is None and codes.keys() <= _HARMLESS
    if objects:
        if scan.open and finish_reason is None:
            cut = True
        form = strict_form(body) if strict and not scan.open else None
        return Parsed("truncated" if cut else "ok", objects, body, not cut and form is not None, issues)
    if cut:
        return Parsed("truncated", (), body, False, issues)
    if scan.refs and _STRICT_QWEN.fullmatch(body):
        return Parsed("empty", (), body, strict, issues)
    if _EMPTY_FENCE.search(body):
        return Parsed("empty", (), body, False, issues)
    if _FOREIGN.search(body):
        issues += ("foreign",)
    return Parsed("malformed", (), body, False, issues)


def _fast(text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
    first = text[start : start + 1]
    if end - start > MAX_CHARS:
        return None
    if first == "<":
        internvl = text.startswith(("<ref>", "<box>"), start)
        return _fast_internvl(text, start, end) if internvl else _fast_qwen(text, start, end)
    if first and first in "[{`":
        return _fast_json(text, start, end)
    if start < end and text[end - 1] == ")":
        return _fast_stripped(text, start, end)
    return None


def _fast_stripped(text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
    """``phrase(x1,y1),(x2,y2)…``: Qwen's form as trainers decode it, without special tokens; None for the rest."""
    objects: list[ParsedObject] = []
    label: str | None = None
    pos = start
    match = _FAST_STRIPPED.match
    while pos < end:
        found = match(text, pos, end)
        if found is None or len(objects) == MAX_ENTRIES:
            return None
        phrase, a, b, c, d = found.groups()
        label = phrase.strip(" \t\r,;:") or label
        pos = found.end()
        objects.append(_box(float(a), float(b), float(c), float(d), label, (found.end(1), pos)))
    return tuple(objects) or None


def _box(x1: float, y1: float, x2: float, y2: float, label: str | None, span: tuple[int, int]) -> ParsedObject:
    if x2 > x1 and y2 > y1:
        return ParsedObject((x1, y1, x2, y2), None, label, span)
    return ParsedObject(None, None, label, span, check_box(x1, y1, x2, y2))


def _fast_qwen(text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
    """Box groups, contiguous and to the letter, one box a group; None for anything else."""
    objects: list[ParsedObject] = []
    label: str | None = None
    pos = start
    match = _FAST_QWEN.match
    while pos < end:
        found = match(text, pos, end)
        if found is None or len(objects) == MAX_ENTRIES:
            return None
        ref, a, b, c, d = found.groups()
        if ref is not None:
            label = ref.strip() or None
        pos = found.end()
        span = (found.start(2) - 1, pos - len("<|box_end|>"))
        objects.append(_box(float(a), float(b), float(c), float(d), label, span))
    return tuple(objects) or None


def _fast_internvl(text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
    """``<ref>…</ref><box>[[x1, y1, x2, y2], …]</box>`` groups, contiguous and to the letter; None for anything else."""
    objects: list[ParsedObject] = []
    label: str | None = None
    pos = start
    match = _FAST_INTERNVL.match
    while pos < end:
        head = _FAST_INTERNVL_HEAD.match(text, pos, end)
        if head is None:
            return None
        if head[1] is not None:
            label = head[1].strip() or None
        pos, closed = head.end(), None
        while closed is None:
            found = match(text, pos, end)
            if found is None or len(objects) == MAX_ENTRIES:
                return None
            a, b, c, d, closed = found.groups()
            objects.append(_box(float(a), float(b), float(c), float(d), label, (pos, text.index("]", pos) + 1)))
            pos = found.end()
    return tuple(objects) or None


def _fast_json(text: str, start: int, end: int) -> tuple[ParsedObject, ...] | None:
    """A strictly valid JSON list (or single object) of ``bbox_2d`` and ``label``, fenced or not; None for the rest."""
    head = _FAST_HEAD.match(text, start, end)
    if head is None:
        return None
    objects: list[ParsedObject] = []
    pos = head.end()
    match = _FAST_JSON.match
    while True:
        found = match(text, pos, end)
        if found is None or len(objects) == MAX_ENTRIES:
            return None
        a, b, c, d, label, after = found.groups()
        if label is not None:
            label = label.strip() or None
        span = (pos, text.rindex("}", pos, found.start(6)) + 1)
        objects.append(_box(float(a), float(b), float(c), float(d), label, span))
        pos = found.end()
        if after[:1] != ",":
            break
    tail = _FAST_TAIL.match(text, pos, end)
    listed = "[" in head.group()
    if tail is None or listed != (after == "]") or ("`" in head.group()) != ("`" in tail.group()):
        return None
    if not listed and len(objects) != 1:
        return None
    return tuple(objects)


def strict_form(answer: str) -> Form | None:
    """The known form that an answer keeps to the letter, with nothing before, between or after; None for any other.

    ``qwen_ref_box``: phrases and box groups (two corners, several, or points); ``stripped_ref_box``: the same without
    special tokens; ``internvl``; ``json``: a list of objects with ``bbox_2d``, ``bbox``, ``box``, ``point_2d`` or
    ``point`` (or of bare lists of four), or a single one, in a fence or not; ``empty``: ``[]``, in a fence or not.
    """
    answer = answer.strip()
    if not answer:
        return None
    if answer[0] == "<":
        if _STRICT_QWEN.fullmatch(answer):
            return "qwen_ref_box"
        return "internvl" if _STRICT_INTERNVL.fullmatch(answer) else None
    if answer[0] in "[{`":
        fence = _FENCE.match(answer)
        return _json_form(fence[1] if fence else answer)
    return "stripped_ref_box" if _STRICT_STRIPPED.fullmatch(answer) else None


def _json_form(body: str) -> Form | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if value == []:
        return "empty"
    if _is_numbers(value, 4) or isinstance(value, dict):
        value = [value]
    return "json" if isinstance(value, list) and all(map(_is_entry, value)) else None


def _is_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(is_usable_number, value))


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict):
        return _is_numbers(value, 4)
    places = [key for key in ("bbox_2d", "bbox", "box", "point_2d", "point") if key in value]
    return len(places) == 1 and _is_numbers(value[places[0]], 2 if "point" in places[0] else 4)


def parse_text(text: str, *, finish_reason: FinishReason | None = None, thinking: bool = False) -> Parsed:
    """Read a transcription (OCR): ``answer`` is the text without end tokens, blocks, outer fence and outer blanks.

    A blank answer is ``empty``; with ``thinking`` and without its blocks, ``malformed``; a cut one keeps its text.

    Example:
        >>> parse_text("Hello  world<|im_end|>").answer
        'Hello  world'
    """
    answer = split_thinking(text, thinking=thinking)
    cut = finish_reason == "length" or (finish_reason is None and answer.cut)
    body = text[answer.start : answer.end]
    if fence := _TEXT_FENCE.match(body):
        body = fence[1].strip()
    elif cut and (opened := _OPEN_TEXT_FENCE.match(body)):
        body = body[opened.end() :]
    if cut:
        return Parsed("truncated", (), body, False, answer.issues)
    if answer.issues and not body:
        return Parsed("malformed", issues=answer.issues)
    return Parsed("ok" if body else "empty", (), body, bool(body) and answer.strict, answer.issues)
