"""Generated diagrams: seeded, exact, and every fact is read back by the lexical judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_r1.data.geometry import diagram, make_diagrams
from perception_r1.data.geometry_problems import KINDS, root
from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.reasoning.facts import statements, unasked
from perception_r1.tasks import make_task
from perception_r1.types import AnswerTarget

TASK = make_task("geometry", family="qwen3_vl")


@pytest.mark.parametrize("kind", KINDS)
def test_gold_scores_full_and_no_fact_is_given_away(kind: str) -> None:
    rng = np.random.default_rng(7)
    for index in range(12):
        image, sample = diagram(rng, kinds=[kind], size=96, id=str(index))
        assert image.size == (96, 96)
        assert isinstance(sample.target, AnswerTarget)
        facts = sample.target.visual_annotations
        assert unasked(sample.question, facts) == tuple(range(len(facts)))
        assert all(statements(fact) for fact in facts)
        record = TASK.score(sample, TASK.gold(sample))
        assert record.reward == pytest.approx(1.7), record.reason


def by_words(sample_kind: str, seed: int) -> tuple[dict[str, float], str]:
    rng = np.random.default_rng(seed)
    _, sample = diagram(rng, kinds=[sample_kind], size=64, names="abc")
    assert isinstance(sample.target, AnswerTarget)
    values = {}
    for fact in sample.target.visual_annotations:
        name, _, value = fact.partition(" = ")
        if value.rstrip("°").isdigit():
            values[name] = float(value.rstrip("°"))
    return values, sample.target.answer


def test_answers_follow_from_the_facts() -> None:
    values, answer = by_words("segments", 1)
    assert float(answer) == values["AB"] + values["BC"]
    values, answer = by_words("third_angle", 2)
    assert float(answer) == 180 - values["∠BAC"] - values["∠ABC"]
    values, answer = by_words("similar", 3)
    assert float(answer) == values["AE"] * values["DB"] / values["AD"]
    values, answer = by_words("inscribed", 4)
    assert float(answer) == values["∠AOB"] / 2
    assert (root(12), root(25), root(7), root(1)) == ("2\\sqrt{3}", "5", "\\sqrt{7}", "1")


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    first = make_diagrams(4, seed=3, size=96, out_dir=tmp_path / "a")
    again = make_diagrams(4, seed=3, size=96, out_dir=tmp_path / "b")
    other = make_diagrams(4, seed=3, size=96, split="heldout", out_dir=tmp_path / "a")
    before = [Path(sample.image or "").read_bytes() for sample in first]
    for changes in ({"turn": False}, {"names": "abc"}, {"letters": 0.1}):  # their pictures do not replace the others
        make_diagrams(4, seed=3, size=96, out_dir=tmp_path / "a", **changes)
    assert [Path(sample.image or "").read_bytes() for sample in first] == before
    assert [s.target for s in first] == [s.target for s in again]
    assert [s.target for s in first] != [s.target for s in other]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(np.asarray(Image.open(str(one.image))), np.asarray(Image.open(str(two.image))))


def test_as_a_source_of_a_recipe(tmp_path: Path) -> None:
    spec = {"source": "diagrams", "path": str(tmp_path), "options": {"n": 3, "kinds": ["circle"], "size": 64}}
    samples = load_source(spec, task="geometry")
    assert [sample.task for sample in samples] == ["geometry"] * 3
    with pytest.raises(DataError, match="no option 'kind'"):
        load_source({**spec, "options": {"n": 1, "kind": ["circle"]}}, task="geometry")
    with pytest.raises(DataError, match="unknown kind of diagram 'cube'"):
        load_source({**spec, "options": {"n": 1, "kinds": ["cube"]}}, task="geometry")
    with pytest.raises(DataError, match="has no rows for task 'ocr'"):
        load_source(spec, task="ocr")


def test_ink_differs_from_paper_and_touches_no_border() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        image, _ = diagram(rng, kinds=[kind], size=128)
        pixels = np.asarray(image.convert("L")).astype(int)
        paper = pixels[0, 0]
        assert (np.abs(pixels - paper) > 60).mean() > 0.005
        assert np.abs(pixels[0] - paper).max() < 40 and np.abs(pixels[-1] - paper).max() < 40
