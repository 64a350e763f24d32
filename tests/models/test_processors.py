"""Processors load under their stock names, without torchvision too, and what they save the stock classes can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from perception_r1.errors import ModelError
from perception_r1.models.processors import image_only, load_processor
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
    assert cls.get_attributes() == ["image_processor", "tokenizer"]


VIDEO = "video_preprocessor_config.json"


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_stock_class_loads_what_was_saved(family: str, tmp_path: Path) -> None:
    """It builds a video processor too, which needs torchvision; `load_processor` wants neither."""
    import transformers

    build_processor(family).save_pretrained(tmp_path / "first")
    again = load_processor(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    settings = [json.loads((tmp_path / name / VIDEO).read_text()) for name in ("first", "second")]
    assert settings[0] == settings[1]
    images = again.image_processor
    for key in {"patch_size", "merge_size", "temporal_patch_size"} & settings[0].keys():
        assert settings[0][key] == getattr(images, key)
    pytest.importorskip("torchvision", reason="the stock processors need torchvision", exc_type=Exception)
    stock = transformers.AutoProcessor.from_pretrained(tmp_path / "second")
    assert type(stock).__name__ == type(again).__name__
    assert type(stock.video_processor).__name__ == settings[0]["video_processor_type"]


@pytest.mark.parametrize("name", ["processor_config.json", VIDEO, "preprocessor_config.json"])
def test_the_video_settings_of_the_published_model_are_kept(name: str, tmp_path: Path) -> None:
    """Wherever they were: nested, in a file of their own, or (before there was one) the image processor's."""
    build_processor("qwen2_5_vl").save_pretrained(tmp_path)
    (tmp_path / VIDEO).unlink()
    file = tmp_path / "processor_config.json"
    config = json.loads(file.read_text())
    wanted = {"patch_size": 14, "min_pixels": 100352, "max_pixels": 602112, "fps": 2}
    if name == file.name:
        file.write_text(json.dumps({**config, "video_processor": wanted}))
    else:
        extra = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
        (tmp_path / name).write_text(json.dumps({**wanted, **(extra if name != VIDEO else {})}))
    load_processor(tmp_path).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / VIDEO).read_text())
    assert saved == {**wanted, "video_processor_type": "Qwen2VLVideoProcessor"}


def test_what_training_sets_is_not_saved(tmp_path: Path) -> None:
    """A tokenizer without a pad token, which says nothing of its side: both stay so in what is saved."""
    build_processor().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = {
        key: value for key, value in json.loads(file.read_text()).items() if key not in ("padding_side", "pad_token")
    }
    file.write_text(json.dumps({**config, "model_max_length": 128}))
    processor = load_processor(tmp_path)
    tokenizer = processor.tokenizer
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", tokenizer.eos_token)
    batch = processor(text=["a", "a longer text " * 100], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] > 128  # nothing is cut
    assert batch["attention_mask"][0, 0] == 0
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved.keys().isdisjoint({"padding_side", "pad_token"})
    assert saved["model_max_length"] == 128
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["padding"] is None
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", tokenizer.eos_token)  # goes on training


def test_a_processor_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    build_processor().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_processor(tmp_path)


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
