"""A judge model's text into verdicts: two forms, cut answers, clashes, quotes that were never said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.judge import Case
from perception_r1.judge.reading import is_complete, is_quoted, read_verdicts

CASE = Case(("AB = 5", "AB ∥ CD", "∠ABC = 40°"), "We see AB = 5 and that $AB \\parallel CD$.")


def entry(number: int, verdict: str, quote: str = "") -> dict[str, object]:
    return {"id": number, "verdict": verdict, "quote": quote}


def test_json() -> None:
    text = json.dumps({"verdicts": [entry(1, "stated", "AB = 5"), entry(2, "contradicted", "AB"), entry(3, "absent")]})
    found = read_verdicts(f"Sure:\n```json\n{text}\n```", CASE)
    assert found.scores == (1.0, 0.0, 0.0)
    assert found.contradicted == (False, True, False)
    assert found.quotes == ("AB = 5", "AB", "")
    assert is_complete(found)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("<info1>1</info1>, <info2>0</info2>, <info3>0.6</info3>", (1.0, 0.0, 0.6)),
        ("<info1>1</info1>\n<info3>1</info3>", (1.0, None, 1.0)),  # a missing one stays missing
        ('{"1": "stated", "2": "absent", "3": "absent"}', (1.0, 0.0, 0.0)),
        ('[{"id": "2", "verdict": true}]', (None, 1.0, None)),
        ("<info1>1</info1><info1>0</info1><info2>1</info2>", (None, 1.0, None)),  # two minds about one fact
        ("<info7>1</info7><info1>7</info1><info2>1</info2>", (None, 1.0, None)),
    ],
)
def test_other_forms(text: str, scores: tuple[float | None, ...]) -> None:
    assert read_verdicts(text, CASE).scores == scores


def test_a_cut_answer_keeps_what_came_before_the_cut() -> None:
    text = json.dumps({"verdicts": [entry(1, "stated", "AB = 5"), entry(2, "absent"), entry(3, "absent")]})
    found = read_verdicts(text[: text.index('"id": 3') + 3], CASE)
    assert found.scores == (1.0, 0.0, None)
    assert not is_complete(found)


@pytest.mark.parametrize("text", ["", "I think so.", "{", '{"verdicts": []}', '{"verdicts": 3}', "null", "[[[[" * 3000])
def test_no_verdicts_is_a_failure_and_no_zero(text: str) -> None:
    found = read_verdicts(text, CASE)
    assert found.failure.startswith("the judge's answer holds no verdicts")
    assert found.scores == ()


def test_a_quote_that_was_never_said_does_not_count() -> None:
    text = json.dumps(
        {
            "verdicts": [
                entry(1, "stated", "AB = 5"),
                entry(2, "stated", "the lines are parallel, I know"),
                entry(3, "stated", ""),
            ]
        }
    )
    assert read_verdicts(text, CASE).scores == (1.0, 0.0, 0.0)
    assert read_verdicts(text, CASE, check_quotes=False).scores == (1.0, 1.0, 1.0)
    # a judge that was talked into saying yes cannot get round it by leaving all quotes empty
    text = json.dumps({"verdicts": [entry(n, "stated", "") for n in (1, 2, 3)]})
    assert read_verdicts(text, CASE).scores == (0.0, 0.0, 0.0)


def test_quotes_may_differ_in_blanks_and_brackets() -> None:
    assert is_quoted("$AB \\parallel CD$", CASE.response)
    assert is_quoted("and that AB \\parallel CD", CASE.response)
    assert not is_quoted("AB = 6", CASE.response)
    assert not is_quoted("", CASE.response)


@given(st.text(max_size=200))
def test_never_raises(text: str) -> None:
    found = read_verdicts(text, CASE)
    assert found.failure or len(found.scores) == 3
