from __future__ import annotations

import copyreg
import os
import pickle
import re
import subprocess
from collections import OrderedDict

import pytest

from perception_r1.data.refcoco import plain_unpickle
from perception_r1.data.sources import load_source
from perception_r1.errors import DataError
from perception_r1.types import BoxTarget

INSTANCES = {
    "images": [
        {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 427},
        {"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 100, "height": 80},
    ],
    "annotations": [
        {"id": 1719310, "image_id": 581857, "category_id": 1, "bbox": [10.5, 20, 30.25, 40]},
        {"id": 2, "image_id": 42, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 1, "name": "person"}],
}


def sentence(number, text):
    return {"tokens": text.split(), "raw": text, "sent_id": number, "sent": text}


REFS = [
    {
        "sent_ids": [0, 1],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "ref_id": 0,
        "image_id": 581857,
        "split": "train",
        "category_id": 1,
        "sentences": [sentence(0, "the lady with the blue shirt"), sentence(1, "lady with back to us")],
    },
    {
        "sent_ids": [2],
        "file_name": "COCO_train2014_000000000042_2.jpg",
        "ann_id": 2,
        "ref_id": 1,
        "image_id": 42,
        "split": "testA",
        "category_id": 1,
        "sentences": [sentence(2, "man")],
    },
]


@pytest.fixture
def folder(tmp_path, save_image, save_json):
    save_image("train2014/COCO_train2014_000000581857.jpg", (640, 427))
    save_image("train2014/COCO_train2014_000000000042.jpg", (100, 80))
    save_json("refcoco/instances.json", INSTANCES)

    def write(refs=REFS, name="refs(unc).p", protocol=0):
        path = tmp_path / "refcoco" / name
        path.write_bytes(pickle.dumps(refs, protocol=protocol))
        return path

    return write


def load(path, split=None, **options):
    return load_source({"source": "refcoco", "path": str(path), "split": split, "options": options}, task="grounding")


@pytest.mark.parametrize("protocol", range(6))
def test_a_row_a_sentence(folder, protocol):
    samples = load(folder(protocol=protocol).parent)
    assert [(sample.id, sample.question) for sample in samples] == [
        ("0-0", "the lady with the blue shirt"),
        ("0-1", "lady with back to us"),
        ("1-2", "man"),
    ]
    assert samples[0].target == BoxTarget(((10.5, 20.0, 40.75, 60.0),))
    assert samples[0].image_size == (640, 427)


def test_python_2_pickles(folder):
    """The official files were written by Python 2: byte strings, which Python 3 must read as text."""
    path = folder()
    opcodes = b"(lp0\n(dp1\nS'split'\np2\nS'val'\np3\nsS'ann_id'\np4\nI2\nsS'image_id'\np5\nI42\nsS'sentences'\np6\n"
    path.write_bytes(opcodes + b"(lp7\n(dp8\nS'sent'\np9\nS'caf\\xe9 man'\np10\nsS'sent_id'\np11\nL7L\nsasa.")
    [sample] = load(path, split="val")
    assert (sample.question, sample.id) == ("café man", "2-7")


def test_splits_sentences_and_choice_of_file(folder):
    folder(name="refs(google).p")
    path = folder()
    assert [sample.id for sample in load(path, split="testA")] == ["1-2"]
    assert [sample.id for sample in load(path, sentences="first")] == ["0-0", "1-2"]
    assert len(load(path.parent, split_by="google")) == 3
    with pytest.raises(DataError, match=r"has no split 'test' \(it has: testA \(1\), train \(1\)\)"):
        load(path, split="test")
    with pytest.raises(DataError, match=r"found refs\(google\)\.p, refs\(unc\)\.p"):
        load(path.parent)


class System:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Popen:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return subprocess.Popen, (["/bin/sh", "-c", self.command],)


class Evaluated:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return eval, (self.code,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_nothing_runs(folder, tmp_path, protocol):
    marker = tmp_path / "marker"
    command = f"echo owned > {marker}"
    attacks = [System(command), Popen(command), Evaluated(f"open({str(marker)!r}, 'w').write('owned')")]
    for attack in attacks:
        path = folder([*REFS, attack], protocol=protocol)
        with pytest.raises(
            DataError,
            match=r"refs\(unc\)\.p: refused, it asks for (posix|nt|subprocess|commands|builtins|__builtin__)\.",
        ):
            load(path)
        assert not marker.exists()
    # the payload is a real one: an ordinary unpickler runs it
    pickle.loads(pickle.dumps(attacks[0], protocol=protocol))
    assert marker.exists()


def test_other_ways_to_reach_a_name_are_refused(folder):
    path = folder()
    for content in (
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"Pevil\n.",
        pickle.dumps(OrderedDict(a=1), protocol=2),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="refused, it asks for"):
            plain_unpickle(path)
    copyreg.add_extension("os", "system", 0xF0)
    try:
        path.write_bytes(b"\x80\x02\x82\xf0.")
        with pytest.raises(DataError, match=r"refused, it asks for os\.system"):
            plain_unpickle(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]", b"(lp0\n(dp1\nS'spl", b"0.", b"]\x94(h\x05e."])
def test_broken_pickles(folder, content):
    path = folder()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: "):
        load(path)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"ann_id": 99}, "ann_id", "99 is not an annotation"),
        ({"image_id": 99}, "image_id", "99 is not an image"),
        ({"sentences": "man"}, "sentences", "not a list of sentences"),
        ({"sentences": [{"sent": ""}]}, "sentences.sent", "is empty"),
        ({"sentences": [{}]}, "sentences.sent", "is null"),
    ],
)
def test_broken_twin(folder, change, field, message):
    path = folder([REFS[0], {**REFS[1], **change}])
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p:2: field '{re.escape(field)}': .*{message}"):
        load(path)


def test_broken_instances(folder, save_json):
    path = folder()
    broken = {**INSTANCES, "annotations": [INSTANCES["annotations"][0], {"id": 2, "bbox": [1, 2, "3", 4]}]}
    save_json("refcoco/instances.json", broken)
    with pytest.raises(DataError, match=r"instances\.json:2: field 'annotations\.bbox': \"3\" is not a number"):
        load(path)
    broken["annotations"][1]["bbox"] = [90, 2, 30, 4]
    save_json("refcoco/instances.json", broken)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p:2: field 'ann_id': \[90, 2, 120, 6\] lies outside"):
        load(path)
