from __future__ import annotations

import json
import os
import shutil

import pytest

from perception_r1.models import identity
from perception_r1.models.identity import (
    fingerprint,
    identity_tag,
    model_identity,
    model_label,
    same_model,
    served_identity,
    shown_identity,
)


def safetensors(values: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


@pytest.fixture
def model(tmp_path):
    """A folder with the files of a model; one of weights as large as need be for the test."""
    folder = tmp_path / "a" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(bytes(1000)))
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "merges.txt"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("large", [False, True])
def test_other_weights_are_another_model(model, monkeypatch, large):
    if large:
        monkeypatch.setattr(identity, "WHOLE_BYTES", 500)  # as if the file were of gigabytes
    before = model_identity(model)
    assert same_model(before, model_identity(model))
    (model / "model.safetensors").write_bytes(safetensors(bytes(999) + b"\1"))
    assert not same_model(before, model_identity(model))


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "merges.txt", "new.json"],
)
def test_every_file_that_an_answer_depends_on_counts(model, name):
    before = model_identity(model)
    (model / name).write_text('{"max_pixels": 5}')
    assert not same_model(before, model_identity(model))


def test_what_is_beside_a_model_does_not_count(model):
    before = fingerprint(model)
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "README.md", "report.html", ".lock"):
        (model / name).write_text("x")
    (model / "checkpoints").mkdir()
    assert fingerprint(model) == before


def test_a_folder_that_was_moved_or_linked_is_the_same_model(model, tmp_path):
    before = model_identity(model)
    link = tmp_path / "link"
    link.symlink_to(model, target_is_directory=True)
    assert model_identity(link) == before
    moved = shutil.copytree(model, tmp_path / "b" / "model")
    assert same_model(before, model_identity(moved))
    assert before["path"] != model_identity(moved)["path"]
    os.utime(moved / "model.safetensors", (1, 1))  # small files are hashed whole
    assert same_model(before, model_identity(moved))


def test_large_weights_are_not_read(model, monkeypatch):
    with (model / "model.safetensors").open("r+b") as stream:
        stream.truncate(8 << 30)  # a sparse file of 8 GiB
    assert len(fingerprint(model)) == 16


def test_unknown_is_never_the_same():
    assert not same_model(None, None)
    assert not same_model({"id": "a", "revision": None}, None)
    assert same_model({"id": "a", "revision": "1"}, {"revision": "1", "id": "a"})
    assert not same_model({"id": "a", "revision": "1"}, {"id": "a", "revision": "2"})


def test_models_behind_servers(model):
    url = "http://127.0.0.1:8000/v1"
    plain = served_identity(url, "m", None)
    assert plain == {"server": url, "model": "m"}
    assert not same_model(plain, served_identity("http://other/v1", "m", None))
    # vLLM gives the time of the question as `created`
    first, second = (served_identity(url, "m", {"id": "m", "created": n, "root": str(model)}) for n in (1, 2))
    assert same_model(first, second)
    assert first["fingerprint"] == fingerprint(model)
    (model / "model.safetensors").write_bytes(safetensors(b"1"))
    assert not same_model(first, served_identity(url, "m", {"root": str(model)}))
    assert not same_model(plain, first)
    assert shown_identity(plain) == f"m at {url}"
    assert len(identity_tag(plain)) == 8 and identity_tag(plain) != identity_tag(first)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("runs/A/model", "A"),
        ("runs/A/grpo/model", "A-grpo"),
        ("runs/A/checkpoints/checkpoint-50", "A-checkpoint-50"),
        ("runs/mini/detection/rl/seed-0/model", "detection-rl-seed-0"),
        ("Qwen2.5-VL-3B", "Qwen2.5-VL-3B"),
        ("models--Qwen--Qwen2-VL-2B/snapshots/0123abc", "Qwen/Qwen2-VL-2B"),
    ],
)
def test_a_label_is_the_runs(tmp_path, monkeypatch, path, label):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert model_label(folder) == label
    monkeypatch.chdir(folder)
    assert model_label(".") == label
