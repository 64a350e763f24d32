from __future__ import annotations

import hashlib
import re

import pytest

from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.types import CountTarget, PointTarget, TextTarget

ROW = {
    "image_url": "https://example.org/p/a%20b.png?w=1",
    "count": 2,
    "label": "cups",
    "points": [{"x": 10, "y": 20}, {"x": 30.5, "y": 40}],
}
POINTS = PointTarget(((10.0, 20.0), (30.5, 40.0)))


@pytest.fixture
def pixmo(save_image, save_json):
    image = save_image("images/a b.png", (200, 100))

    def load(row, name="train.jsonl", **options):
        path = save_json(name, row if isinstance(row, list) else [row])
        return load_source({"source": "pixmo", "path": str(path), "options": options}, task="counting")

    load.image = image
    return load


def test_points_are_pixels_by_the_data_card(pixmo):
    [sample] = pixmo(ROW)
    assert (sample.question, sample.target, sample.image) == ("cups", POINTS, str(pixmo.image))


def test_the_forms_of_points(pixmo):
    as_lists = {"x": [10, 30.5], "y": [20, 40]}  # what the datasets library makes of a sequence of structs
    assert pixmo({**ROW, "points": as_lists}, name="train.json")[0].target == POINTS
    percent = [{"x": 5, "y": 20}, {"x": 15.25, "y": 40}]
    assert pixmo({**ROW, "points": percent}, points="percent")[0].target == POINTS
    assert pixmo(ROW, use="count")[0].target == CountTarget(2)
    for nothing in (None, [], {"x": [], "y": []}):
        assert pixmo({**ROW, "points": nothing})[0].target == CountTarget(2)
    evaluation = {"question": "cups", "ground_truth": 7, "image_path": "a b.png"}
    assert pixmo(evaluation)[0].target == CountTarget(7)


def test_images_are_found_by_hash_or_link(pixmo):
    row = {**ROW, "image_url": "https://example.org/no-such-name"}
    content = hashlib.sha256(pixmo.image.read_bytes()).hexdigest()
    for name in (content, hashlib.sha256(row["image_url"].encode()).hexdigest()):
        renamed = pixmo.image.rename(pixmo.image.with_name(f"{name}.png"))
        assert pixmo({**row, "image_sha256": content}, verify=True)[0].image == str(renamed)
        pixmo.image = renamed
    with pytest.raises(DataError, match=r"field 'image_sha256': .*download it again"):
        pixmo({**row, "image_sha256": "0" * 64}, verify=True)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"count": 3}, "count", "3 beside 2 points"),
        ({"count": "2"}, "count", "not a number"),
        ({"count": None, "points": None}, "count", "is null"),
        ({"label": ""}, "label", "is empty"),
        ({"points": [{"x": 10, "y": 20}, {"x": 300, "y": 40}]}, "points", "outside its image of 200 × 100"),
        ({"points": {"x": [1], "y": []}}, "points", "1 x for 0 y"),
        ({"points": "10 20"}, "points", "not a list of points"),
        ({"points": [[10, None], [1, 2]]}, "points", "null is not a number"),
        ({"image_url": None}, "image", "is missing"),
        ({"image_url": "https://example.org/z.png"}, "image", '"z.png" is not in'),
    ],
)
def test_broken_pixmo(pixmo, change, field, message):
    with pytest.raises(DataError, match=rf"train\.jsonl:2: field '{field}': .*{re.escape(message)}"):
        pixmo([ROW, {**ROW, **change}])


@pytest.fixture
def fox(save_image, save_json):
    for number in (1, 2):
        save_image(f"en_pdf_png/en_{number}.png", (100, 140))

    def load(pages, **spec):
        path = save_json("en_page_ocr.json", pages)
        return load_source({"source": "fox", "path": str(path), **spec}, task="ocr")

    return load


def page(number, text="FREEDOM\nOF", question="<image>\nOCR this image: "):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": text}]
    return {"image": f"en_{number}.png", "len": 2, "conversations": turns}


def test_fox(fox, tmp_path):
    samples = fox([page(1), page(2, "")])
    assert [(sample.id, sample.question, sample.target) for sample in samples] == [
        ("en_1", "", TextTarget("FREEDOM\nOF")),  # the usual question is each family's own prompt
        ("en_2", "", TextTarget("")),
    ]
    assert fox([page(1, question="<image>\nRead the box [1, 2]")])[0].question == "Read the box [1, 2]"
    assert len(load_source({"source": "fox", "path": str(tmp_path), "split": "en"}, task="ocr")) == 1
    assert len(fox([page(1)], images=str(tmp_path))) == 1
    assert len(fox([page(1)], images=str(tmp_path / "en_pdf_png"))) == 1


@pytest.mark.parametrize(
    ("broken", "field", "message"),
    [
        ({"image": "en_2.png"}, "conversations", "is missing"),
        ({"image": "en_2.png", "conversations": []}, "conversations", "no human turn"),
        ({"image": "en_2.png", "conversations": "text"}, "conversations", "not a list of turns"),
        (page(2, text=5), "conversations", "not text"),
        (page(9), "image", '"en_9.png" is not in'),
        ({**page(2), "image": None}, "image", "is null"),
    ],
)
def test_broken_fox(fox, broken, field, message):
    with pytest.raises(DataError, match=rf"en_page_ocr\.json:2: field '{field}': .*{message}"):
        fox([page(1), broken])


def test_real_pages(shared_data, save_json):
    """Scans of 4 kB of text in Fox's form."""
    scans = (
        ("8087_054.3B", "8087_054.3B"),
        ("8071_093.3B", "8071_093.3B"),
        ("eurotext", "eurotext"),
        ("phototest", "phototest.gold"),
    )
    texts = [(shared_data / "ocr" / f"{text}.txt").read_text(encoding="utf-8") for _, text in scans]
    pages = [{**page(1, text), "image": f"{name}.tif"} for (name, _), text in zip(scans, texts, strict=True)]
    spec = {"source": "fox", "path": str(save_json("pages.json", pages)), "images": str(shared_data / "ocr")}
    samples = load_source(spec, task="ocr")
    assert [sample.target.text for sample in samples] == texts
    assert [sample.image_size for sample in samples] == [(2560, 3300), (3312, 2550), (1024, 800), (640, 480)]
