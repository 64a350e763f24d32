"""What must hold for any text at all: soundness, truncation anywhere, fast equals careful, linear time."""

from __future__ import annotations

import gc
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_r1.answers.formats import FORMS, MAX_CHARS, MAX_ENTRIES, Form
from perception_r1.answers.reader import parse_objects, parse_text
from perception_r1.types import Parsed

REF = "<|object_ref_start|>{}<|object_ref_end|>"
BOX = "<|box_start|>({},{}),({},{})<|box_end|>"


def boxes(parsed: Parsed) -> list[tuple[float, ...]]:
    return [found.box_xyxy for found in parsed.objects if found.box_xyxy is not None]


def points(parsed: Parsed) -> list[tuple[float, float]]:
    return [found.point_xy for found in parsed.objects if found.point_xy is not None]


def labels(parsed: Parsed) -> list[str | None]:
    return [found.label for found in parsed.objects]


# --- properties -----------------------------------------------------------------------------------------------------

NUMBER = st.one_of(st.integers(-5, 1200), st.floats(-5, 1200).map(lambda x: round(x, 3)))
WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PHRASE = st.from_regex(r"[a-z]{1,8}( [a-z']{1,8}){0,2}", fullmatch=True)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """A well-formed answer in a random known form."""
    rows = draw(
        st.lists(st.tuples(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), st.one_of(PHRASE, WORD)), min_size=1, max_size=5)
    )
    form = draw(
        st.sampled_from(
            ["qwen", "stripped", "points", "json", "fenced", "single", "lines", "lists", "internvl", "python"]
        )
    )
    if form == "qwen":
        return "".join(REF.format(w.replace("<", "")) + BOX.format(*b) for b, w in rows)
    if form == "stripped":
        return "".join(draw(PHRASE) + "({},{}),({},{})".format(*b) for b, _ in rows)
    if form == "points":
        return REF.format("x") + "".join("<|box_start|>({},{})<|box_end|>".format(*b[:2]) for b, _ in rows)
    if form == "internvl":
        if draw(st.booleans()):
            return f"<ref>{rows[0][1]}</ref><box>{[list(b) for b, _ in rows]}</box>"
        return "".join(f"<ref>{draw(PHRASE)}</ref><box>[{list(b)}]</box>" for b, _ in rows)
    if form == "lists":
        return json.dumps([b for b, _ in rows])
    entries = [{"bbox_2d": list(b), "label": w} for b, w in rows]
    if form == "python":
        return str(entries)
    if form == "single":
        return json.dumps(entries[0], ensure_ascii=draw(st.booleans()))
    if form == "lines":
        return "\n".join(map(json.dumps, entries))
    body = json.dumps(entries, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2, "\t"])))
    return f"```json\n{body}\n```" if form == "fenced" else body


PIECES = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ",",
        ":",
        '"',
        "'",
        "1",
        "23",
        "-4.5",
        "1e9",
        "bbox_2d",
        "label",
        '"bbox_2d": [1,2,3,4]',
        '{"bbox_2d": [1, 2, 3, 4], "label": "a"}',
        "{'bbox_2d': [1,2,3,4]}",
        '"label": "cat"',
        "box_2d",
        "(1,2)",
        "(1,2),(3,4)",
        "<|box_start|>",
        "<|box_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<ref>",
        "</ref>",
        "<box>",
        "</box>",
        " ",
        "\n",
        "\\",
        "```json\n",
        "```",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<|im_end|>",
        "none",
        "[]",
        "cat",
        "é",
        "point_2d",
        '"names": {"en": "x"}',
        "null",
        "[[1,2,3,4],[5,6,7,8]]",
        "\u00a0",
        "٣",
    ]
)
SOUP = st.lists(PIECES, max_size=25).map("".join)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(answers())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(PIECES, st.just(""))) + text[at + draw(st.integers(0, 3)) :]
    return text


ANYTHING = st.one_of(st.text(max_size=200), SOUP, answers(), mutated())
REASONS = st.sampled_from([None, "stop", "length"])


@settings(max_examples=400, deadline=None)
@given(ANYTHING, REASONS, st.booleans())
def test_never_raises_and_stays_sound(text: str, reason: str | None, thinking: bool) -> None:
    parsed = parse_objects(text, finish_reason=reason, thinking=thinking)  # type: ignore[arg-type]
    assert (parsed.status == "truncated") or reason != "length"
    if parsed.status in ("empty", "malformed"):
        assert parsed.objects == ()
    if parsed.status == "ok":
        assert parsed.objects
    assert parsed.answer in text
    numbers = {float(digits) for digits in re.findall(r"\d+\.?\d*|\.\d+", text, re.ASCII)}
    assert list(parsed.objects) == sorted(parsed.objects, key=lambda found: found.span[0])
    for found in parsed.objects:
        start, end = found.span
        assert 0 <= start < end <= len(text)
        assert (found.issue is None) != (found.box_xyxy is None and found.point_xy is None)
        if found.box_xyxy is not None:
            x1, y1, x2, y2 = found.box_xyxy
            assert x1 < x2 and y1 < y2
        for value in (*(found.box_xyxy or ()), *(found.point_xy or ())):
            assert abs(value) < 1e6
            assert "e" in text.lower() or abs(value) in numbers  # never invented
        if found.label is not None:
            found.label.encode()
    parse_text(text, finish_reason=reason, thinking=thinking)  # type: ignore[arg-type]


@settings(max_examples=600, deadline=None)
@given(ANYTHING, REASONS)
def test_strict_readers_equal_the_scanner(text: str, reason: str | None) -> None:
    parsed = parse_objects(text, finish_reason=reason)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        for form in FORMS.values():
            patch.setattr(type(form), "read", Form.read)
        assert parse_objects(text, finish_reason=reason) == parsed  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(answers())
def test_end_tokens_and_blanks_change_nothing(text: str) -> None:
    assert parse_objects(text + "<|im_end|>\n<|endoftext|>") == parse_objects(text)


def check_every_cut(text: str) -> None:
    whole = parse_objects(text, finish_reason="stop")
    for at in range(len(text)):
        cut = parse_objects(text[:at], finish_reason="length")
        assert cut.status == "truncated"
        intact = [found for found in whole.objects if found.span[1] < at]
        assert list(cut.objects[: len(intact)]) == intact, text[:at]
        assert len(cut.objects) <= len(intact) + 1
        assert len(boxes(cut)) <= len(boxes(whole)) and len(points(cut)) <= len(points(whole))
        unlabelled = [(found.box_xyxy, found.point_xy, found.issue) for found in whole.objects]
        for found in cut.objects:
            if found.issue is None:
                assert (found.box_xyxy, found.point_xy, None) in unlabelled, text[:at]


@settings(max_examples=60, deadline=None)
@given(answers())
def test_entries_before_a_cut_are_kept_and_none_invented(text: str) -> None:
    check_every_cut(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), PHRASE), min_size=1, max_size=6))
def test_json_answers_round_trip(rows: list[tuple[tuple[float, float, float, float], str]]) -> None:
    text = json.dumps([{"bbox_2d": list(box), "label": word} for box, word in rows])
    parsed = parse_objects(text)
    assert parsed.format_ok
    assert labels(parsed) == [word for _, word in rows]
    for found, (box, _) in zip(parsed.objects, rows, strict=True):
        assert found.box_xyxy == (box if box[0] < box[2] and box[1] < box[3] else None)


def test_real_outputs_cut_anywhere(shared_data: Path) -> None:
    lines = (shared_data / "model_outputs" / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    outputs = [json.loads(line) for line in lines]
    for row in outputs[:8] + outputs[14:16]:
        check_every_cut(str(row["text"]))


# --- hostile size ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "[",
    "{",
    "]",
    "}",
    "(",
    '"',
    "'",
    "\\",
    '\\"',
    "1",
    "1,",
    " ",
    "\n",
    "a ",
    "[]",
    "{}",
    "[{",
    "{[",
    "(1,2),(",
    "(1,2)",
    "(1,",
    "[1,",
    "[[1,2,3,4],",
    '{"',
    '{ "',
    '{"a":',
    '{"a":[',
    '{"label":"x","a":{',
    '{"bbox_2d":[',
    '{"bbox_2d":[1,2,3,4]},',
    '{"bbox_2d":[(1,2),',
    "<",
    "<|",
    "<ref>",
    "<box>",
    "<|object_ref_start|>",
    "<|box_start|>",
    "<|im_end|>",
    "<think>",
    "<answer>",
    "</think>",
    "```",
    "1,2,3,4\n",
    '{"x":"a" "',
    '["',
    "{a",
    "{a:",
    "no ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.process_time()
        parse_objects(text)
        parse_objects(text, thinking=True)
        return time.process_time() - start

    gc.collect()
    gc.disable()  # a collection of everything that pytest holds is not the parser's time
    try:
        small, large = (min(seconds(size) for _ in range(3)) for size in (6_000, 60_000))
    finally:
        gc.enable()
    assert large < 30 * max(small, 0.003)


@pytest.mark.parametrize("unit", ["[", "{", "9", "(1,2),(", "[]", '{"a":', '{"bbox_2d": [1, 2, 3, 4]}, '])
def test_a_megabyte_is_read_in_bounded_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    parsed = parse_objects(text)
    assert time.process_time() - start < 3  # about 0.3 s on an idle core
    assert len(parsed.objects) <= MAX_ENTRIES


def test_limits_are_reported() -> None:
    many = parse_objects("[1,2,3,4]" * (MAX_ENTRIES + 5))
    assert len(many.objects) == MAX_ENTRIES
    assert "too_many" in many.issues and not many.format_ok
    long = parse_objects("[1,2,3,4]" + " x" * MAX_CHARS + "[5,6,7,8]")
    assert boxes(long) == [(1, 2, 3, 4)]
    assert "too_long" in long.issues
