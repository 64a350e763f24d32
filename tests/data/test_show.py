from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from perception_r1.data.show import PALETTE, contact_sheet, draw_target, save_sheet
from perception_r1.errors import DataError
from perception_r1.types import AnswerTarget, BoxTarget, CountTarget, PointTarget, Sample, TextTarget


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (400, 300), "white").save(path)
    return str(path)


def near(img, place, colour, reach=3):
    """Whether ``colour`` (or nearly) is found within ``reach`` pixels of ``place``."""
    x, y = place
    pixels = np.asarray(img, dtype=int)[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    return bool((abs(pixels - np.array(colour)).max(axis=-1) < 60).any())


def test_boxes_are_drawn_where_they_are(image):
    target = BoxTarget(((100.0, 60.0, 300.0, 240.0),), ("dog",))
    img = draw_target(Sample("1", "grounding", "the dog", target, image, (400, 300)))
    assert img.size == (400, 300)
    for place in ((100, 150), (300, 150), (200, 60), (200, 240)):
        assert near(img, place, PALETTE[0])
    for place in ((200, 150), (50, 150), (350, 150)):
        assert not near(img, place, PALETTE[0], reach=10)


def test_boxes_follow_the_original_size_when_drawn_smaller(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (800, 1200), "white").save(path)
    img = draw_target(
        Sample("1", "grounding", "x", BoxTarget(((400.0, 600.0, 800.0, 1200.0),)), str(path), (800, 1200))
    )
    assert img.size == (200, 300)
    assert near(img, (100, 225), PALETTE[0])
    assert near(img, (150, 150), PALETTE[0])


def test_a_colour_a_label_and_small_objects_stay_visible(image):
    target = BoxTarget(((10.0, 10.0, 200.0, 200.0), (300.0, 250.0, 306.0, 256.0)), ("dog", "kite"))
    img = draw_target(Sample("1", "detection", "", target, image, (400, 300), None, ("dog", "kite")))
    assert near(img, (10, 150), PALETTE[0])
    assert near(img, (298, 253), PALETTE[1])
    assert near(img, (303, 253), (255, 255, 255), reach=0)


def test_points(image):
    img = draw_target(Sample("1", "counting", "x", PointTarget(((50.0, 60.0), (350.0, 260.0))), image, (400, 300)))
    assert near(img, (50, 60), PALETTE[0], reach=0)
    assert near(img, (350, 260), PALETTE[0], reach=0)


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("grounding", BoxTarget(())),
        ("counting", CountTarget(3)),
        ("counting", BoxTarget(((0.0, 0.0, 400.0, 300.0),) * 40, ("x",) * 40)),
        ("detection", BoxTarget(((0.0, 0.0, 1.0, 1.0),) * 60, tuple(f"a long label {n}" for n in range(60)))),
        ("ocr", TextTarget("")),
        ("ocr", TextTarget("word " * 2000)),
        ("ocr", TextTarget("没有空格的长文本" * 200)),
        ("ocr", TextTarget("x" * 5000)),
        ("geometry", AnswerTarget("2", ("a", "b"))),
    ],
)
def test_every_target_makes_a_card(image, task, target):
    sheet = contact_sheet([Sample("id " * 50, task, "a question " * 30, target, image, (400, 300), None, ("x",))])
    assert sheet.width == 400 + 20 + 36
    assert sheet.height < 600


def test_sheets(image, tmp_path):
    samples = [Sample(str(n), "ocr", "", TextTarget("x"), image, (400, 300)) for n in range(20)]
    out = tmp_path / "new" / "sheet.png"
    assert save_sheet(samples, out, n=12) == 12
    with Image.open(out) as img:
        assert img.width == 3 * (420 + 18) + 18
    first = out.read_bytes()
    save_sheet(samples, out, n=12)
    assert out.read_bytes() == first
    assert save_sheet(samples[:2], out, n=12) == 2
    with pytest.raises(DataError, match="no rows to show"):
        contact_sheet([])
    with pytest.raises(DataError, match="is a PNG"):
        save_sheet(samples, tmp_path / "sheet.jpg")
    with pytest.raises(DataError, match="no such image"):
        contact_sheet([Sample("1", "ocr", "", TextTarget("x"), "/gone.png")])
