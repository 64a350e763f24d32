"""Scenes of digits: exact boxes, disjoint splits, the same pixels for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_r1.data.digits import CATEGORIES, TASKS, _glyphs, make_scenes, scene
from perception_r1.errors import DataError
from perception_r1.types import BoxTarget, TextTarget


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_splits_share_no_image_and_hold_all_of_them() -> None:
    images = {split: {glyph.tobytes() for cls in classes for glyph in cls} for split, classes in _glyphs().items()}
    counts = {split: sum(len(cls) for cls in classes) for split, classes in _glyphs().items()}
    assert counts == {"train": 1198, "heldout": 599}
    assert not images["train"] & images["heldout"]
    assert all(len(cls) > 30 for classes in _glyphs().values() for cls in classes)


@pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
def test_boxes_are_tight_integer_bounds_of_ink_without_overlap(task: str, rng: np.random.Generator) -> None:
    for _ in range(40):
        image, sample = scene(rng, task, min_digits=2, max_digits=5)
        assert isinstance(sample.target, BoxTarget)
        assert sample.image_size == image.size == (96, 96)
        grey = np.asarray(image.convert("L"), dtype=float)
        for i, (x1, y1, x2, y2) in enumerate(sample.target.boxes_xyxy):
            assert (x1, y1, x2, y2) == tuple(map(int, (x1, y1, x2, y2)))
            assert 0 <= x1 < x2 <= 96
            assert 0 <= y1 < y2 <= 96
            inside = grey[int(y1) : int(y2), int(x1) : int(x2)]
            paper = np.median(grey)
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):  # each side touches ink
                assert edge.min() < paper - 5
            for a1, b1, a2, b2 in sample.target.boxes_xyxy[i + 1 :]:
                assert min(x2, a2) <= max(x1, a1) or min(y2, b2) <= max(y1, b1)


def test_grounding_names_a_digit_that_appears_once(rng: np.random.Generator) -> None:
    for _ in range(30):
        _, sample = scene(rng, "grounding", min_digits=3, max_digits=5)
        assert isinstance(sample.target, BoxTarget)
        assert len(sample.target.boxes_xyxy) == 1
        assert sample.target.labels == (sample.question,)
        assert sample.question.removeprefix("digit ") in CATEGORIES


def test_counting_and_detection_list_every_digit_from_left_to_right(rng: np.random.Generator) -> None:
    seen = set()
    for _ in range(60):
        _, sample = scene(rng, "detection", min_digits=2, max_digits=5)
        assert isinstance(sample.target, BoxTarget)
        lefts = [box[0] for box in sample.target.boxes_xyxy]
        assert lefts == sorted(lefts)
        assert set(sample.target.labels) <= set(sample.categories) == set(CATEGORIES)
        seen.add(len(lefts))
    assert seen == {2, 3, 4, 5}
    _, sample = scene(rng, "counting", min_digits=0, max_digits=0)
    assert sample.target == BoxTarget(())
    assert sample.question == "digit"


def test_rows_fit_and_read_as_their_text(rng: np.random.Generator) -> None:
    for n in range(1, 9):
        image, sample = scene(rng, "ocr", min_digits=n, max_digits=n)
        assert isinstance(sample.target, TextTarget)
        assert len(sample.target.text) == n
        assert sample.target.text.isdigit()
        assert image.size == (96, 96)


@pytest.mark.parametrize("task", TASKS)
def test_same_arguments_write_the_same_scenes(task: str, tmp_path: Path) -> None:
    first = make_scenes(task, 4, seed=5, split="heldout", min_digits=2, out_dir=tmp_path / "a")
    again = make_scenes(task, 4, seed=5, split="heldout", min_digits=2, out_dir=tmp_path / "b")
    other = make_scenes(task, 4, seed=6, split="heldout", min_digits=2, out_dir=tmp_path / "c")
    assert [s.target for s in first] == [s.target for s in again] != [s.target for s in other]
    assert len({s.id for s in first}) == 4
    for a, b in zip(first, again, strict=True):
        assert a.image is not None
        assert b.image is not None
        assert np.array_equal(np.asarray(Image.open(a.image)), np.asarray(Image.open(b.image)))


def test_scenes_grow_with_the_image(rng: np.random.Generator) -> None:
    image, sample = scene(rng, "counting", min_digits=5, max_digits=5, size=256)
    assert isinstance(sample.target, BoxTarget)
    assert image.size == (256, 256)
    assert max(box[3] - box[1] for box in sample.target.boxes_xyxy) > 40


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("geometry", {}, "no task 'geometry'"),
        ("ocr", {"min_digits": 0}, "1 <= min_digits"),
        ("counting", {"min_digits": 4, "max_digits": 2}, "min_digits <= max_digits"),
        ("counting", {"size": 10}, "size >= 64"),
        ("counting", {"split": "test"}, "no split 'test'"),
    ],
)
def test_bad_arguments_are_named(task: str, options: dict, said: str, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=said):
        scene(rng, task, **options)


def test_other_ranges_do_not_overwrite_each_other(tmp_path: Path) -> None:
    few = make_scenes("counting", 2, seed=5, max_digits=1, out_dir=tmp_path)
    many = make_scenes("counting", 2, seed=5, min_digits=4, out_dir=tmp_path)
    assert not {s.image for s in few} & {s.image for s in many}
