"""Every published layout of every benchmark, in small; and a broken twin of each."""

from __future__ import annotations

import json
import pickle

import pytest
from PIL import Image

from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.answers import read_answers
from perception_r1.evaluate.benchmarks import BENCHMARKS, GROUPS, expand, load_benchmark
from perception_r1.evaluate.checkpoints import CHECKPOINTS, checkpoint_for
from perception_r1.types import BoxTarget, CountTarget, TextTarget
from pr1_folder import write_pr1_folder

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


class Tree:
    """Files of a benchmark in a temporary folder."""

    def __init__(self, root):
        self.root = root

    def image(self, name, size=(64, 48)):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "white").save(path)

    def json(self, name, value):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value) if not name.endswith(".jsonl") else "\n".join(map(json.dumps, value)))
        return path

    def load(self, name, images=None, **more):
        return load_benchmark(BENCHMARKS[name], self.root, images, **more)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_names_and_groups():
    assert [item.name for item in expand("grounding")] == [
        "refcoco-val",
        "refcoco-testA",
        "refcoco-testB",
        "refcoco+-val",
        "refcoco+-testA",
        "refcoco+-testB",
        "refcocog-val",
        "refcocog-test",
    ]
    assert [item.name for item in expand("pageocr-zh,pageocr")] == ["pageocr-zh", "pageocr-en"]
    assert set(GROUPS["refcoco+"]) == {"refcoco+-val", "refcoco+-testA", "refcoco+-testB"}
    with pytest.raises(UserError, match="unknown benchmark 'refcoco-vall', did you mean 'refcoco-val'"):
        expand("refcoco-vall")


def _official(tree, folder, by, splits):
    instances = {
        "images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 70, "image_id": 7, "category_id": 1, "bbox": [4, 6, 20, 10]}],
        "categories": CATEGORIES,
    }
    refs = [
        {
            "ref_id": n,
            "ann_id": 70,
            "image_id": 7,
            "split": split,
            "category_id": 1,
            "sentences": [{"sent": f"{folder} {split}", "sent_id": n}],
        }
        for n, split in enumerate(splits)
    ]
    tree.json(f"{folder}/instances.json", instances)
    (tree.root / folder / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))


def test_refcoco_official_all_eight_splits(tree):
    tree.image("train2014/COCO_train2014_000000000007.jpg")
    for folder in ("refcoco", "refcoco+"):
        _official(tree, folder, "unc", ["train", "val", "testA", "testB"])
    _official(tree, "refcocog", "umd", ["train", "val", "test"])
    for name in GROUPS["grounding"]:
        found = tree.load(name)
        folder, split = name.rsplit("-", 1)
        assert [sample.question for sample in found.samples] == [f"{folder} {split}"]
        assert found.samples[0].target == BoxTarget(((4.0, 6.0, 24.0, 16.0),))


def test_a_folder_of_another_dataset_is_not_taken_for_it(tree):
    """RefCOCO and RefCOCO+ both name their file refs(unc).p."""
    tree.image("train2014/COCO_train2014_000000000007.jpg")
    _official(tree, "refcoco+", "unc", ["val"])
    assert len(load_benchmark(BENCHMARKS["refcoco+-val"], tree.root / "refcoco+").samples) == 1
    with pytest.raises(DataError, match=r"holds no file of RefCOCO val \(looked for .*refs\(unc\)\.p"):
        load_benchmark(BENCHMARKS["refcoco-val"], tree.root / "refcoco+")


def test_a_malicious_refs_file_is_refused(tree):
    import os

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tree.root}/owned",)

    _official(tree, "refcoco", "unc", ["val"])
    (tree.root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: refused, it asks for (posix|nt)\.system"):
        tree.load("refcoco-val")
    assert not (tree.root / "owned").exists()


def _pr1(tree):
    write_pr1_folder(tree.root / "eval")


@pytest.mark.parametrize("given", ["eval", "."])
@pytest.mark.parametrize("images", [None, "eval/images"])
def test_pr1_own_folder_is_read_unchanged(tree, given, images):
    _pr1(tree)
    tree.root, images = tree.root / given, None if images is None else tree.root / images
    (sample,) = tree.load("refcoco+-testA", images).samples
    assert (sample.question, sample.target) == ("left dog", BoxTarget(((4.0, 6.0, 24.0, 16.0),)))
    (sample,) = tree.load("pixmo-count-val", images).samples
    assert (sample.question, sample.target) == ("dogs", CountTarget(3))
    assert len(tree.load("pixmo-count-test", images).samples) == 2
    assert tree.load("pageocr-en", images).samples[0].target == TextTarget("some words")
    (sample,) = tree.load("pageocr-zh", images).samples
    assert (sample.target, sample.question) == (TextTarget("一 二"), "")
    found = tree.load("coco2017", images)
    assert found.samples[0].image_size == (64, 48)
    assert found.samples[0].target == BoxTarget(((8.0, 12.0, 40.0, 36.0),), ("dog",))
    assert found.samples[1].target == BoxTarget(())  # only a crowd: asked all the same
    assert found.annotations.name == "coco_val2017.json"


def test_coco_figures_from_pr1_file_and_from_the_official_one(tree):
    """Boxes are compared in the file's own space; IoU does not change when both sides are scaled alike."""
    pytest.importorskip("hotcoco")
    from perception_r1.evaluate.coco import coco_metrics
    from perception_r1.types import RewardRecord

    _pr1(tree)
    found = tree.load("coco2017")
    records = [
        RewardRecord(1.0, pred_xyxy=((8.0, 12.0, 40.0, 36.0),), pred_labels=("dog",), n_pred=1, n_valid=1),
        RewardRecord(1.0, pred_xyxy=((0.0, 0.0, 9.0, 9.0),), pred_labels=("person",), n_pred=1, n_valid=1),
    ]
    metrics = coco_metrics(list(zip(found.samples, records, strict=True)), found.annotations)
    assert metrics["AP"]["value"] == pytest.approx(1.0)  # and the box on the crowd costs nothing


def test_other_layouts(tree):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    tree.image("fox/focus_benchmark_test/en_pdf_png/p1.png")
    turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": ""}]
    tree.json("fox/focus_benchmark_test/en_page_ocr.json", [{"image": "p1.png", "conversations": turns}])
    (sample,) = load_benchmark(BENCHMARKS["pageocr-en"], tree.root / "fox").samples
    assert sample.target == TextTarget("")
    tree.image("pixmo/images/a.jpg")
    rows = [{"image_url": "https://x.org/a.jpg", "label": "cups", "count": 2, "points": None}]
    (tree.root / "pixmo/data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tree.root / "pixmo/data/validation-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows * 2), tree.root / "pixmo/data/test-00000-of-00001.parquet")
    images = tree.root / "pixmo/images"
    assert len(load_benchmark(BENCHMARKS["pixmo-count-val"], tree.root / "pixmo", images).samples) == 1
    assert len(load_benchmark(BENCHMARKS["pixmo-count-test"], tree.root / "pixmo", images).samples) == 2
    # a file of another name, and canonical rows
    file = tree.json(
        "mine.jsonl", [{"id": "1", "task": "counting", "image": "pixmo/images/a.jpg", "question": "c", "count": 1}]
    )
    assert load_benchmark(BENCHMARKS["pixmo-count-val"], file).samples[0].target == CountTarget(1)


def test_links_that_died_can_be_left_out(tree):
    rows = [{"image_url": f"https://x.org/{name}.png", "label": "cups", "count": 2} for name in "ab"]
    tree.image("images/a.png")
    tree.json("validation.jsonl", rows)
    with pytest.raises(DataError, match=r'validation.jsonl:2: field \'image\': "b.png" is not in'):
        tree.load("pixmo-count-val")
    found = tree.load("pixmo-count-val", missing="skip")
    assert len(found.samples) == 1
    assert found.notes == ["entries left out because their image is missing: 1"]


@pytest.mark.parametrize(
    ("benchmark", "file", "change", "message"),
    [
        (
            "refcoco+-testA",
            "grounding/refcocop_testA.json",
            {"solution": [4, 6, 2, 16]},
            r":1: field 'solution': .*x2 < x1",
        ),
        ("refcoco+-testA", "grounding/refcocop_testA.json", {"problem": 3}, r":1: field 'problem': 3 is not a string"),
        (
            "refcoco+-testA",
            "grounding/refcocop_testA.json",
            {"image": "no.jpg"},
            r":1: field 'image': \"no.jpg\" is not in",
        ),
        (
            "pixmo-count-val",
            "counting/pixmo_count_validation540_counting_problems_label.jsonl",
            {"ground_truth": "3"},
            r":1: field 'count': .*not a number",
        ),
        (
            "pageocr-en",
            "ocr/en_page_ocr.json",
            {"conversations": "text"},
            r":1: field 'conversations': .*not a list of turns",
        ),
        (
            "coco2017",
            "detection/coco_val2017.json",
            {"annotations": [{"id": 1, "image_id": 9, "category_id": 5}]},
            r":1: field 'annotations.category_id': 5 is not a category",
        ),
    ],
)
def test_broken_twins_name_file_line_and_field(tree, benchmark, file, change, message):
    _pr1(tree)
    path = tree.root / "eval/jsons" / file
    value = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if file.endswith("l")
        else json.loads(path.read_text())
    )
    value = {**value, **change} if isinstance(value, dict) else [{**value[0], **change}]
    tree.json(f"eval/jsons/{file}", value)
    with pytest.raises(DataError, match=path.name + message):
        tree.load(benchmark)


def test_nothing_there(tree):
    with pytest.raises(DataError, match=r"holds no file of COCO val2017 \(looked for annotations/inst"):
        tree.load("coco2017")
    with pytest.raises(DataError, match=r"no such file or folder \(correct --data\)"):
        load_benchmark(BENCHMARKS["coco2017"], tree.root / "none")
    (tree.root / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="is not a file that COCO val2017 is read from"):
        load_benchmark(BENCHMARKS["coco2017"], tree.root / "notes.txt")


def test_checkpoints_name_benchmarks_and_families_that_exist():
    from perception_r1.families import FAMILIES

    for checkpoint in CHECKPOINTS.values():
        assert checkpoint.family in FAMILIES
        if checkpoint.benchmarks:
            assert expand(checkpoint.benchmarks)
    assert checkpoint_for(None, "Kangheng/PR1-Qwen2-VL-2B-Grounding").repetition_penalty == 1.05
    assert checkpoint_for(None, "/some/folder") is None
    with pytest.raises(UserError, match="is no published checkpoint"):
        checkpoint_for("Kangheng/PR1", None)


def test_pr1_own_result_files_are_replayed(tree):
    _pr1(tree)
    grounding = tree.load("refcoco+-testA").samples
    said = "<|object_ref_start|>left dog<|object_ref_end|><|box_start|>(62,125),(375,333)<|box_end|>"
    details = [{"question": "left dog", "ground_truth": [62, 125, 375, 333], "model_output": said, "scores": {}}]
    path = tree.json(
        "rec_results.json", {"model": "m", "dataset": "refcocop_testA", "average_scores": {}, "details": details}
    )
    assert read_answers(path, grounding)[grounding[0].id].text == said

    counting = {name: tree.load(name).samples for name in ("pixmo-count-val", "pixmo-count-test")}
    row = {"question": "dogs", "ground_truth": 3, "model_output": "x", "extracted_answer": None}
    sets = {
        "pixmo_count_test540": {"accuracy": 0, "results": [row, row]},
        "pixmo_count_validation540": {"accuracy": 0, "results": [row]},
        "average_accuracy": 0,
    }
    path = tree.json("counting_results_0410.json", sets)
    assert len(read_answers(path, counting["pixmo-count-val"])) == 1
    assert len(read_answers(path, counting["pixmo-count-test"])) == 2

    pages = tree.load("pageocr-en").samples
    path = tree.json("en_page_ocr_results_0410.json", [{"image": "p1.png", "conversations": [], "output": "some word"}])
    assert read_answers(path, pages)[pages[0].id].text == "some word"

    images = tree.load("coco2017").samples
    path = tree.json("temp_results_1.json", [{"image_id": 9, "category_id": 18, "bbox": [7, 14, 28, 28], "score": 1.0}])
    answers = read_answers(path, images)
    assert json.loads(answers[images[0].id].text) == [{"bbox_2d": [7.0, 14.0, 35.0, 42.0], "label": "dog"}]
    assert answers[images[1].id].text == "[]"
    path = tree.json("temp_results_2.json", [{"image_id": 77, "category_id": 18, "bbox": [7, 14, 28, 28]}])
    with pytest.raises(DataError, match=r"field 'image_id': has no box of any image of the data"):
        read_answers(path, images)
    path.write_text('[\n{"image": "p1.png", "output": "some word"}\n]')  # a list, whatever its lines begin with
    assert read_answers(path, pages)[pages[0].id].text == "some word"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"details": []}, r"field 'details': 0 answers to 1 samples"),
        ({"details": [{"question": "left dog"}]}, r":1: field 'model_output': .* has no text"),
        ({"details": [{"question": "a cat", "model_output": ""}]}, r':1: field \'question\': "a cat" was asked where'),
        ([{"image": "other.jpg", "output": ""}], r":1: field 'image': .*is not the picture"),
        (
            {"a": {"results": []}, "average_accuracy": 0},
            r"field 'results': holds no set of answers to",
        ),
        ([{"image_id": 1, "category_id": 12, "bbox": [0, 0, 1, 1]}], r":1: .*is no COCO result"),
    ],
)
def test_broken_result_files(tree, value, message):
    _pr1(tree)
    samples = tree.load("refcoco+-testA").samples
    with pytest.raises(DataError, match=r"results.json:?.*" + message):
        read_answers(tree.json("results.json", value), samples)
