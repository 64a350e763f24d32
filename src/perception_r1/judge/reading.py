"""From a judge model's text to verdicts. Nothing is invented: what cannot be read is missing (None).

Both forms of answer are read whatever was asked for: ``{"verdicts": [{"id", "verdict", "quote"}]}`` and
``<info1>1</info1>``. An id that is given two different verdicts has none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rapidfuzz import fuzz

from perception_r1.judge.base import Case, Verdicts

_WORDS = {"stated": 1.0, "absent": 0.0, "contradicted": -1.0, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
_INFO = re.compile(r"<info(\d{1,4})>\s*([^<]{0,20}?)\s*</info\1>")
_ENTRY = re.compile(r"\{[^{}]*\}")
_QUOTE_MATCH = 85.0
"""How alike a quote and a piece of the response must be, in percent: models change a blank or a dollar sign."""


def read_verdicts(text: str, case: Case, *, check_quotes: bool = True) -> Verdicts:
    """The verdicts in a judge model's answer.

    Args:
        text: what the model wrote.
        case: whose facts are numbered from 1.
        check_quotes: a fact counts as stated only if the quote that comes with it is in the response. Answers without
            the field (the terse form) are not checked; one that leaves all quotes empty has shown nothing.

    Returns:
        Scores with None for what is missing; ``failure`` when nothing at all could be read.
    """
    n = len(case.facts)
    found: dict[int, tuple[float, str | None]] = {}
    clashing: set[int] = set()
    for number, said, words in _entries(text):
        if 1 <= number <= n:
            if number in found and found[number][0] != said:
                clashing.add(number)
            found.setdefault(number, (said, words))
    if not found:
        return Verdicts(failure=f"the judge's answer holds no verdicts: {_short(text)}")
    quoted = check_quotes and any(quote is not None for _, quote in found.values())
    scores: list[float | None] = []
    quotes, contradicted = [], []
    for number in range(1, n + 1):
        score: float | None = None
        quote: str | None = None
        if number in found and number not in clashing:
            score, quote = found[number]
        contradicted.append(score == -1.0)
        if score is not None and score > 0 and quoted and not is_quoted(quote or "", case.response):
            score = 0.0
        scores.append(None if score is None else max(0.0, score))
        quotes.append(quote or "")
    return Verdicts(tuple(scores), tuple(contradicted), tuple(quotes))


def is_complete(verdicts: Verdicts) -> bool:
    """Whether there is a verdict on every fact."""
    return not verdicts.failure and None not in verdicts.scores


def is_quoted(quote: str, response: str) -> bool:
    """Whether a quote is (nearly) a piece of the response; blanks, case and LaTeX's brackets do not matter.

    Example:
        >>> is_quoted("$AB = 5$", "We see that AB=5 in the figure.")
        True
        >>> is_quoted("AB = 5", "AB is long")
        False
    """
    a, b = _bare(quote), _bare(response)
    if not a or not b:
        return False
    return a in b or (len(a) >= 6 and len(a) <= len(b) and fuzz.partial_ratio(a, b) >= _QUOTE_MATCH)


def _entries(text: str) -> Iterator[tuple[int, float, str | None]]:
    """(id, score, quote where one is given) of every entry; of a cut answer those before the cut."""
    document = _document(text)
    if isinstance(document, dict):
        document = document.get("verdicts", document)
    if isinstance(document, dict) and all(str(key).isdigit() for key in document):
        document = [{"id": key, "verdict": value} for key, value in document.items()]
    listed: Sequence[Any] = document if isinstance(document, list) else _pieces(text)
    for entry in listed:
        if isinstance(entry, dict):
            number, score = _id(entry.get("id")), _score(entry.get("verdict"))
            quote = entry.get("quote")
            if number is not None and score is not None:
                yield number, score, quote if isinstance(quote, str) else None
    for number_text, value in _INFO.findall(text):
        score = _score(value)
        if score is not None:
            yield int(number_text), score, None


def _document(text: str) -> Any:
    start = text.find("{")
    if start < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _pieces(text: str) -> list[Any]:
    pieces = []
    for match in _ENTRY.finditer(text):
        try:
            pieces.append(json.loads(match[0]))
        except ValueError:
            continue
    return pieces


def _id(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 5 else None


def _score(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        word = value.strip().strip("\"'.").lower()
        if word in _WORDS:
            return _WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1 else None


def _bare(text: str) -> str:
    return re.sub(r"[\s$\\{}()\[\]*`]+", "", text).lower()


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= 80 else one_line[:77] + "…")
