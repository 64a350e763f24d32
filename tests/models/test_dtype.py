"""The dtype of saved models: found, and changed once, in every layout that transformers writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_r1.errors import ModelError
from perception_r1.models.dtype import cast_saved, published_dtype

pytest.importorskip("transformers")


def saved(folder: Path, dtype: str, family: str = "qwen2_5_vl", **settings: object) -> Path:
    import torch

    from perception_r1.models.tiny import build_tiny

    model, processor = build_tiny(family)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **settings)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_configuration_names_it(dtype: str, tmp_path: Path) -> None:
    assert published_dtype(saved(tmp_path / "m", dtype)) == dtype


def test_older_and_silent_configurations(tmp_path: Path) -> None:
    """``torch_dtype`` is the name of transformers 4; a configuration may also leave it to the weights."""
    folder = saved(tmp_path / "m", "bfloat16")
    values = json.loads((folder / "config.json").read_text())
    del values["dtype"]
    (folder / "config.json").write_text(json.dumps({**values, "torch_dtype": "float16"}))
    assert published_dtype(folder) == "float16"
    (folder / "config.json").write_text(json.dumps(values))
    assert published_dtype(folder) == "bfloat16"


def test_a_run_in_between_stands_for_its_base(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run" / "model", "float32")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"steps": 1, "base_dtype": "bfloat16"}))
    assert published_dtype(folder) == "bfloat16"
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert published_dtype(tmp_path / "link") == "bfloat16"
    for damaged in ("{", '{"steps": 1}', '{"base_dtype": "int4"}'):
        (tmp_path / "run" / "run.json").write_text(damaged)
        assert published_dtype(folder) == "float32"


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="configuration cannot be read"):
        published_dtype(tmp_path)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_casting_a_folder_is_casting_the_model(family: str, shard: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    folder = saved(tmp_path / "m", "float32", family, max_shard_size=shard)
    expected = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").to(torch.bfloat16).state_dict()
    before = json.loads(index.read_text()) if (index := folder / "model.safetensors.index.json").is_file() else None
    cast_saved(folder, "bfloat16")
    found = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert not [key for part in config.values() if isinstance(part, dict) for key, v in part.items() if v == "float32"]
    if shard == "100KB":
        assert before is not None
        after = json.loads(index.read_text())
        assert after["weight_map"] == before["weight_map"]
        assert 2 * after["metadata"]["total_size"] == before["metadata"]["total_size"]
    assert not list(folder.glob(".*"))


def test_casting_to_what_it_is_writes_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "bfloat16")
    before = (folder / "model.safetensors").stat()
    cast_saved(folder, "bfloat16")
    assert (folder / "model.safetensors").stat() == before
