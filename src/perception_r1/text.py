"""Text: labels as they are compared, edit distance, repetition."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

_RULING = frozenset("-_=.*#~ ")


@lru_cache(maxsize=65536)
def normal_label(label: str) -> str:
    """A label as it is compared: case and runs of white space do not matter.

    Example:
        >>> normal_label("  Traffic   LIGHT ")
        'traffic light'
    """
    return " ".join(label.casefold().split())


def same_label(label: str | None, target: str) -> bool:
    """Whether a predicted label names the target's class; a missing label names none.

    Example:
        >>> same_label("Traffic  light", "traffic light"), same_label(None, "cat")
        (True, False)
    """
    return label is not None and normal_label(label) == normal_label(target)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance in characters: insertions, deletions and substitutions, each 1.

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    return Levenshtein.distance(a, b)


def edit_similarity(a: str, b: str) -> float:
    """``1 − distance / max(len)`` in [0, 1]; two empty texts are equal (1.0), one empty text gives 0.

    Example:
        >>> edit_similarity("abcd", "abce")
        0.75
    """
    longest = max(len(a), len(b))
    return 1.0 if not longest else 1.0 - Levenshtein.distance(a, b) / longest


def repeated_ngram_share(text: str, n: int, *, unit: Literal["word", "char"] = "word") -> float:
    """``1 − unique / total`` over the n-grams of the lower-cased text; 0.0 when it is shorter than n units.

    Characters are counted with every run of blanks as one, so that text without spaces (a loop such as ``ababab``, or
    Chinese) cannot hide.

    Example:
        >>> repeated_ngram_share("a b a b a", 2)
        0.5
    """
    words = text.lower().split()
    units = words if unit == "word" else list(" ".join(words))
    total = len(units) - n + 1
    if n < 1 or total < 1:
        return 0.0
    joiner = " " if unit == "word" else ""
    return 1.0 - len({joiner.join(units[i : i + n]) for i in range(total)}) / total


def repetition_penalty(text: str, n: int = 20) -> float:
    """``−2·(1 − unique/total)`` over lower-cased word n-grams, in (−2, 0]; 0 for fewer than n words.

    The published form of *Perception-R1* (visual perception reward); ``loop_share`` sees what escapes it.
    """
    share = repeated_ngram_share(text, n)
    return -2.0 * share if share else 0.0


def loop_share(text: str, *, max_period: int = 200, copies: int = 4, min_chars: int = 16) -> float:
    """Share of the characters that lie in a loop: a piece repeated at least ``copies`` times on end.

    Catches what word 20-grams miss: text without spaces and loops under 20 words. A loop covers at least ``min_chars``
    characters and its period is at most ``max_period``; lines drawn with ``-_=.*#~`` are layout, not loops.
    0.0 for an empty text.

    Example:
        >>> loop_share("the cat " * 8)
        1.0
    """
    squeezed = " ".join(text.lower().split())
    codes = np.frombuffer(squeezed.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    size = len(codes)
    if size < min_chars:
        return 0.0
    looping = np.zeros(size, dtype=bool)
    for period in range(1, min(max_period, (size + 1) // copies) + 1):
        same = codes[period:] == codes[:-period]
        edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
        firsts = edges[::2]
        spans = edges[1::2] - firsts + period
        # One less than the copies: the blank after the last one may have been squeezed away.
        long = spans >= max(copies * period - 1, min_chars)
        for first, span in zip(firsts[long].tolist(), spans[long].tolist(), strict=True):
            if not set(squeezed[first : first + period]) <= _RULING:
                looping[first : first + span] = True
    return float(looping.mean())
