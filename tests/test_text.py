from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.text import (
    edit_distance,
    edit_similarity,
    loop_share,
    repeated_ngram_share,
    repetition_penalty,
)


def reference_distance(a: str, b: str) -> int:
    """The textbook dynamic programme."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_distance_equals_the_textbook(a: str, b: str) -> None:
    assert edit_distance(a, b) == reference_distance(a, b)
    assert 0.0 <= edit_similarity(a, b) <= 1.0
    assert edit_similarity(a, b) == edit_similarity(b, a)


def test_similarity_by_hand() -> None:
    assert edit_similarity("", "") == 1.0
    assert edit_similarity("", "abc") == 0.0
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("x" * 5000, "x" * 5000) == 1.0  # nltk refuses over 2,000 characters
    assert edit_similarity("日本語", "日本人") == pytest.approx(2 / 3)


def test_penalty_is_the_published_form() -> None:
    words = [f"w{i}" for i in range(25)]
    assert repetition_penalty(" ".join(words)) == 0.0
    assert repetition_penalty(" ".join(words[:19])) == 0.0
    assert repetition_penalty("") == 0.0
    # 40 times one word: 21 20-grams, one of them unique
    assert repetition_penalty("Loop " * 40) == pytest.approx(-2 * (1 - 1 / 21))
    # a block of 25 words, twice: 31 20-grams, 25 unique (the blocks' seam makes 25 rotations)
    assert repetition_penalty(" ".join(words * 2)) == pytest.approx(-2 * (1 - 25 / 31))
    assert repetition_penalty("a b A B a", n=2) == pytest.approx(-2 * (1 - 2 / 4))


def test_what_escapes_the_published_form_is_caught() -> None:
    unspaced, short, chinese = "ababab" * 100, "the angle is right " * 4, "三角形" * 40
    for text in (unspaced, short, chinese):
        assert repetition_penalty(text) == 0.0
        assert loop_share(text) == 1.0
    assert repeated_ngram_share(unspaced, 20, unit="char") > 0.9
    assert repeated_ngram_share(chinese, 20, unit="char") > 0.9


def test_ordinary_text_does_not_loop() -> None:
    prose = "In triangle ABC, angle A is 40 degrees and angle B is 60 degrees, so angle C is 80. 1000000 - 10 = 999990."
    assert loop_share(prose) == 0.0
    assert loop_share("Title\n" + "-" * 60 + "\nname | value") == 0.0
    assert loop_share("") == 0.0
    assert loop_share("short") == 0.0
    # half of it loops: 40 of 80 characters (the seam adds nothing)
    assert loop_share("abcdefghijklmnopqrstuvwxyz0123456789!?;/" + "xy" * 20) == pytest.approx(0.5, abs=0.03)


def test_ngrams_by_hand() -> None:
    assert repeated_ngram_share("a b c d", 2) == 0.0
    assert repeated_ngram_share("a b a b a", 2) == 0.5
    assert repeated_ngram_share("a  B a\nb a", 2) == 0.5
    assert repeated_ngram_share("aaaa", 1, unit="char") == 0.75
    assert repeated_ngram_share("a", 2) == 0.0


@given(st.text(max_size=300))
def test_shares_are_shares(text: str) -> None:
    assert 0.0 <= loop_share(text) <= 1.0
    assert 0.0 <= repeated_ngram_share(text, 3) < 1.0
    assert -2.0 < repetition_penalty(text, 2) <= 0.0
