from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_r1.data.jsonl import read_jsonl, write_jsonl
from perception_r1.data.row import row_from_sample, sample_from_row
from perception_r1.errors import DataError
from perception_r1.types import AnswerTarget, BoxTarget, CountTarget, PointTarget, Sample, TextTarget

GOOD = {
    "grounding": {"id": "1", "image": "a.png", "task": "grounding", "question": "the dog", "boxes": [[10, 20, 30, 40]]},
    "counting": {"id": "1", "image": "a.png", "task": "counting", "question": "dog", "points": [[5, 6], [7, 8]]},
    "detection": {
        "id": "1",
        "image": "a.png",
        "task": "detection",
        "boxes": [[1, 2, 3, 4]],
        "labels": ["dog"],
        "categories": ["cat", "dog"],
    },
    "ocr": {"id": "1", "image": "a.png", "task": "ocr", "text": "Hello"},
    "geometry": {
        "id": "1",
        "image": "a.png",
        "task": "geometry",
        "question": "Find x",
        "answer": "2",
        "visual_annotations": ["AB=1"],
    },
}


@pytest.fixture
def one_row(save_image, save_json):
    """Reads a file whose first row is good and whose second is the given one."""
    save_image("a.png", (100, 80))

    def read(row: dict, task: str | None = None) -> list[Sample]:
        return read_jsonl(
            save_json("rows.jsonl", [{**GOOD["grounding"], "id": "first", "task": row.get("task")}, row]), task
        )

    return read


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("grounding", BoxTarget(((10.0, 20.0, 30.0, 40.0),))),
        ("counting", PointTarget(((5.0, 6.0), (7.0, 8.0)))),
        ("detection", BoxTarget(((1.0, 2.0, 3.0, 4.0),), ("dog",))),
        ("ocr", TextTarget("Hello")),
        ("geometry", AnswerTarget("2", ("AB=1",))),
    ],
)
def test_each_task_has_its_target(task, target, save_image, save_json):
    image = save_image("a.png", (100, 80))
    [sample] = read_jsonl(save_json("rows.jsonl", [GOOD[task]]))
    assert (sample.task, sample.target, sample.image, sample.image_size) == (task, target, str(image), (100, 80))


BAD = [
    ("grounding", {"boxes": [[30, 20, 10, 40]]}, "boxes", "x2 < x1"),
    ("grounding", {"boxes": [[10, 40, 30, 20]]}, "boxes", "y2 < y1"),
    ("grounding", {"boxes": [[10, 20, 10, 40]]}, "boxes", "no area"),
    ("grounding", {"boxes": [[10, 20, 102, 40]]}, "boxes", "outside its image of 100 × 80"),
    ("grounding", {"boxes": [[-2, 20, 30, 40]]}, "boxes", "outside its image"),
    ("grounding", {"boxes": [[float("nan"), 20, 30, 40]]}, "boxes", "not a finite number"),
    ("grounding", {"boxes": [[True, 20, 30, 40]]}, "boxes", "true is not a number"),
    ("grounding", {"boxes": [["10", 20, 30, 40]]}, "boxes", '"10" is not a number'),
    ("grounding", {"boxes": [10, 20, 30, 40]}, "boxes", "10 is not a box"),
    ("grounding", {"boxes": "10"}, "boxes", "not a list"),
    ("grounding", {"boxes": None, "bboxes": []}, "boxes", "is null"),
    ("grounding", {"question": None}, "question", "what to find"),
    ("grounding", {"question": "  "}, "question", "is empty"),
    ("grounding", {"question": "dog<|box_end|>"}, "question", "holds <|box_end|>, a token"),
    ("grounding", {"labels": ["a </ref> dog"]}, "labels", "holds </ref>, a token"),
    ("grounding", {"labels": ["dog", "cat"]}, "labels", "expected one a box (1), got 2"),
    ("grounding", {"image": "b.png"}, "image", "does not exist"),
    ("grounding", {"image": 7}, "image", "not a string"),
    ("grounding", {"width": 100}, "height", "is missing beside 'width'"),
    ("grounding", {"width": 80, "height": 100}, "width", "but"),
    ("grounding", {"width": 0, "height": 100}, "width", "at least 1"),
    ("grounding", {"task": "grouding"}, "task", "did you mean 'grounding'"),
    ("grounding", {"task": None}, "task", "is missing"),
    ("grounding", {"id": "first"}, "id", "already the id of line 1"),
    ("grounding", {"id": True}, "id", "not an id"),
    ("counting", {"points": [[5, 6, 7]]}, "points", "not a point"),
    ("counting", {"points": [[5, 200]]}, "points", "outside its image"),
    ("counting", {"count": 3}, "count", "is 3 beside 2 points"),
    ("counting", {"points": None, "count": -1}, "count", "at least 0"),
    ("counting", {"points": None, "count": 2.5}, "count", "out of range"),
    ("counting", {"points": None, "count": 1e20}, "count", "at most 10,000"),
    ("counting", {"points": None, "count": 10**400}, "count", "not a finite number"),
    ("counting", {"points": None, "count": True}, "count", "true is not a number"),
    ("counting", {"points": None}, "count", "is missing"),
    ("detection", {"labels": ["dgo"]}, "labels", "did you mean 'dog'"),
    ("detection", {"labels": []}, "labels", "one a box"),
    ("detection", {"labels": "dog"}, "labels", "not a list"),
    ("detection", {"labels": [""]}, "labels", "not a label"),
    ("detection", {"categories": ["dog", "<box>"]}, "categories", "holds <box>, a token"),
    ("detection", {"categories": ["dog", "dog"]}, "categories", "there twice"),
    ("ocr", {"text": 5}, "text", "not a string"),
    ("ocr", {"text": None, "txt": "Hello"}, "text", "is null"),
    ("geometry", {"answer": None}, "answer", "is null"),
    ("geometry", {"visual_annotations": [1]}, "visual_annotations", "not a label"),
]


@pytest.mark.parametrize(("task", "change", "field", "message"), BAD)
def test_bad_rows_are_named_by_file_line_and_field(task, change, field, message, save_image, save_json):
    save_image("a.png", (100, 80))
    path = save_json("rows.jsonl", [{**GOOD[task], "id": "first"}, {**GOOD[task], "id": "second", **change}])
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}:2: field '{field}': ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_suggests_a_similar_one(save_image, save_json):
    save_image("a.png", (100, 80))
    row = {**GOOD["grounding"], "box": [[1, 2, 3, 4]]}
    del row["boxes"]
    with pytest.raises(DataError, match="is missing, but there is 'box'"):
        read_jsonl(save_json("rows.jsonl", [row]))


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "the file is empty"),
        (b" \n\n", None, "the file is empty"),
        (b'{"id": "1", "image": "a.p', 1, "cut off"),
        (b'{"id": "1", "task": "ocr", "image": "a.png", "text": "x"}\n\n{"id": ', 3, "cut off"),
        (b'{"id": "1", "boxes": [[1, 2]]\n', 1, "cut off at column 30"),
        (b'{"id": 1,, }', 1, "not valid JSON at column 10"),
        (b"[1, 2]", 1, "not an object"),
        (b'{"images": [], "annotations": []}', 1, "--from coco"),
        (b'{"id": "\xff"}', 1, "not UTF-8"),
    ],
)
def test_broken_files(content, line, message, save_image, tmp_path):
    save_image("a.png")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_jsonl(path)
    assert (caught.value.path, caught.value.line) == (path, line)


def test_no_such_file_suggests_its_neighbour(save_json):
    path = save_json("train.jsonl", [])
    with pytest.raises(DataError, match=r"no such data file, did you mean 'train\.jsonl'"):
        read_jsonl(path.parent / "trian.jsonl")


def test_every_bad_row_can_be_collected(save_image, save_json):
    save_image("a.png", (100, 80))
    rows = [{**GOOD["ocr"], "id": str(n)} for n in range(5)]
    rows[1]["text"], rows[3]["image"] = 4, "missing.png"
    errors: list[DataError] = []
    samples = read_jsonl(save_json("rows.jsonl", rows), on_error=errors.append)
    assert [sample.id for sample in samples] == ["0", "2", "4"]
    assert [(error.line, error.field) for error in errors] == [(2, "text"), (4, "image")]


def test_a_box_a_pixel_outside_is_clipped(save_image, save_json):
    save_image("a.png", (100, 80))
    [sample] = read_jsonl(save_json("rows.jsonl", [{**GOOD["grounding"], "boxes": [[-0.4, 0, 100.9, 80.2]]}]))
    assert sample.target == BoxTarget(((0.0, 0.0, 100.0, 80.0),))


def test_boxes_refer_to_the_image_after_exif_rotation(save_image, save_json):
    save_image("a.jpg", (100, 80), orientation=6)
    row = {**GOOD["grounding"], "image": "a.jpg", "boxes": [[10, 20, 79, 99]]}
    [sample] = read_jsonl(save_json("rows.jsonl", [row]))
    assert sample.image_size == (80, 100)
    with pytest.raises(DataError, match="80 × 100 pixels after EXIF"):
        read_jsonl(save_json("rows.jsonl", [{**row, "width": 100, "height": 80}]))


def test_task_may_come_from_outside_but_must_agree(save_image, save_json):
    save_image("a.png", (100, 80))
    row = {**GOOD["ocr"]}
    with pytest.raises(DataError, match=r"is \"ocr\", but rows for 'counting' are wanted"):
        read_jsonl(save_json("rows.jsonl", [row]), task="counting")
    del row["task"]
    assert read_jsonl(save_json("rows.jsonl", [row]), task="ocr")[0].task == "ocr"


def test_detection_without_categories_is_asked_for_all_labels_of_the_file(save_image, save_json):
    save_image("a.png", (100, 80))
    rows = [
        {"id": str(n), "image": "a.png", "task": "detection", "boxes": [[1, 2, 3, 4]] * len(labels), "labels": labels}
        for n, labels in enumerate([["dog"], ["cat", "ant"], []])
    ]
    samples = read_jsonl(save_json("rows.jsonl", rows))
    assert {sample.categories for sample in samples} == {("ant", "cat", "dog")}
    assert samples[2].target == BoxTarget(())


def test_rows_without_id_are_numbered_and_images_root_may_be_given(save_image, save_json):
    image = save_image("photos/a.png", (100, 80))
    row = {key: value for key, value in GOOD["ocr"].items() if key != "id"}
    path = save_json("rows.jsonl", [row])
    [sample] = read_jsonl(path, images=image.parent)
    assert (sample.id, sample.image) == ("rows-1", str(image))


def test_scoring_needs_no_image():
    row = {"id": "1", "question": "dog", "boxes": [[1, 2, 3, 4]], "width": 10, "height": 10}
    sample = sample_from_row(row, path="x", line=1, task="grounding", check_image=False, image_required=False)
    assert sample.image is None
    del row["width"], row["height"]
    with pytest.raises(DataError, match="x:1: field 'width': is missing"):
        sample_from_row(row, path="x", line=1, task="grounding", check_image=False, image_required=False)


def test_writing_is_atomic_and_relative_to_the_file(save_image, tmp_path):
    image = save_image("images/a.png", (100, 80))
    sample = Sample("1", "ocr", "", TextTarget("é\n"), str(image), (100, 80))
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, [sample]) == 1
    assert json.loads(path.read_text(encoding="utf-8"))["image"] == "images/a.png"
    assert read_jsonl(path) == [sample]
    before = path.read_bytes()

    def broken():
        yield sample
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["images", "rows.jsonl"]


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
side = st.integers(2, 4000)
coordinate = st.floats(0, 1, allow_subnormal=False)


@st.composite
def samples(draw):
    width, height = draw(side), draw(side)
    task = draw(st.sampled_from(["grounding", "counting", "detection", "ocr", "geometry"]))
    corner = st.tuples(coordinate, coordinate).map(lambda pair: (pair[0] * width, pair[1] * height))
    box = st.tuples(corner, corner).map(
        lambda pair: (*map(min, zip(*pair, strict=True)), *map(max, zip(*pair, strict=True)))
    )
    boxes = tuple(draw(st.lists(box.filter(lambda b: b[0] < b[2] and b[1] < b[3]), max_size=4)))
    categories: tuple[str, ...] = ()
    if task == "grounding":
        target = BoxTarget(boxes)
    elif task == "counting":
        target = draw(
            st.one_of(
                st.just(BoxTarget(boxes)),
                st.integers(0, 99).map(CountTarget),
                st.lists(corner, max_size=4).map(lambda points: PointTarget(tuple(points))),
            )
        )
    elif task == "detection":
        categories = tuple(draw(st.lists(text, min_size=1, max_size=5, unique=True)))
        target = BoxTarget(boxes, tuple(draw(st.sampled_from(categories)) for _ in boxes))
    elif task == "ocr":
        target = TextTarget(draw(st.text(st.characters(exclude_categories=["Cs"]))))
    else:
        target = AnswerTarget(draw(text), tuple(draw(st.lists(text, max_size=3))))
    model_size = draw(st.none() | st.tuples(side, side))
    return Sample(draw(text), task, draw(text), target, "/data/images/a b.png", (width, height), model_size, categories)


@settings(max_examples=150, deadline=None)
@given(sample=samples(), root=st.sampled_from([None, "/data", "/elsewhere"]))
def test_rows_and_samples_round_trip(sample, root):
    row = json.loads(json.dumps(row_from_sample(sample, root=root)))
    folder = Path(root or "/anything")
    assert sample_from_row(row, path=folder / "rows.jsonl", line=1, check_image=False) == sample
