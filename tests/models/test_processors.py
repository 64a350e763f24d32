"""Processors load under their stock names, without torchvision too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from perception_r1.errors import ModelError
from perception_r1.models.processors import image_only, load_processor, torchvision_works
from perception_r1.models.tiny import TINY_FAMILIES, build_processor


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_saved_under_the_stock_name(family: str, tmp_path: Path) -> None:
    import transformers

    processor = build_processor(family)
    processor.save_pretrained(tmp_path)
    name = json.loads((tmp_path / "processor_config.json").read_text())["processor_class"]
    stock = getattr(transformers, name)
    again = load_processor(tmp_path)
    assert isinstance(again, stock)
    assert type(again).__name__ == name
    assert again.chat_template == processor.chat_template
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_image_only_keeps_the_name_and_drops_the_video_part() -> None:
    import transformers

    cls = image_only(transformers.Qwen3VLProcessor)
    assert cls.__name__ == "Qwen3VLProcessor"
    assert cls is image_only(transformers.Qwen3VLProcessor)
    if torchvision_works():
        assert cls is transformers.Qwen3VLProcessor
    else:
        assert cls.get_attributes() == ["image_processor", "tokenizer"]


def test_a_processor_of_an_older_save_is_found_by_the_models_type(tmp_path: Path) -> None:
    processor = build_processor("qwen2_5_vl")
    processor.save_pretrained(tmp_path)
    for file in ("processor_config.json", "tokenizer_config.json"):
        config = json.loads((tmp_path / file).read_text())
        config.pop("processor_class", None)
        (tmp_path / file).write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    assert type(load_processor(tmp_path)).__name__ == "Qwen2_5_VLProcessor"


def test_a_folder_without_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)


def test_a_text_only_folder_is_refused(tmp_path: Path) -> None:
    build_processor().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)


def test_a_model_of_a_revision_has_the_processor_of_that_revision(tmp_path: Path) -> None:
    from perception_r1.models.load import load_model
    from perception_r1.models.tiny import build_tiny

    repository = tmp_path / "models--some--model"  # as the hub's cache keeps two revisions
    for revision, template in (("a" * 40, "old"), ("b" * 40, "new")):
        model, processor = build_tiny("qwen2_vl")
        processor.chat_template = template
        model.save_pretrained(repository / "snapshots" / revision)
        processor.save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    options = {"cache_dir": str(tmp_path), "local_files_only": True}
    assert load_model("some/model", **options)[1].chat_template == "new"
    assert load_model("some/model", revision="a" * 40, **options)[1].chat_template == "old"
