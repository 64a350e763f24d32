"""The universal parser on hand-checked answers, real model output, and whatever hypothesis finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_r1.answers.reader import parse_objects, parse_text, split_thinking, strict_form
from perception_r1.types import Parsed

REF = "<|object_ref_start|>{}<|object_ref_end|>"
BOX = "<|box_start|>({},{}),({},{})<|box_end|>"


def boxes(parsed: Parsed) -> list[tuple[float, ...]]:
    return [found.box_xyxy for found in parsed.objects if found.box_xyxy is not None]


def points(parsed: Parsed) -> list[tuple[float, float]]:
    return [found.point_xy for found in parsed.objects if found.point_xy is not None]


def labels(parsed: Parsed) -> list[str | None]:
    return [found.label for found in parsed.objects]


def issues(parsed: Parsed) -> list[str | None]:
    return [found.issue for found in parsed.objects]


# --- forms ----------------------------------------------------------------------------------------------------------

QWEN = REF.format("the cat") + BOX.format(1, 2, 30, 40)
ONE = [(1, 2, 30, 40)]
TWO = [(1, 2, 30, 40), (5, 6, 70, 80)]


@pytest.mark.parametrize(
    ("text", "expected", "names", "strict"),
    [
        (QWEN, ONE, ["the cat"], True),
        (QWEN + "<|im_end|>", ONE, ["the cat"], True),
        (QWEN + "<|im_end|>\n<|endoftext|><|endoftext|> ", ONE, ["the cat"], True),
        (QWEN + BOX.format(5, 6, 70, 80), TWO, ["the cat", "the cat"], True),
        (QWEN + REF.format("dog") + BOX.format(5, 6, 70, 80), TWO, ["the cat", "dog"], True),
        (REF.format("cat") + "<|box_start|>(1,2),(30,40),(5,6),(70,80)<|box_end|>", TWO, ["cat", "cat"], True),
        (BOX.format(1, 2, 30, 40), ONE, [None], True),
        (REF.format("man (left), [x]") + BOX.format(1, 2, 30, 40), ONE, ["man (left), [x]"], True),
        ("<|object_ref_start|>cat<|box_start|>(1,2),(30,40)<|box_end|>", ONE, ["cat"], False),
        ("<|object_ref_start|>cat(1,2),(30,40)", ONE, ["cat"], False),
        (REF.format("cat") + "<|box_start|>(1, 2), (30, 40)<|box_end|>", ONE, ["cat"], False),
        (QWEN.replace("<|box_end|>", ""), ONE, ["the cat"], False),
        ("the cat(1,2),(30,40)", ONE, ["the cat"], True),
        ("cat(1,2),(30,40)(5,6),(70,80)", TWO, ["cat", "cat"], True),
        ("cat(1,2),(30,40),(5,6),(70,80)", TWO, ["cat", "cat"], True),
        ("cat(1,2),(30,40)dog(5,6),(70,80)", TWO, ["cat", "dog"], True),
        ("man (left)(1,2),(30,40)", ONE, ["man (left)"], False),
        ("(1,2),(30,40)", ONE, [None], True),
        ("Sure! The cat is here: (1, 2), (30, 40).", ONE, ["Sure! The cat is here"], False),
        ('[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]', ONE, ["cat"], True),
        ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]\n```', ONE, ["cat"], True),
        ('```\n[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]\n```', ONE, ["cat"], True),
        ('Here:\n```json\n[{"bbox_2d": [1,2,30,40], "label": "cat"}]\n```\nThere is 1.', ONE, ["cat"], False),
        ('```json\n[{"bbox_2d": [1,2,30,40]}]\n```\n```json\n[{"bbox_2d": [5,6,70,80]}]\n```', TWO, [None] * 2, False),
        ('{"bbox_2d": [1, 2, 30, 40], "label": "cat"}', ONE, ["cat"], True),
        ('{\n"bbox_2d": [1, 2, 30, 40]\n}', ONE, [None], True),
        ('{"label": "cat", "bbox_2d": [1, 2, 30, 40]}', ONE, ["cat"], True),
        ('{"bbox_2d": [1,2,30,40], "label": "a"}\n{"bbox_2d": [5,6,70,80], "label": "b"}', TWO, ["a", "b"], False),
        ("[{'bbox_2d': [1, 2, 30, 40], 'label': 'the man\\'s hat'}]", ONE, ["the man's hat"], False),
        ("[{'bbox_2d': [1, 2, 30, 40], 'label': 'the man's hat'}]", ONE, ["the man's hat"], False),
        ('[{"bbox_2d": [1, 2, 30, 40], "label": "5" screen"}]', ONE, ['5" screen'], False),
        ('[{"bbox_2d": [1, 2, 30, 40], "label": "a \\"b\\" \\u00e9"}]', ONE, ['a "b" é'], True),
        (
            '[{"bbox_2d": [1, 2, 30, 40], "label": "x (7,8),(9,10) [1,2,3,4] }"}]',
            ONE,
            ["x (7,8),(9,10) [1,2,3,4] }"],
            True,
        ),
        ("{bbox_2d: [1, 2, 30, 40], label: 'cat'}", ONE, ["cat"], False),
        ('[{"bbox": [1, 2, 30, 40], "name": "cat"}]', ONE, ["cat"], True),
        ('[{"box": [1, 2, 30, 40], "category": "cat"}]', ONE, ["cat"], True),
        ('[{"coordinates": [1, 2, 30, 40], "class": "cat"}]', ONE, ["cat"], False),
        ('[{"bbox_2d": [1, 2, 30, 40], "label": 7}]', ONE, ["7"], True),
        ('[{"bbox_2d": [1, 2, 30, 40], "names": {"zh": "猫", "en": "cat"}}]', ONE, ["cat"], True),
        ('[{"bbox_2d": [1, 2, 30, 40,], "label": "cat",},]', ONE, ["cat"], False),
        ('[{\n{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]', ONE, ["cat"], False),
        ('[{"bbox_2d": [1,2,30,40], "label": "a", {"bbox_2d": [5,6,70,80], "label": "b"}]', TWO, ["a", "b"], False),
        ('[{"bbox_2d": [1,2,30,40], "label": "a"}{"bbox_2d": [5,6,70,80], "label": "b"}]', TWO, ["a", "b"], False),
        ('[{"bbox_2d": [1,2,30,40], "label": "a}, {"bbox_2d": [5,6,70,80], "label": "b"}]', TWO, [None, "b"], False),
        ('{"objects": [{"bbox_2d": [1,2,30,40]}, {"bbox_2d": [5,6,70,80]}], "label": "c"}', TWO, ["c", "c"], False),
        ('{"label": "cat", "boxes": [[1,2,30,40],[5,6,70,80]]}', TWO, ["cat", "cat"], False),
        ('{"name": "zoom", "arguments": {"bbox_2d": [1,2,30,40], "label": "sign"}}', ONE, ["sign"], False),
        ('"bbox_2d": [1, 2, 30, 40]', ONE, [None], False),
        ("[1, 2, 30, 40]", ONE, [None], True),
        ("The box is [1, 2, 30, 40].", ONE, [None], False),
        ("[[1, 2, 30, 40], [5, 6, 70, 80]]", TWO, [None, None], True),
        ("[1, 2, 30, 40]\n[5, 6, 70, 80]", TWO, [None, None], False),
        ("1,2,30,40", ONE, [None], False),
        ("1,2,30,40 cats\n5, 6, 70, 80 big dogs\n", TWO, ["cats", "big dogs"], False),
        ("<ref>cat</ref><box>[[1, 2, 30, 40]]</box>", ONE, ["cat"], True),
        ("<ref>cat</ref><box>[[1, 2, 30, 40], [5, 6, 70, 80]]</box>", TWO, ["cat", "cat"], True),
        ("<ref>cat</ref><box>(1,2),(30,40)</box>", ONE, ["cat"], False),
        ("<ref>a <| b </i> c</ref><box>[[1, 2, 30, 40]]</box>", ONE, ["a <| b </i> c"], False),
        ("<|ref|>cat<|/ref|><|det|>[[1, 2, 30, 40]]<|/det|>", ONE, ["cat"], False),
        ("[-1.5, 2, 30.25, 4e1]", [(-1.5, 2, 30.25, 40)], [None], True),
        ("[0.1, .2, 0.30, 0.4]", [(0.1, 0.2, 0.3, 0.4)], [None], False),
        ("<answer>[1, 2, 30, 40]</answer>", ONE, [None], False),
        ("[]\n" + QWEN, ONE, ["the cat"], False),
        ('[] [{"bbox_2d": [1, 2, 30, 40]}]', ONE, [None], False),
    ],
)
def test_forms(text: str, expected: list[tuple[int, ...]], names: list[str | None], strict: bool) -> None:
    parsed = parse_objects(text, finish_reason="stop")
    assert parsed.status == "ok"
    assert boxes(parsed) == expected
    assert labels(parsed) == names
    assert parsed.format_ok is strict
    assert parsed.issues == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REF.format("cat") + "<|box_start|>(1,2)<|box_end|><|box_start|>(3,4)<|box_end|>", [(1, 2), (3, 4)]),
        ("cat(1,2)(3,4)", [(1, 2), (3, 4)]),
        ('[{"point_2d": [1, 2], "label": "a"}, {"point_2d": [3, 4]}]', [(1, 2), (3, 4)]),
        ('{"points": [[1, 2], [3, 4]]}', [(1, 2), (3, 4)]),
        ("[[1, 2], [3, 4]]", [(1, 2), (3, 4)]),
        ("{'points': [(1, 2), (3, 4)]}", [(1, 2), (3, 4)]),
        ('[{"bbox_2d": [1, 2, 30, 40], "point_2d": [3, 4]}]', [(3, 4)]),
    ],
)
def test_points(text: str, expected: list[tuple[int, int]]) -> None:
    assert points(parse_objects(text)) == expected


def test_spans_are_places_in_the_full_text() -> None:
    text = 'ok ```json\n[{"bbox_2d": [1,2,3,4]}, {"label": "é", "bbox_2d": [1,2,3,9]}]``` and (5,6),(7,8) or [1,2,8,9]'
    found = [text[slice(*item.span)] for item in parse_objects(text).objects]
    assert found == ['{"bbox_2d": [1,2,3,4]}', '{"label": "é", "bbox_2d": [1,2,3,9]}', "(5,6),(7,8)", "[1,2,8,9]"]
    thought = "<think>[9,9,10,10]</think><answer> [1,2,3,4]</answer>"
    (item,) = parse_objects(thought, thinking=True).objects
    assert thought[slice(*item.span)] == "[1,2,3,4]"


# --- entries that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("[30, 2, 1, 40]", "inverted"),
        ("[1, 40, 30, 2]", "inverted"),
        ("[1, 2, 1, 40]", "degenerate"),
        ("[0, 0, 0, 0]", "degenerate"),
        ("[1, 2, 3]", "numbers"),
        ("[1, 2, 3, 4, 5]", "numbers"),
        ("[1, 2]", "numbers"),
        ("[]", "numbers"),
        ("null", "numbers"),
        ("[1, 2, NaN, 4]", "non_numeric"),
        ("[1, 2, Infinity, 4]", "non_numeric"),
        ("[1, 2, x2, 4]", "non_numeric"),
        ("[1, 2 30, 40]", "non_numeric"),
        ("[1,, 30, 40]", "non_numeric"),
        ('["1", "2", "30", "40"]', "non_numeric"),
        ('"1,2,30,40"', "non_numeric"),
        ("[__import__('os'), 2, 3, 4]", "non_numeric"),
        ('{"x1": 1, "y1": 2}', "non_numeric"),
        ("[1, 2, 3, 1234567]", "runaway"),
        (f"[1, 2, 3, {'9' * 500}]", "runaway"),
        ("[1, 2, 3, 1e999]", "runaway"),
        (f"[1, 2, 3, 0.{'3' * 500}]", "runaway"),
        ("[1, 2, 30, 40", "unclosed"),
    ],
)
def test_a_bad_entry_is_lost_alone(entry: str, code: str) -> None:
    good = '{{"bbox_2d": [5, 6, 70, 80], "label": "{}"}}'
    text = f'[{good.format("a")}, {{"bbox_2d": {entry}, "label": "bad"}}, {good.format("b")}]'
    parsed = parse_objects(text, finish_reason="stop")
    assert issues(parsed) == [None, code, None]
    assert boxes(parsed) == [(5, 6, 70, 80)] * 2
    assert parsed.objects[1].box_xyxy is None and parsed.objects[1].point_xy is None
    assert labels(parsed) == ["a", "bad", "b"]
    assert parsed.issues == (code,)
    assert parsed.format_ok is (code in ("inverted", "degenerate"))


@pytest.mark.parametrize(
    ("group", "code"),
    [
        ("(30,2),(1,40)", "inverted"),
        ("(1,2),(1,2)", "degenerate"),
        ("(1,2,3),(4,5)", "numbers"),
        ("(1),(4,5)", "numbers"),
        ("(1,2),(3,4),(5,6)", "numbers"),
        ("", "numbers"),
        ("somewhere", "numbers"),
        ("(1,x),(3,4)", "non_numeric"),
        ("(a,b),(c,d)", "non_numeric"),
        ("(1,2),(3,99999999)", "runaway"),
    ],
)
def test_a_bad_group_is_lost_alone(group: str, code: str) -> None:
    text = REF.format("x") + BOX.format(5, 6, 70, 80) + f"<|box_start|>{group}<|box_end|>" + BOX.format(5, 6, 70, 80)
    parsed = parse_objects(text, finish_reason="stop")
    assert boxes(parsed)[0] == boxes(parsed)[-1] == (5, 6, 70, 80)
    assert [found for found in issues(parsed) if found] == [code]
    assert points(parsed) == []


def test_an_object_without_coordinates_counts() -> None:
    parsed = parse_objects('[{"label": "cat"}, {"bbox_2d": [1, 2, 3, 4], "label": "dog"}]')
    assert issues(parsed) == ["missing", None]
    assert labels(parsed) == ["cat", "dog"]


def test_geminis_order_is_named_not_misread() -> None:
    for text in ('[{"box_2d": [599, 339, 725, 395], "label": "tail"}]', '"box_2d": [599, 339, 725, 395]'):
        parsed = parse_objects(text)
        assert issues(parsed) == ["yxyx"]
        assert boxes(parsed) == []


# --- empty, malformed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[ ]",
        "{}",
        "[{}]",
        "[[]]",
        "```json\n[]\n```",
        "```\n[]\n```",
        "```json\nnull\n```",
        "none",
        "None.",
        "null",
        "There are none.",
        "there is none",
        "No objects found.",
        "[]<|im_end|>",
        ' {"objects": []} ',
        "There is no cat here.\n```json\n[]\n```",
        REF.format("cat"),
        REF.format("cat") + "<|im_end|>",
    ],
)
def test_explicitly_empty(text: str) -> None:
    assert parse_objects(text).status == "empty"
    assert parse_objects(text, finish_reason="stop").objects == ()
    assert parse_objects(f"<think>x</think><answer>{text}</answer>", thinking=True).status == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "<|im_end|>",
        "There are 12 items in the image.",
        "I see 3 cats, 4 dogs, 5 birds and 6 fish.",
        "On 12, 13, 14, 15 May",
        "<garbage",
        "{",
        "[",
        "garbage [] garbage",
        "[ANSWER]",
        "see [1] and (2)",
        "(12 items)",
        "2 (two), 3 (three)",
        "(a), (b)",
        "<think>",
        '{"answer": 5}',
        "1, 2, 3",
        "1,000,000",
        "\\boxed{12}",
        "There are no cats in this picture but [] could be",
        '<points x1="32.0" y1="62.8" alt="a">a</points>',
    ],
)
def test_malformed(text: str) -> None:
    parsed = parse_objects(text)
    assert (parsed.status, parsed.objects, parsed.format_ok) == ("malformed", (), False)


def test_length_is_truncated_whatever_was_read() -> None:
    for text in ("", "[]", "prose", QWEN, '[{"bbox_2d": [1,2,3,4]}]', "[[1,2,3,4],"):
        parsed = parse_objects(text, finish_reason="length")
        assert parsed.status == "truncated"
        assert not parsed.format_ok


# --- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "codes"),
    [
        ('[{"bbox_2d": [1,2,30,40], "label": "a"}, {"bbox_2d": [5,6,7', ONE, [None, "truncated"]),
        ('[{"bbox_2d": [1,2,30,40], "label": "a"}, {"bbox_2d":', ONE, [None, "truncated"]),
        ('[{"bbox_2d": [1,2,30,40], "label": "a"}, {"bb', ONE, [None]),
        ('[{"label": "a", "bbox_2d": [1,2,30,40]}, {"label": "b"', ONE, [None, "truncated"]),
        ('[{"bbox_2d": [1,2,30,40], "label": "a"}, ', ONE, [None]),
        ('[{"bbox_2d": [1,2,30,40], "label": "a', ONE, [None]),  # the box is whole, its label is not
        ("[[1,2,30,40],[5,6", ONE, [None, "truncated"]),
        ("[1,2,30,4", [], ["truncated"]),
        (BOX.format(1, 2, 30, 40) + "<|box_start|>(5,6),(7", ONE, [None, "truncated"]),
        (BOX.format(1, 2, 30, 40) + "<|box_start|>(5,6)", ONE, [None, "truncated"]),
        (BOX.format(1, 2, 30, 40) + "<|box_start|>", ONE, [None, "truncated"]),
        (BOX.format(1, 2, 30, 40) + "<|box_st", ONE, [None]),
        ("cat(1,2),(30,40)(5,6),", ONE, [None, "truncated"]),
        ("cat(1,2),(30,40)(5,6),(7", ONE, [None, "truncated"]),
        ("cat(1,2),(30,40)(5", ONE, [None, "truncated"]),
        ("<ref>a</ref><box>[[1,2,30,40],[5,", ONE, [None, "truncated"]),
    ],
)
def test_cut_entries_are_flagged_and_the_rest_kept(text: str, expected: list[object], codes: list[str | None]) -> None:
    for reason in ("length", None):
        parsed = parse_objects(text, finish_reason=reason)
        assert parsed.status == "truncated"
        assert boxes(parsed) == expected
        assert points(parsed) == []
        assert issues(parsed) == codes
    assert parse_objects(text, finish_reason="stop").status == "ok"


def test_a_cut_label_is_not_reported() -> None:
    assert labels(parse_objects('[{"bbox_2d": [1,2,3,4], "label": "ca', finish_reason="length")) == [None]
    assert labels(parse_objects("1,2,3,4 cats", finish_reason="length")) == [None]


def test_a_bare_number_at_the_cut_may_go_on() -> None:
    assert boxes(parse_objects("1,2,30,40")) == ONE
    assert issues(parse_objects("1,2,30,40", finish_reason="length")) == ["truncated"]
    assert points(parse_objects("cat(1,2)")) == [(1, 2)]
    assert issues(parse_objects("cat(1,2)", finish_reason="length")) == ["truncated"]


# --- thinking -------------------------------------------------------------------------------------------------------


def test_only_the_answer_block_counts() -> None:
    text = f"<think>maybe {BOX.format(9, 9, 99, 99)} or [1,1,9,9]</think>\n<answer>\n{QWEN}\n</answer><|im_end|>"
    parsed = parse_objects(text, thinking=True)
    assert boxes(parsed) == ONE
    assert parsed.answer == QWEN
    assert parsed.format_ok


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{q}", "think_missing"),
        ("<answer>{q}</answer>", "think_missing"),
        ("<think>a</think>{q}", "answer_missing"),
        ("<think>a{q}", "think_unclosed"),
        ("<think>a<answer>{q}</answer>", "think_unclosed"),
        ("<think>a</think><think>b</think><answer>{q}</answer>", "think_duplicate"),
        ("<think>a</think><answer>{q}</answer><answer>{q}</answer>", "answer_duplicate"),
        ("<answer>{q}</answer><think>a</think>", "blocks_order"),
        ("<think>a<answer>{q}</answer></think>", "blocks_order"),
        ("<think>a</think></answer>{q}<answer>", "blocks_order"),
    ],
)
def test_missing_or_duplicate_blocks_are_malformed(text: str, reason: str) -> None:
    parsed = parse_objects(text.format(q=QWEN), thinking=True, finish_reason="stop")
    assert (parsed.status, parsed.objects, parsed.issues) == ("malformed", (), (reason,))
    assert parse_objects(text.format(q=QWEN), thinking=True, finish_reason="length").status == "truncated"


def test_text_round_the_blocks_breaks_the_format_only() -> None:
    parsed = parse_objects(f"Hm. <think>a</think> so <answer>{QWEN}</answer>", thinking=True)
    assert boxes(parsed) == ONE
    assert not parsed.format_ok


def test_an_answer_block_cut_short_keeps_its_entries() -> None:
    text = "<think>a</think><answer>[[1,2,30,40],[5,"
    parsed = parse_objects(text, thinking=True, finish_reason="length")
    assert (parsed.status, boxes(parsed), issues(parsed)) == ("truncated", ONE, [None, "truncated"])
    assert "answer_unclosed" in parsed.issues
    assert parse_objects("<think>[1,2,3,4]", thinking=True, finish_reason="length").objects == ()


def test_unasked_thinking_in_front_is_skipped() -> None:
    for text in (
        f"<think>[9,9,99,99]</think>\n{QWEN}",
        f"[9,9,99,99]</think>{QWEN}",
        f"<think></think><answer>{QWEN}</answer>",
    ):
        parsed = parse_objects(text)
        assert boxes(parsed) == ONE
        assert not parsed.format_ok
    assert parse_objects(f"<think>{QWEN}").status == "malformed"
    assert split_thinking(f"<think>a</think>{QWEN}", thinking=False).start == 16


# --- what broke in the references -----------------------------------------------------------------------------------


def test_garbage_after_a_bracket_has_no_format() -> None:
    assert not parse_objects("<garbage").format_ok
    assert strict_form("<garbage") is None
    assert strict_form(QWEN + "|") is None


def test_nothing_is_ever_executed(tmp_path: Path) -> None:
    victim = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(victim)!r}).touch()"
    for text in (
        code,
        f"[{code}]",
        f'[{{"bbox_2d": {code}, "label": "x"}}]',
        f"[{code}, 2, 3, 4]",
        f"({code},2),(3,4)",
    ):
        assert boxes(parse_objects(text)) == []
    assert not victim.exists()


def test_degenerate_and_inverted_boxes_have_a_reason() -> None:
    assert issues(parse_objects("[5,5,5,5]")) == ["degenerate"]
    assert issues(parse_objects("[9,9,5,5]")) == ["inverted"]


def test_a_box_without_special_tokens_reads_as_with_them() -> None:
    with_tokens = REF.format("cat") + BOX.format(1, 2, 30, 40) + BOX.format(5, 6, 70, 80)
    bare = "cat(1,2),(30,40)(5,6),(70,80)"
    assert boxes(parse_objects(with_tokens)) == boxes(parse_objects(bare)) == TWO
    assert labels(parse_objects(with_tokens)) == labels(parse_objects(bare))


def test_an_object_free_image_has_an_empty_answer() -> None:
    assert parse_objects("[]").status == "empty"
    assert parse_objects("[]").format_ok
    assert parse_objects("").status == "malformed"


def test_unit_boxes_survive() -> None:
    assert boxes(parse_objects('[{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}]')) == [(0.1, 0.2, 0.3, 0.4)]


# --- real model output ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(shared_data: Path) -> list[dict[str, object]]:
    lines = (shared_data / "model_outputs" / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_real_outputs_have_the_boxes_counted_by_hand(outputs: list[dict[str, object]]) -> None:
    checked = [row for row in outputs if "expect_boxes" in row]
    assert len(checked) == 8
    for row in checked:
        assert len(boxes(parse_objects(str(row["text"])))) == row["expect_boxes"], row["text"]


def test_real_outputs_have_the_coordinates_read_by_hand(outputs: list[dict[str, object]]) -> None:
    read = [parse_objects(str(row["text"])) for row in outputs]
    assert boxes(read[0])[0] == (139, 768, 315, 954) and boxes(read[0])[-1] == (69, 408, 212, 593)
    assert boxes(read[2]) == [(1098, 1304, 1576, 1900)]
    assert labels(read[5])[6] == "lifebuoy" and read[5].status == "ok"
    assert (boxes(read[6]), labels(read[6])) == ([(43, 378, 996, 957)], ["cakes"])
    assert boxes(read[7]) == [(135, 114, 1016, 672)]
    for i in (8, 9, 11, 12, 13):  # PaliGemma and Molmo: another language, named as such
        assert (read[i].status, read[i].issues) == ("malformed", ("foreign",))
    assert issues(read[10]) == ["yxyx"]
    assert len(boxes(read[14])) == 7 and labels(read[14])[3] == "Orange Slices"
    assert len(boxes(read[15])) == 9 and labels(read[15])[5] == "Obanai Iguro"  # invalid JSON: a stray brace
    assert boxes(read[15])[5] == (649, 116, 794, 643) and not read[15].format_ok
    assert points(read[16]) == [(925, 618)]
    assert [boxes(parsed) for parsed in read[17:]] == [
        [(574, 301, 660, 468)],
        [(174, 450, 469, 658)],
        [(584, 496, 651, 660)],
        [(231, 795, 284, 820)],
        [(395, 276, 618, 740)],
    ]


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Hello  (1,2)\nworld<|im_end|>", "Hello  (1,2)\nworld"),
        ("```\nline one\nline two\n```", "line one\nline two"),
        ("```markdown\n# A\n```</s>", "# A"),
        ("a ```code``` b", "a ```code``` b"),
        ("<think>hm</think>\nHello", "Hello"),
        ("日本語<|endoftext|><|endoftext|>", "日本語"),
        ("a < b <|im_start|>", "a < b <|im_start|>"),
    ],
)
def test_text_answers(text: str, answer: str) -> None:
    parsed = parse_text(text)
    assert (parsed.status, parsed.answer) == ("ok", answer)


def test_text_status() -> None:
    assert parse_text(" <|im_end|>").status == "empty"
    assert parse_text("```\n\n```").status == "empty"
    assert parse_text("Hel", finish_reason="length") == Parsed("truncated", (), "Hel", False)
    assert parse_text("```text\nHel", finish_reason="length").answer == "Hel"
    assert parse_text("<think>a</think><answer> Hi </answer>", thinking=True) == Parsed("ok", (), "Hi", True)
    assert parse_text("Hi", thinking=True) == Parsed("malformed", issues=("think_missing",))
    assert parse_text("<think>a</think><answer></answer>", thinking=True).status == "empty"
    assert parse_text("<think>Hi", finish_reason="length").answer == ""
