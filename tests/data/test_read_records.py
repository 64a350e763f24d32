from __future__ import annotations

import re

import pytest

from perception_r1.data.files import read_json
from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.families import get_family
from perception_r1.types import AnswerTarget, BoxTarget, CountTarget, PointTarget, TextTarget

BOX = BoxTarget(((100.0, 48.0, 200.0, 96.0),))
PHRASE = "Please provide the bounding box coordinate of the region this sentence describes: the red cup."


@pytest.fixture
def load(save_image, save_json):
    save_image("a.png", (500, 400))

    def read(record, task="grounding", name="records.json", **options):
        records = record if isinstance(record, list) else [record]
        path = save_json(name, [{"image": "a.png", **item} for item in records])
        return load_source({"source": "records", "path": str(path), "options": options}, task=task)

    return read


@pytest.mark.parametrize(
    "solution",
    [
        [100, 48, 200, 96],
        [[100, 48, 200, 96]],
        {"bbox_2d": [100, 48, 200, 96]},
        [{"bbox": [100, 48, 200, 96]}],
        "[100, 48, 200, 96]",
        "<answer> [100, 48, 200, 96] </answer>",
        "(100, 48), (200, 96)".replace("), (", ", "),
        '```json\n[{"bbox_2d": [100, 48, 200, 96]}]\n```',
    ],
)
def test_grounding_answers_in_all_their_forms(load, solution):
    [sample] = load({"problem": PHRASE, "solution": solution})
    assert sample.question == "the red cup"
    assert sample.target == BOX


@pytest.mark.parametrize("label", ["remote (tv)", "man's hat", "cup (red), 'old'"])
def test_a_label_of_a_json_text_is_left_as_it_is(load, label):
    solution = f'```json\n[{{"bbox_2d": [100, 48, 200, 96], "label": "{label}"}}]\n```'
    [sample] = load({"problem": "all", "solution": solution}, "detection")
    assert sample.target == BoxTarget(BOX.boxes_xyxy, (label,))


@pytest.mark.parametrize("solution", [None, [], "", "[]", "None", "<answer> null </answer>"])
def test_nothing_there(load, solution):
    assert load({"problem": "the zebra", "solution": solution})[0].target == BoxTarget(())


def test_names_and_placeholders_of_other_projects(load):
    [sample] = load(
        {"question": "<image>\nOutput the bounding box of the red cup in the image.", "answer": [100, 48, 200, 96]}
    )
    assert (sample.question, sample.target) == ("red cup", BOX)
    turns = [{"from": "human", "value": "<image>" + PHRASE}, {"from": "gpt", "value": "[100, 48, 200, 96]"}]
    [sample] = load({"conversations": turns}, name="records.jsonl")
    assert (sample.question, sample.target) == ("the red cup", BOX)
    roles = [{"role": "user", "content": "the red cup"}, {"role": "assistant", "content": "[100, 48, 200, 96]"}]
    assert load({"messages": roles})[0].target == BOX
    thinking = "Output all the bounding boxes of the cups Output the thinking process in <think> </think> and more."
    assert load({"problem": thinking, "solution": 3}, task="counting")[0].question == "cups"


def test_coordinates_option(load):
    for solution, coordinates in (([200, 120, 400, 240], "norm1000"), ([0.2, 0.12, 0.4, 0.24], "unit")):
        assert load({"problem": "x", "solution": solution}, coordinates=coordinates)[0].target == BOX
    model_width, model_height = get_family("qwen2_5_vl").model_size((500, 400), max_pixels=1_000_000)
    solution = [100 * model_width / 500, 48 * model_height / 400, 200 * model_width / 500, 96 * model_height / 400]
    [sample] = load({"problem": "x", "solution": solution}, coordinates="resized", max_pixels=1_000_000)
    assert sample.target.boxes_xyxy[0] == pytest.approx(BOX.boxes_xyxy[0], abs=1e-3)
    assert load({"problem": "x", "solution": None, "normalized_solution": [200, 120, 400, 240]})[0].target == BOX
    large = {"problem": "x", "solution": [1, 2, 3, 4], "width": 1920, "height": 1080}
    with pytest.raises(DataError, match=r"json:1: field 'solution': .*: give the options min_pixels and max_pixels"):
        load(large, coordinates="resized")


def test_two_spaces_must_agree(load):
    assert load({"problem": "x", "solution": [100, 48, 200, 96], "normalized_solution": [201, 119, 400, 240]})
    with pytest.raises(DataError, match=r"json:1: field 'solution': .* are different boxes of a 500 × 400 image"):
        load({"problem": "x", "solution": [100, 48, 200, 96], "normalized_solution": [100, 48, 200, 96]})
    two = [[100, 48, 200, 96], [10, 10, 20, 20]]
    with pytest.raises(DataError, match=r"field 'solution': 2 boxes beside 1 in normalized_solution"):
        load({"problem": "x", "solution": two, "normalized_solution": [200, 120, 400, 240]})


def test_counting(load):
    points = PointTarget(((100.0, 48.0), (200.0, 96.0)))
    for solution in ([[100, 48], [200, 96]], [{"x": 100, "y": 48}, {"x": 200, "y": 96}], "[[100, 48], [200, 96]]"):
        assert load({"problem": "cups", "solution": solution}, task="counting")[0].target == points
    solution = [{"point_2d": [200, 120], "label": "cup"}, {"point_2d": [400, 240], "label": "cup"}]
    assert load({"problem": "cups", "solution": solution}, task="counting", coordinates="norm1000")[0].target == points
    assert load({"problem": "cups", "solution": [[100, 48, 200, 96]]}, task="counting")[0].target == BOX
    assert load({"question": "cups", "ground_truth": 4}, task="counting")[0].target == CountTarget(4)
    assert load({"problem": "cups", "solution": None}, task="counting")[0].target == PointTarget(())


def test_detection(load):
    solution = [{"bbox_2d": [100, 48, 200, 96], "label": "cup"}]
    prompt = "Please output bbox coordinates and names of cup, dog."
    [sample] = load({"problem": prompt, "solution": solution}, task="detection")
    assert sample.target == BoxTarget(BOX.boxes_xyxy, ("cup",))
    assert sample.categories == ("cup", "dog")
    [sample] = load({"problem": "all", "solution": solution}, task="detection", categories=["cat", "cup"])
    assert sample.categories == ("cat", "cup")
    solution = {"target_id": [90, 1], "target_box": [[100, 48, 200, 96], [0, 0, 5, 5]]}
    [sample] = load({"problem": "all", "solution": solution}, task="detection")
    assert sample.target.labels == ("toothbrush", "person")


def test_ocr_and_geometry(load):
    assert load({"problem": "OCR this image.", "solution": "A\nB"}, task="ocr")[0].target == TextTarget("A\nB")
    record = {
        "problem": "<image>Find x",
        "answer": "2",
        "visual_key_info": "<info1>AB = 1</info1>\n<info2>right</info2>",
    }
    [sample] = load(record, task="geometry")
    assert (sample.question, sample.target) == ("Find x", AnswerTarget("2", ("AB = 1", "right")))


@pytest.mark.parametrize(
    ("record", "field", "message"),
    [
        ({"problem": "x", "solution": [10, 20, 5, 40]}, "solution", "x2 < x1"),
        ({"problem": "x", "solution": [10, 20, 700, 40]}, "solution", "outside its image of 500 × 400"),
        ({"problem": "x", "solution": [10, 20, 30]}, "solution", "10 is not a box"),
        ({"problem": "x", "solution": "__import__('os').system('true')"}, "solution", "is not readable"),
        ({"problem": "x", "solution": [{"label": "cup"}]}, "solution", "has no box"),
        ({"problem": "x", "solution": 7}, "solution", "7 is not a box"),
        ({"problem": "x", "slution": [1, 2, 3, 4]}, "solution", "did you mean 'slution'"),
        ({"solution": [1, 2, 3, 4], "problems": "x"}, "problem", "did you mean 'problems'"),
        ({"problem": 5, "solution": [1, 2, 3, 4]}, "problem", "not a string"),
        ({"problem": "x", "solution": [1, 2, 3, 4], "image": "b.png"}, "image", '"b.png" is not in'),
        ({"problem": "x", "solution": [1, 2, 3, 4], "image": None}, "image", "is missing"),
        ({"problem": "x", "solution": [1, 2, 3, 4], "image": ["a.png", "a.png"]}, "image", "2 images"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "conversations", "has no human turn"),
    ],
)
def test_broken_twin(load, record, field, message):
    good = {"problem": "x", "solution": [1, 2, 3, 4]}
    with pytest.raises(DataError, match=rf"records\.json:2: field '{field}': .*{re.escape(message)}"):
        load([good, record])


def test_broken_files(save_json, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"image": "a.png"}\n{"image": ')
    with pytest.raises(DataError, match=r"records\.jsonl:2: the JSON is cut off"):
        load_source({"source": "records", "path": str(path)}, task="grounding")
    with pytest.raises(DataError, match=r"records\.json: the file has no records"):
        load_source({"source": "records", "path": str(save_json("records.json", []))}, task="grounding")


def test_ids_are_made_unique(load):
    record = {"problem": "x", "solution": [1, 2, 3, 4], "id": 5}
    assert [sample.id for sample in load([record, record, {**record, "id": "5~2"}])] == ["5", "5~3", "5~2"]


def test_real_records_agree_in_both_coordinate_spaces(shared_data):
    """506 rows that give each box twice: ours (from pixels) and 0..1000 must be one box but for rounding."""
    path = shared_data / "referring" / "refcocos_test.json"
    spec = {"source": "records", "path": str(path), "options": {"missing": "keep"}}
    samples = load_source(spec, task="grounding")
    records = read_json(path)
    assert len(samples) == len(records) == 506
    n_empty = 0
    for sample, record in zip(samples, records, strict=True):
        assert sample.question == record["normal_caption"].strip().removesuffix(".")
        normalized = record["normalized_solution"]
        n_empty += normalized is None
        expected = () if normalized is None else (normalized,)
        assert len(sample.target.boxes_xyxy) == len(expected)
        for box, other in zip(sample.target.boxes_xyxy, expected, strict=True):
            for value, thousandths, side in zip(box, other, sample.image_size * 2, strict=True):
                assert abs(value - thousandths * side / 1000) <= 1 + side / 1000
    assert n_empty == 25 == sum(record["categories"]["empty_case"] for record in records)


def test_real_records_with_their_images(shared_data):
    spec = {
        "source": "records",
        "path": str(shared_data / "referring" / "refcocos_test.json"),
        "images": str(shared_data / "coco"),
        "options": {"missing": "skip"},
    }
    assert len(load_source(spec, task="grounding")) == 6
