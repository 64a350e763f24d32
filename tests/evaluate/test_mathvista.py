from __future__ import annotations

import json

import pytest

from perception_r1.errors import DataError
from perception_r1.evaluate.mathvista import read_verdicts, strict_prediction


@pytest.mark.parametrize(
    ("text", "choices", "said"),
    [
        ("(B)", ["yes", "no"], "no"),
        ("B.", ["yes", "no"], "no"),
        ("No.", ["yes", "no"], "no"),
        ("(A) yes", ["yes", "no"], "yes"),
        ("(A) no", ["yes", "no"], None),  # letter and words disagree
        ("(C)", ["yes", "no"], None),
        ("not sure", ["yes", "no"], None),
        ("A", ["B", "A"], "A"),  # a choice's own words come before its letter
        ("(b)", ["(a)", "(b)"], "(b)"),
    ],
)
def test_choices(text, choices, said):
    assert strict_prediction(text, choices=choices) == said


@pytest.mark.parametrize(
    ("text", "kind", "precision", "said"),
    [
        ("14", "integer", None, "14"),
        ("14.0", "integer", None, "14"),
        ("1,400", "integer", None, "1400"),
        ("about 14", "integer", None, None),
        ("inf", "integer", None, None),
        ("1.26", "float", 1, "1.3"),
        ("[1, 2]", "list", None, "[1, 2]"),
        ("1, 2", "list", None, None),
        (" words ", "text", None, "words"),
        ("", "text", None, None),
    ],
)
def test_free_form(text, kind, precision, said):
    assert strict_prediction(text, answer_type=kind, precision=precision) == said


def test_official_verdicts_but_for_what_was_snapped(shared_data):
    """One model's 1,000 responses: all differences are texts that the official scorer took for the nearest choice."""
    verdicts = read_verdicts(shared_data / "geometry" / "mathvista_output_bard.json")
    assert len(verdicts) == 1000
    assert sum(bool(verdict.official) for verdict in verdicts) == 348
    different = {verdict.pid: verdict for verdict in verdicts if verdict.right != verdict.official}
    won_by_snapping = {"5", "228", "653", "688", "705", "740", "776", "821", "884"}
    # 849: choices are named "(a)" to "(d)"; the answer "(b)" is right, and was snapped to another of them.
    assert different.keys() == won_by_snapping | {"849"}
    assert all(different[pid].snapped and not different[pid].right for pid in won_by_snapping)
    assert different["653"].extraction.startswith("Sorry, I can't help")
    assert different["849"].right
    assert sum(verdict.right for verdict in verdicts) == 340


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is not a file of MathVista's responses"),
        ({"7": 3}, r":1: problem 7: 3 is not an object"),
        ({"7": {"answer": 3}}, r":1: field 'answer': problem 7: 3 is not text"),
        (
            {"7": {"answer": "a", "answer_type": "text", "question_type": "multi_choice", "choices": "ab"}},
            r":1: field 'choices': problem 7: \"ab\" is not a list",
        ),
    ],
)
def test_broken_files(tmp_path, document, message):
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        read_verdicts(tmp_path / "a.json")
