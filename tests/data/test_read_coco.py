from __future__ import annotations

import copy

import pytest

from perception_r1.data.coco_names import COCO_NAMES
from perception_r1.data.files import read_json
from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.types import BoxTarget

DOCUMENT = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 100, "height": 80},
        {"id": 7, "file_name": "b.png", "width": 50, "height": 50},
        {"id": 9, "file_name": "c.png", "width": 50, "height": 50},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 2, "name": "ant"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 4, "bbox": [10, 20, 30.5, 40]},
        {"id": 2, "image_id": 5, "category_id": 4, "bbox": [0.1, 0.2, 5, 5], "iscrowd": 0},
        {"id": 3, "image_id": 5, "category_id": 1, "bbox": [50, 10, 50.6, 70]},
        {"id": 4, "image_id": 7, "category_id": 1, "bbox": [1, 1, 10, 10]},
        {"id": 5, "image_id": 7, "category_id": 4, "bbox": [1, 1, 40, 40], "iscrowd": 1},
        {"id": 6, "image_id": 7, "category_id": 2, "bbox": [3, 3, 0, 10]},
    ],
}


@pytest.fixture
def folder(save_image, save_json):
    for name, size in (("a.png", (100, 80)), ("b.png", (50, 50)), ("c.png", (50, 50))):
        save_image(f"images/{name}", size)

    def write(change=None):
        document = copy.deepcopy(DOCUMENT)
        if change:
            change(document)
        return save_json("instances.json", document)

    return write


def load(path, task, **options):
    notes: list[str] = []
    return load_source({"source": "coco", "path": str(path), "options": options}, task=task, note=notes.append), notes


def test_detection(folder):
    samples, notes = load(folder(), "detection")
    assert [sample.id for sample in samples] == ["a", "b", "c"]
    assert samples[0].target == BoxTarget(
        ((10.0, 20.0, 40.5, 60.0), (0.1, 0.2, 5.1, 5.2), (50.0, 10.0, 100.0, 80.0)),  # the last was clipped by 0.6
        ("dog", "dog", "cat"),
    )
    assert samples[0].categories == ("cat", "dog", "ant")
    assert samples[1].target == BoxTarget(((1.0, 1.0, 11.0, 11.0),), ("cat",))  # no crowd, no box without area
    assert samples[2].target == BoxTarget(())
    assert notes[0].startswith("crowd boxes are not objects: 1 left out")
    assert notes[1] == "1 boxes without area left out"


def test_detection_options(folder):
    assert [sample.id for sample in load(folder(), "detection", empty=False)[0]] == ["a", "b"]
    assert [sample.id for sample in load(folder(), "detection", crowd="drop")[0]] == ["a", "c"]
    assert [sample.id for sample in load(folder(), "detection", max_count=1)[0]] == ["b", "c"]
    cats, _ = load(folder(), "detection", categories=["cat"])
    assert cats[0].target.labels == ("cat",)
    assert cats[0].categories == ("cat",)


def test_counting_is_a_row_an_image_and_category(folder):
    samples, _ = load(folder(), "counting")
    assert [(sample.id, sample.question, len(sample.target.boxes_xyxy)) for sample in samples] == [
        ("a-cat", "cat", 1),
        ("a-dog", "dog", 2),
        ("b-cat", "cat", 1),  # no row for the dogs of b: they are a crowd
    ]


def test_grounding_only_asks_for_what_is_there_once(folder):
    samples, _ = load(folder(), "grounding")
    assert [(sample.id, sample.question) for sample in samples] == [("a-cat", "the cat"), ("b-cat", "the cat")]


def test_real_files(shared_data):
    for split, n_images, n_boxes in (("train2017", 26, 181), ("val2017", 27, 173)):
        spec = {"source": "coco", "path": str(shared_data / "coco" / f"instances_{split}.json")}
        detection = load_source(spec, task="detection")
        assert len(detection) == n_images
        assert sum(len(sample.target.boxes_xyxy) for sample in detection) == n_boxes
        assert {len(sample.categories) for sample in detection} == {80}
        counting = load_source(spec, task="counting")
        assert sum(len(sample.target.boxes_xyxy) for sample in counting) == n_boxes
        grounding = load_source(spec, task="grounding")
        assert len(grounding) == sum(len(sample.target.boxes_xyxy) == 1 for sample in counting)
    by_folder = {"source": "coco", "path": str(shared_data / "coco"), "split": "train2017"}
    assert len(load_source(by_folder, task="detection")) == 26


def test_official_2014_file_without_its_images(shared_data):
    path = shared_data / "cocoeval_reference" / "instances_val2014_100.json"
    samples, notes = load(path, "detection", missing="keep")
    assert len(samples) == 100
    assert sum(len(sample.target.boxes_xyxy) for sample in samples) == 839 - 9
    assert notes[0].startswith("crowd boxes are not objects: 9 left out")
    names = {item["id"]: item["name"] for item in read_json(path)["categories"]}
    assert names == COCO_NAMES


def broken(section, row, **change):
    def apply(document):
        document[section][row].update(change)

    return apply


def without(section, row, key):
    def apply(document):
        del document[section][row][key]

    return apply


@pytest.mark.parametrize(
    ("change", "line", "field", "message"),
    [
        (broken("annotations", 3, bbox=[1, 1, -10, 10]), 4, "annotations.bbox", "negative side"),
        (broken("annotations", 3, bbox=[1, 1, 10]), 4, "annotations.bbox", "not a box"),
        (broken("annotations", 3, bbox=[1, 1, True, 10]), 4, "annotations.bbox", "true is not a number"),
        (broken("annotations", 3, bbox=[1, 1, float("nan"), 10]), 4, "annotations.bbox", "not a finite number"),
        (broken("annotations", 3, bbox=[1, 1, 60, 10]), 4, "annotations.bbox", "outside its image of 50 × 50"),
        (broken("annotations", 3, bbox=[30, 30, 40, 40]), 4, "annotations.bbox", "[30, 30, 40, 40] lies outside"),
        (broken("annotations", 3, bbox=[30, 30, 40, 40]), 4, "annotations.bbox", "are these corners x1, y1, x2, y2"),
        (without("annotations", 2, "bbox"), 3, "annotations.bbox", "is missing"),
        (broken("annotations", 1, category_id=99), 2, "annotations.category_id", "99 is not a category"),
        (broken("annotations", 1, image_id=99), 2, "annotations.image_id", "99 is not an image"),
        (broken("images", 1, file_name="z.png"), 2, "images.file_name", '"z.png" is not in'),
        (broken("images", 1, file_name=3), 2, "images.file_name", "not a string"),
        (broken("images", 1, width=70), 2, "images.width", "70 × 50"),
        (broken("images", 1, height="50"), 2, "images.height", "not a number"),
        (broken("images", 1, id=5), 2, "images.id", "already the id of row 1"),
        (broken("categories", 2, name=""), 3, "categories.name", "is empty"),
    ],
)
def test_broken_twin(folder, change, line, field, message):
    path = folder(change)
    with pytest.raises(DataError) as caught:
        load(path, "detection")
    assert str(caught.value).startswith(f"{path}:{line}: field '{field}': ")
    assert message in str(caught.value)


def test_not_a_coco_file(save_json, tmp_path):
    with pytest.raises(DataError, match="is not a COCO file"):
        load(save_json("x.json", {"images": []}), "detection")
    path = save_json("x.json", DOCUMENT)
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"x\.json:1: .*cut off"):
        load(path, "detection")
    path.write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        load(path, "detection")


def test_bad_and_missing_entries_may_be_left_out(folder):
    def change(document):
        document["images"][0]["file_name"] = "gone.png"
        document["annotations"][3]["bbox"] = [1, 1, 99, 99]

    path = folder(change)
    samples, notes = load(path, "detection", missing="skip", on_error="skip")
    assert [sample.id for sample in samples] == ["c"]
    assert any("entries left out because their image is missing: 1" in note for note in notes)
    assert any(note.startswith("bad entries left out: 1; the first: ") and "outside" in note for note in notes)


@pytest.mark.parametrize("wrong", [{"bbox": [1, 1, -10, 10]}, {"bbox": None}, {"category_id": 99}])
def test_an_image_with_a_broken_annotation_may_be_left_out(folder, wrong):
    path = folder(broken("annotations", 3, **wrong))
    every = [sample.id for sample in load(folder(), "detection")[0]]
    path = folder(broken("annotations", 3, **wrong))
    samples, notes = load(path, "detection", on_error="skip")
    assert len(samples) == len(every) - 1
    assert [note.partition(": ")[2][0] for note in notes if note.startswith("bad entries left out")] == ["1"]
    assert any(":4: field 'annotations." in note for note in notes)


def test_coco_2014_names_find_2017_files(folder, save_image):
    save_image("images/000000000042.png", (50, 50))
    path = folder(broken("images", 2, file_name="COCO_train2014_000000000042.png"))
    assert load(path, "detection")[0][2].image.endswith("images/000000000042.png")


def test_options_are_checked(folder):
    for options, message in (
        ({"crowds": "skip"}, "no option 'crowds', did you mean 'crowd'"),
        ({"crowd": "maybe"}, "expected skip or drop"),
        ({"empty": 1}, "expected bool"),
        ({"min_count": True}, "expected int"),
        ({"missing": "ignore"}, "expected error or skip or keep"),
        ({"categories": ["cow"]}, "has no category 'cow'"),
    ):
        with pytest.raises(DataError, match=message):
            load(folder(), "detection", **options)
