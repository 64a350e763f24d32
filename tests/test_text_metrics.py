from __future__ import annotations

import time

import pytest

from perception_r1 import text_metrics as ocr

pytest.importorskip("nltk")


class _NoSynonyms:
    """What nltk asks of WordNet, with nothing in it."""

    def synsets(self, word):
        return []


def _nltk_meteor(hypothesis, reference):
    from nltk.translate.meteor_score import meteor_score

    return meteor_score([reference], hypothesis, wordnet=_NoSynonyms())


def test_hand_worked():
    scores = ocr.text_scores("the cat", "the cat sat")
    assert scores["edit_distance"] == pytest.approx(4 / 11)  # " sat" missing
    assert scores["edit_similarity"] == pytest.approx(7 / 11)
    assert (scores["precision"], scores["recall"], scores["f1"]) == (1.0, pytest.approx(2 / 3), pytest.approx(0.8))
    # METEOR: P = 1, R = 2/3, F = PR / (.9P + .1R) = 0.68966, one chunk of two words: 1 − .5·(1/2)³
    assert scores["meteor"] == pytest.approx((2 / 3) / (0.9 + 0.1 * 2 / 3) * (1 - 0.5 / 8))


@pytest.mark.parametrize(("answer", "reference", "value"), [("", "text", 0.0), ("text", "", 0.0), ("", "", 1.0)])
def test_empty_gives_numbers(answer, reference, value):
    scores = ocr.text_scores(answer, reference)
    assert scores.pop("edit_distance") == 1 - value
    assert set(scores.values()) == {value}


@pytest.mark.filterwarnings("ignore:\\s*The hypothesis contains 0 counts")
@pytest.mark.parametrize(
    ("hypothesis", "reference"),
    [
        ("it is a guide to action which ensures that the military always obeys", "It is a guide to action that"),
        ("running runner ran runs easily", "run runs running fairly easy"),
        ("a a a b a", "a b a a"),
        ("nothing common", "here at all"),
        ("one", "one"),
    ],
)
def test_meteor_and_bleu_equal_nltk(hypothesis, reference):
    from nltk.translate.bleu_score import sentence_bleu

    h, r = hypothesis.split(), reference.split()
    assert ocr.meteor(h, r) == pytest.approx(_nltk_meteor(h, r), abs=1e-12)
    assert ocr.bleu(h, r) == pytest.approx(sentence_bleu([r], h), abs=1e-12)


def test_real_pages_equal_nltk(shared_data):
    """Real page texts, an answer made of one with words dropped, doubled and swapped."""
    from nltk.metrics.scores import f_measure, precision, recall

    for path in sorted((shared_data / "ocr").glob("*.txt")):
        reference = path.read_text(encoding="utf-8", errors="replace")
        words = reference.split()
        if len(words) < 20:
            continue
        answer = words[:7] + words[9:40] + words[35:60] + words[60:120:2] + words[120:]
        assert ocr.meteor(answer, words) == pytest.approx(_nltk_meteor(answer, words), abs=1e-12)
        scores = ocr.text_scores(" ".join(answer), reference)
        sides = set(words), set(answer)
        assert scores["f1"] == pytest.approx(f_measure(*sides), abs=1e-12)
        assert scores["precision"] == pytest.approx(precision(*sides), abs=1e-12)
        assert scores["recall"] == pytest.approx(recall(*sides), abs=1e-12)


def test_edit_distance_and_bleu_of_real_pages_equal_nltk(shared_data):
    from nltk import edit_distance
    from nltk.translate.bleu_score import sentence_bleu

    for path in sorted((shared_data / "ocr").glob("*.txt")):
        reference = path.read_text(encoding="utf-8", errors="replace").strip()
        answer = reference.replace("e", "c", 9).replace("th", "t") + " more words"
        words = reference.split(), answer.split()
        assert ocr.bleu(words[1], words[0]) == pytest.approx(sentence_bleu([words[0]], words[1]), abs=1e-12)
        # nltk takes a second for 500 characters, and refuses over 2,000
        cut, said = reference[:400].strip(), answer[:390].strip()
        expected = edit_distance(said, cut) / max(len(said), len(cut))
        assert ocr.text_scores(said, cut)["edit_distance"] == pytest.approx(expected, abs=1e-12)


def test_long_page_is_fast():
    page = " ".join(f"word{i % 700}" for i in range(5000))
    start = time.process_time()
    scores = ocr.text_scores(page[:-20], page)
    assert time.process_time() - start < 5
    assert 0.99 < scores["edit_similarity"] < 1


def test_chinese_is_cut_by_jieba():
    pytest.importorskip("jieba")
    assert ocr.tokens("我来到北京清华大学") == ["我", "来到", "北京", "清华大学"]
    assert ocr.text_scores("北京清华大学", "北京清华大学")["f1"] == 1.0
