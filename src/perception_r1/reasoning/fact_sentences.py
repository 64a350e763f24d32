"""Facts that are no statement of geometry ("The bar for May is 30"), looked for by their words, names and numbers."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from perception_r1.reasoning.notation import normalise

Verdict: TypeAlias = Literal["stated", "absent", "contradicted"]

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[A-Z]+'?")
_SMALL_WORDS = """
a an the is are was be of in on at to and or that this it its as by with given shown has have there we can see from
which so figure diagram picture image
"""
_STOP = frozenset(_SMALL_WORDS.split())
_NEGATION = re.compile(r"\b(?:not|no|never|isn't|aren't|neither)\b|≠", re.I)
_MOST_GUESSES = 3
"""So many sentences may speak of what the fact speaks of, each with other numbers; more are guesses."""
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


def by_words(text: str, fact: str) -> Verdict:
    """Whether a sentence holds the fact: all its names and numbers and most of its words, negated where the fact is.

    ``contradicted``: a sentence of just these words says the opposite, or has other numbers, or more of them; or the
    numbers are guesses: a sentence has more numbers beside the fact's than it has other words, or more than
    `_MOST_GUESSES` sentences say something else of the same.

    Example:
        >>> by_words("We read that the bar for May is 30.", "The bar for May is 30")
        'stated'
        >>> by_words("The bar for May is 30. The bar for May is 31.", "The bar for May is 30")
        'contradicted'
    """
    wanted = _words(fact)
    if not wanted:
        return "absent"
    names = {word for word in wanted if not word.islower()}
    numbers = _numbers(wanted)
    about = wanted - numbers
    guesses: set[frozenset[str]] = set()
    stated = denied = False
    for sentence in _SENTENCE.split(normalise(text)):
        words = _words(sentence)
        said = _numbers(words)
        if numbers and about and about <= words and said and not numbers <= said:
            guesses.add(frozenset(said))
        listed = numbers < said and names <= words and len(said - numbers) > len(words - said - about)
        if numbers and said and ((said != numbers and words - said == about) or listed):
            denied = True
        elif names <= words and len(wanted & words) >= 0.8 * len(wanted):
            if bool(_NEGATION.search(sentence)) == bool(_NEGATION.search(fact)):
                stated = True
            else:
                denied = True
    return "contradicted" if denied or len(guesses) > _MOST_GUESSES else "stated" if stated else "absent"


def _words(text: str) -> set[str]:
    return {
        word if not word.islower() else word.rstrip("s")
        for word in _WORD.findall(normalise(text))
        if word not in _STOP and not _NEGATION.fullmatch(word)
    }


def _numbers(words: set[str]) -> set[str]:
    return {word for word in words if word[:1].isdigit()}
