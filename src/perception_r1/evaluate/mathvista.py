"""MathVista's verdicts on saved responses, strictly: an extracted answer counts only if it says what is right.

The file is the one that MathVista's own scripts write (a response and its extraction a problem; Lu et al., ICLR 2024).
Its official scorer snaps any text to the choice at the smallest edit distance, so that free text ("no", "cannot be
told", a sentence) becomes one of the choices and may score. Here a choice must be named by its letter or its own words.
Numbers are compared as there: integers by their whole part, floats rounded to the problem's precision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_r1.data.fields import shown
from perception_r1.data.files import read_json
from perception_r1.errors import DataError

_LETTER = re.compile(r"^\(?([A-Z])\)?[.:)]?$")
_LETTERED = re.compile(r"^\(([A-Z])\)\s*(.+)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One problem: what was understood (None: nothing), whether it is right, and the file's own verdict."""

    pid: str
    prediction: str | None
    right: bool
    official: bool | None
    extraction: str
    answer: str
    snapped: bool
    """Whether the official scorer had to take the nearest choice for a text that matches none exactly."""


def strict_prediction(
    extraction: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str = "text",
    precision: float | None = None,
) -> str | None:
    """What an extracted answer says, in the form of MathVista's answers; None if it says nothing of the kind asked.

    Args:
        extraction: the final answer that was found in a response.
        choices: of a multiple-choice problem, in order.
        answer_type: "text", "integer", "float" or "list".
        precision: decimals of a float.

    Example:
        >>> strict_prediction("(B)", choices=["yes", "no"]), strict_prediction("nope", choices=["yes", "no"])
        ('no', None)
        >>> strict_prediction("1.249", answer_type="float", precision=1)
        '1.2'
    """
    text = extraction.strip()
    if choices is not None:
        return _choice(text, choices)
    if answer_type in ("integer", "float"):
        try:
            number = float(text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text) else text)
            return str(int(number)) if answer_type == "integer" else str(round(number, int(precision or 0)))
        except (ValueError, OverflowError):
            return None
    if answer_type == "list":
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            return None
        return str(value) if isinstance(value, list) else None
    return text or None


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Strict verdicts of a file of responses, in its order.

    Raises:
        DataError: naming file, problem and field.
    """
    path = Path(path)
    document = read_json(path)
    if not isinstance(document, dict) or not document:
        raise DataError("is not a file of MathVista's responses (expected an object by problem id)", path=path)
    return [_verdict(str(pid), row, path, number) for number, (pid, row) in enumerate(document.items(), start=1)]


def _verdict(pid: str, row: Any, path: Path, number: int) -> Verdict:
    if not isinstance(row, Mapping):
        raise DataError(f"problem {pid}: {shown(row)} is not an object", path=path, line=number)
    for field in ("answer", "answer_type", "question_type"):
        if not isinstance(row.get(field), str):
            raise DataError(f"problem {pid}: {shown(row.get(field))} is not text", path=path, line=number, field=field)
    extraction = str(row["extraction"] if row.get("extraction") is not None else row.get("response") or "")
    choices = row.get("choices") if row["question_type"] == "multi_choice" else None
    if choices is not None and not isinstance(choices, list):
        raise DataError(f"problem {pid}: {shown(choices)} is not a list", path=path, line=number, field="choices")
    prediction = strict_prediction(
        extraction, choices=choices, answer_type=row["answer_type"], precision=row.get("precision")
    )
    official = row.get("true_false")
    return Verdict(
        pid,
        prediction,
        prediction is not None and prediction == _gold(row),
        official if isinstance(official, bool) else None,
        extraction,
        row["answer"],
        choices is not None and prediction is None,
    )


def _gold(row: Mapping[str, Any]) -> str:
    """The answer in the form that predictions have ("1.20" is 1.2)."""
    if row["answer_type"] == "float":
        try:
            return str(round(float(row["answer"]), int(row.get("precision") or 0)))
        except ValueError:
            return str(row["answer"])
    return str(row["answer"])


def _choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a letter or the words of one name; a letter before the words must agree with them."""
    for choice in choices:
        if _same(text, choice):
            return choice
    letter = _LETTER.match(text)
    if letter:
        index = ord(letter[1]) - ord("A")
        return choices[index] if index < len(choices) else None
    lettered = _LETTERED.match(text)
    if lettered:
        index = ord(lettered[1]) - ord("A")
        return choices[index] if index < len(choices) and _same(lettered[2], choices[index]) else None
    return None


def _same(text: str, choice: str) -> bool:
    def plain(value: str) -> str:
        return " ".join(value.split()).strip(" .").casefold()

    return plain(text) == plain(choice)
