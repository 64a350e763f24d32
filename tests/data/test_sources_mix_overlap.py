from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from perception_r1.data.jsonl import write_jsonl
from perception_r1.data.mix import mix
from perception_r1.data.overlap import coco_id, overlap
from perception_r1.data.sources import SourceSpec, load_mix, load_source
from perception_r1.errors import DataError
from perception_r1.types import Sample, TextTarget


def rows(n, prefix="a"):
    return [
        Sample(f"{prefix}{index}", "ocr", "", TextTarget(str(index)), f"/x/{prefix}{index}.png") for index in range(n)
    ]


def taken(mixed):
    return Counter(sample.id[0] for sample in mixed)


def test_counts_shares_and_what_is_left():
    a, b, c = rows(100, "a"), rows(60, "b"), rows(30, "c")
    assert taken(mix([(a, None, None), (b, None, None)])) == {"a": 100, "b": 60}
    assert taken(mix([(a, 10, None), (b, None, None)])) == {"a": 10, "b": 60}
    assert taken(mix([(a, None, 0.5), (b, None, 0.5)], 40)) == {"a": 20, "b": 20}
    assert taken(mix([(a, None, 0.25), (b, 10, None), (c, None, None)], 40)) == {"a": 10, "b": 10, "c": 20}
    assert taken(mix([(a, None, None), (b, None, None)], 16)) == {"a": 10, "b": 6}


def test_shares_without_total_take_as_much_as_they_can():
    # 100 rows are 3/4 of 133.3, so 133 rows: 99.75 and 33.25 rounded by the largest remainder
    assert taken(mix([(rows(100, "a"), None, 0.75), (rows(60, "b"), None, 0.25)])) == {"a": 100, "b": 33}
    assert taken(mix([(rows(10, "a"), None, 1.0)])) == {"a": 10}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 3), st.data())
def test_a_mix_has_the_total_asked_for_and_no_row_twice(sizes, seed, data):
    sources = [(rows(size, chr(97 + index)), None, None) for index, size in enumerate(sizes)]
    total = data.draw(st.integers(1, sum(sizes)))
    mixed = mix(sources, total, seed)
    assert len(mixed) == total == len({sample.id for sample in mixed})
    assert mixed == mix(sources, total, seed)


def test_the_mix_is_random_seeded_and_the_same_everywhere():
    a = rows(1000)
    drawn = mix([(a, 5, None)], seed=0)
    assert [sample.id for sample in drawn] == [sample.id for sample in mix([(a, 5, None)], seed=0)]
    assert [sample.id for sample in drawn] != [sample.id for sample in mix([(a, 5, None)], seed=1)]
    assert not {sample.id for sample in drawn} <= {f"a{index}" for index in range(100)}
    # pinned: a change here silently changes everybody's training data
    assert [sample.id for sample in drawn] == ["a399", "a492", "a350", "a850", "a709"]
    # what a source gives does not depend on the others
    with_more = mix([(a, 5, None), (rows(50, "b"), 7, None)], seed=0)
    assert {sample.id for sample in with_more if sample.id[0] == "a"} == {sample.id for sample in drawn}
    whole = mix([(a, None, None)], seed=0)
    assert sorted(whole, key=lambda sample: int(sample.id[1:])) == a != whole


@pytest.mark.parametrize(
    ("sources", "total", "message"),
    [
        ([(rows(5), 6, None)], None, "source 1 has 5 rows but 6 are asked of it"),
        ([(rows(5), None, 0.5), (rows(5), None, 0.5)], 20, "source 1 has 5 rows but 10 are asked"),
        ([(rows(5), None, 0.7), (rows(5), None, 0.7)], 10, "shares sum to 1.4"),
        ([(rows(5), None, 1.5)], 10, "share is 1.5"),
        ([(rows(5), 1, 0.5)], 10, "a count and a share"),
        ([(rows(5), 0, None)], None, "count is 0"),
        ([(rows(5), None, 0.5), (rows(5), None, None)], None, "need a total"),
        ([(rows(5), 5, None), (rows(5), 5, None)], 8, "ask for 10 rows but total is 8"),
        ([(rows(5), 5, None)], 8, "give 5 rows but total is 8"),
        ([(rows(5), None, None)], 8, "total is 8 but the sources have only 5"),
    ],
)
def test_impossible_mixes(sources, total, message):
    with pytest.raises(DataError, match=message):
        mix(sources, total)


def test_equal_ids_of_two_sources_are_told_apart():
    mixed = mix([(rows(3), None, None), (rows(3), None, None)])
    assert len({sample.id for sample in mixed}) == 6


def test_specs(tmp_path, save_image):
    image = save_image("a.png", (50, 40))
    write_jsonl(tmp_path / "rows.jsonl", [replace(sample, image=str(image), image_size=(50, 40)) for sample in rows(9)])
    table = {"source": "jsonl", "path": "rows.jsonl", "count": 4}
    assert len(load_source(table, task="ocr", base_dir=tmp_path)) == 9  # count is the mix's business
    from_recipe = SimpleNamespace(
        source="jsonl", path="rows.jsonl", images=None, split=None, count=4, share=None, options={}
    )
    for spec in (table, from_recipe, SourceSpec(**table)):
        assert len(load_mix([spec], task="ocr", base_dir=tmp_path)) == 4
    for change, message in (
        ({"sorce": "x"}, "no key 'sorce', did you mean 'source'"),
        ({"source": "cocoa"}, "unknown source 'cocoa', did you mean 'coco'"),
        ({"source": "pixmo"}, r"no rows for task 'ocr' \(it has: counting\)"),
        ({"path": None}, "needs a path"),
        ({"path": "row.jsonl"}, r"no such file or folder, did you mean 'rows\.jsonl'"),
        ({"split": "val"}, "has no splits"),
        ({"options": {"x": 1}}, "no option 'x'"),
        ({"images": "photos"}, "does not exist"),
        ({"count": 10}, r"jsonl rows\.jsonl has 9 rows but 10"),
    ):
        with pytest.raises(DataError, match=message):
            load_mix([{**table, **change}], task="ocr", base_dir=tmp_path)
    with pytest.raises(DataError, match="unknown task 'orc', did you mean 'ocr'"):
        load_source(table, task="orc", base_dir=tmp_path)


def test_jsonl_options(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [replace(sample, image_size=(50, 40)) for sample in rows(2)])
    spec = {"source": "jsonl", "path": "rows.jsonl"}
    assert len(load_source({**spec, "options": {"missing": "keep"}}, task="ocr", base_dir=tmp_path)) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl:1: field 'image': .* does not exist"):
        load_source({**spec, "options": {"on_error": "skip"}}, task="ocr", base_dir=tmp_path)


def test_jsonl_rows_without_their_image_are_left_out_where_asked(tmp_path, save_image):
    save_image("here.png", (50, 40))
    lines = [{"image": name, "question": "read", "text": "a"} for name in ("here.png", "gone.png")]
    lines.append({"image": "here.png", "question": "read"})  # bad in another way
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    spec = {"source": "jsonl", "path": "rows.jsonl"}
    with pytest.raises(DataError, match=r"rows\.jsonl:3: field 'text'"):
        load_source({**spec, "options": {"missing": "skip"}}, task="ocr", base_dir=tmp_path)
    notes = []
    both = {"missing": "skip", "on_error": "skip"}
    samples = load_source({**spec, "options": both}, task="ocr", base_dir=tmp_path, note=notes.append)
    assert [Path(sample.image).name for sample in samples] == ["here.png"]
    assert [note.partition(";")[0] for note in notes] == [
        "rows left out because their image is missing: 1",
        "bad rows left out: 1",
    ]


def test_digits(tmp_path):
    pytest.importorskip("sklearn")
    spec = {"source": "digits", "path": "scenes", "split": "heldout", "count": 3, "options": {"max_digits": 2}}
    samples = load_source(spec, task="counting", base_dir=tmp_path)
    assert len(samples) == 3
    assert all(str(tmp_path / "scenes") in sample.image for sample in samples)
    with pytest.raises(DataError, match="no option 'max_digit', did you mean 'max_digits'"):
        load_source({**spec, "options": {"max_digit": 2}}, task="counting", base_dir=tmp_path)
    with pytest.raises(DataError, match="needs a count"):
        load_source({"source": "digits"}, task="counting")


def sample_of(path, identity="1"):
    return Sample(identity, "ocr", "", TextTarget(""), str(path))


def test_overlap_knows_coco_under_all_its_names():
    train = [
        sample_of("/a/COCO_train2014_000000123456.jpg", "t1"),
        sample_of("/a/COCO_train2014_000000123456.jpg", "t2"),
    ]
    train += [sample_of("/a/000000000007.jpg", "t3"), sample_of("/a/000000000008.jpg", "t4")]
    evaluation = [sample_of("/b/val2017/000000123456.jpg", "e1"), sample_of("/b/COCO_val2014_000000000007_3.jpg", "e2")]
    shared = overlap(train, evaluation)
    assert [(item.ids_a, item.ids_b, item.by) for item in shared] == [
        (("t1", "t2"), ("e1",), "coco id"),
        (("t3",), ("e2",), "coco id"),
    ]
    assert coco_id("000000123456.jpg") == 123456
    assert coco_id("COCO_train2014_000000581857_16.jpg") == 581857
    assert coco_id("12345.jpg") is None


def test_overlap_by_path_content_and_name(save_image):
    one = save_image("a/one.png", (50, 40))
    copied = one.with_name("renamed.png")
    shutil.copy(one, copied)
    reencoded = save_image("b/photo.jpg", (60, 40))
    original = save_image("a/photo.png", (60, 40))
    other = save_image("b/1.png", (30, 20))
    same_name = save_image("a/1.png", (31, 21))
    Image.new("RGB", (30, 20), "red").save(other)
    found = overlap(
        [sample_of(path) for path in (one, original, same_name, "/gone/x.png")],
        [sample_of(path) for path in (one, reencoded, other, "/away/X.jpg")],
    )
    assert [(item.image_a, item.by) for item in found] == [
        (str(one), "path"),
        (str(original), "name"),
        ("/gone/x.png", "name"),
    ]
    assert [item.by for item in overlap([sample_of(one)], [sample_of(copied)])] == ["content"]
    assert overlap([], [sample_of(one)]) == overlap([sample_of(one)], []) == []


def test_real_overlap(shared_data):
    """Six images of the referring rows are among the 27 of the COCO validation sample."""
    spec = {"source": "coco", "path": str(shared_data / "coco" / "instances_val2017.json")}
    train = load_source(spec, task="detection")
    records = {
        "source": "records",
        "path": str(shared_data / "referring" / "refcocos_test.json"),
        "options": {"missing": "keep"},
    }
    shared = overlap(train, load_source(records, task="grounding"))
    assert len(shared) == 6
    assert {item.by for item in shared} == {"coco id"}
    other = {"source": "coco", "path": str(shared_data / "coco" / "instances_train2017.json")}
    assert overlap(train, load_source(other, task="detection")) == []
