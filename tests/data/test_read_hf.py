from __future__ import annotations

import io

import pytest
from PIL import Image

from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.types import BoxTarget, CountTarget, PointTarget

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(colour="red", size=(50, 40)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return stream.getvalue()


ROWS = [
    {"img": {"bytes": png(), "path": None}, "objects": {"bbox": [[1.0, 2.0, 10.0, 20.0]], "category": [1]}},
    {"img": {"bytes": png("blue"), "path": None}, "objects": {"bbox": [], "category": []}},
]
OPTIONS = {
    "columns": {"image": "img", "boxes": "objects.bbox", "labels": "objects.category"},
    "box_format": "xywh",
    "label_names": ["cat", "dog"],
}


@pytest.fixture
def load(tmp_path):
    def read(rows, task="detection", options=OPTIONS, name="data/train-00000-of-00001.parquet", **spec):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        options = {**options, "cache": str(tmp_path / "cache")}
        return load_source({"source": "hf", "path": str(spec.pop("path", path)), "options": options, **spec}, task=task)

    return read


def test_parquet_with_images_inside(load, tmp_path):
    samples = load(ROWS)
    assert [sample.target for sample in samples] == [BoxTarget(((1.0, 2.0, 11.0, 22.0),), ("dog",)), BoxTarget(())]
    assert [sample.categories for sample in samples] == [("cat", "dog")] * 2
    assert [sample.image_size for sample in samples] == [(50, 40)] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 2
    with Image.open(samples[1].image) as img:
        assert img.getpixel((0, 0)) == (0, 0, 255)
    assert [sample.image for sample in load(ROWS)] == [sample.image for sample in samples]


def test_splits_of_a_folder(load, tmp_path):
    load(ROWS)
    assert len(load(ROWS[:1], name="data/test-00000-of-00001.parquet", path=tmp_path / "data", split="test")) == 1
    assert len(load(ROWS, path=tmp_path / "data")) == 3
    with pytest.raises(DataError, match=r"split 'val' .*found: test, train"):
        load(ROWS, path=tmp_path / "data", split="val")


def test_saved_data_sets(tmp_path, save_image):
    datasets = pytest.importorskip("datasets")
    image = str(save_image("a.png", (50, 40)))
    table = datasets.Dataset.from_dict(
        {"image": [image, image], "question": ["cups", "dogs"], "count": [1, 2], "points": [[[3, 4]], None]}
    ).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(str(tmp_path / "many"))

    def load(name, **spec):
        options = {"cache": str(tmp_path / "cache")}
        return load_source({"source": "hf", "path": str(tmp_path / name), "options": options, **spec}, task="counting")

    samples = load("one")
    assert [sample.target for sample in samples] == [PointTarget(((3.0, 4.0),)), CountTarget(2)]
    assert samples[0].image_size == (50, 40)
    assert [sample.question for sample in load("many", split="test")] == ["cups"]
    with pytest.raises(DataError, match=r"has several splits .*train \(2\), test \(1\)"):
        load("many")
    with pytest.raises(DataError, match=r"has no split 'val'"):
        load("many", split="val")
    with pytest.raises(DataError, match=r"has no splits"):
        load("one", split="train")
    pixmo = {"source": "pixmo", "path": str(tmp_path / "many"), "split": "train", "options": {"cache": str(tmp_path)}}
    assert [sample.question for sample in load_source(pixmo, task="counting")] == ["cups", "dogs"]


def test_one_box_a_row_and_other_coordinates(load, save_image):
    save_image("data/a.png", (50, 40))
    row = {"image": "a.png", "question": "the dog", "boxes": [100.0, 50.0, 200.0, 500.0]}
    [sample] = load([row], task="grounding", options={"coordinates": "norm1000"})
    assert sample.target == BoxTarget(((5.0, 2.0, 10.0, 20.0),))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [ROWS[0], {**ROWS[1], "objects": {"bbox": [[1.0, 2.0, 99.0, 5.0]], "category": [0]}}],
            OPTIONS,
            r"parquet:2: field 'objects\.bbox': .*outside its image of 50 × 40",
        ),
        (
            [{**ROWS[0], "objects": {"bbox": [[1.0, 2.0, 3.0, 5.0]], "category": [7]}}],
            OPTIONS,
            r"parquet:1: field 'objects\.category': 7 has no name",
        ),
        (
            [{**ROWS[0], "img": {"bytes": b"GARBAGE", "path": None}}],
            OPTIONS,
            r"parquet:1: field 'img': holds bytes that are no image",
        ),
        (ROWS, {**OPTIONS, "columns": {"image": "imge"}}, r"field 'image': has no column 'imge', did you mean 'img'"),
        (ROWS, {**OPTIONS, "columns": {"boxs": "img"}}, r"no field 'boxs', did you mean 'boxes'"),
        (ROWS, {"box_format": "xywh"}, r"parquet:1: field 'image': is missing"),
        (ROWS, {"box_format": "cxcywh"}, r"expected xyxy or xywh"),
    ],
)
def test_broken_twin(load, rows, options, message):
    with pytest.raises(DataError, match=message):
        load(rows, options=options)


def test_what_is_no_table(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable parquet file"):
        load_source({"source": "hf", "path": str(path)}, task="counting")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no parquet files and no saved data set"):
        load_source({"source": "hf", "path": str(tmp_path / "empty")}, task="counting")
