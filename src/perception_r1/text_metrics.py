"""Text metrics of a page: edit distance, BLEU, METEOR, precision, recall and F1 on sets of tokens.

Source: the PageOCR protocol of Fox (Liu et al. 2024), as PR1 evaluates it: tokens are split at white space, or by jieba
when either text has CJK characters; precision, recall and F1 compare *sets* of tokens; a page at a time, then the mean.

METEOR's last stage needs WordNet, a download; here it always runs without synonyms (exact words, then Porter stems), so
that the figure does not depend on what a machine has installed. nltk's aligner compares every word with every
other; ours looks words up and gives the same alignment, which a test checks.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from perception_r1.text import edit_similarity

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def tokens(text: str, *, cjk: bool | None = None) -> list[str]:
    """Tokens of a text: jieba's (white space dropped) when it has CJK characters, else split at white space."""
    if cjk if cjk is not None else _CJK.search(text):
        return [token for token in _jieba().lcut(text) if token.strip()]
    return text.split()


def text_scores(answer: str, reference: str) -> dict[str, float]:
    """All figures of one page, each in [0, 1].

    ``edit_distance`` is Levenshtein / max(len) at character level (lower is better), ``edit_similarity`` its
    complement, the primary metric. Two empty texts score 1, one empty text 0 (edit distance 1): never an error.

    Example:
        >>> scores = text_scores("the cat", "the cat sat")
        >>> scores["precision"], round(scores["recall"], 3), scores["exact_match"]
        (1.0, 0.667, 0.0)
    """
    answer, reference = answer.strip(), reference.strip()
    cjk = bool(_CJK.search(answer) or _CJK.search(reference))
    hypothesis, target = tokens(answer, cjk=cjk), tokens(reference, cjk=cjk)
    similarity = edit_similarity(answer, reference)
    precision, recall, f1 = token_set_scores(hypothesis, target)
    return {
        "edit_similarity": similarity,
        "edit_distance": 1 - similarity,
        "exact_match": float(answer == reference),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "bleu": bleu(hypothesis, target),
        "meteor": meteor(hypothesis, target),
    }


def token_set_scores(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the two *sets* of tokens; both empty: 1, one empty: 0."""
    said, asked = set(hypothesis), set(reference)
    if not said or not asked:
        return (float(said == asked),) * 3
    both = len(said & asked)
    return both / len(said), both / len(asked), 2 * both / (len(said) + len(asked))


def bleu(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU-4 of nltk without smoothing (a text without a common 4-gram is about 0); both empty: 1, one empty: 0."""
    if not hypothesis or not reference:
        return float(not hypothesis and not reference)
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns of what the docstring says
        return float(sentence_bleu([list(reference)], list(hypothesis)))


def meteor(
    hypothesis: Sequence[str],
    reference: Sequence[str],
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
) -> float:
    """METEOR (Lavie and Agarwal 2007) with nltk's parameters, without synonyms; both empty: 1, one empty: 0."""
    if not hypothesis or not reference:
        return float(not hypothesis and not reference)
    pairs, left_h, left_r = _align(
        list(enumerate(token.lower() for token in hypothesis)), list(enumerate(token.lower() for token in reference))
    )
    stem = _stemmer()
    stemmed, _, _ = _align([(i, stem(token)) for i, token in left_h], [(j, stem(token)) for j, token in left_r])
    pairs = sorted(pairs + stemmed)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(hypothesis), len(pairs) / len(reference)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    chunks = 1 + sum(b[0] != a[0] + 1 or b[1] != a[1] + 1 for a, b in pairwise(pairs))
    penalty: float = gamma * (chunks / len(pairs)) ** beta
    return (1 - penalty) * mean


_Tokens = list[tuple[int, str]]


def _align(hypothesis: _Tokens, reference: _Tokens) -> tuple[list[tuple[int, int]], _Tokens, _Tokens]:
    """Pairs of equal tokens, from the end: each takes the last one free, as nltk does. And what is left of both."""
    free: dict[str, list[int]] = defaultdict(list)
    for j, token in reference:
        free[token].append(j)
    pairs, left = [], []
    for i, token in reversed(hypothesis):
        if free[token]:
            pairs.append((i, free[token].pop()))
        else:
            left.append((i, token))
    taken = {j for _, j in pairs}
    return pairs, left[::-1], [(j, token) for j, token in reference if j not in taken]


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return lru_cache(maxsize=100_000)(PorterStemmer().stem)


@lru_cache(maxsize=1)
def _jieba() -> Any:
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)  # it announces its dictionary on stderr otherwise
    return jieba
