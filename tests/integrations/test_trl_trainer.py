"""A trainer of one's own: `check_trainer` names what would train on something else, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from perception_r1.errors import UserError
from perception_r1.integrations.trl import check_trainer, reward_functions
from perception_r1.models.load import load_model
from perception_r1.models.tiny import build_tiny

SETTINGS = {"task": "grounding", "family": "qwen2_5_vl"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny("qwen2_5_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_trainer(folder: Path, out: Path, **changes: Any) -> Any:
    """A trainer as docs/engines.md has it; ``changes`` are what somebody did otherwise."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, processor = load_model(folder)
    processor.tokenizer.padding_side = changes.get("padding_side", "left")
    processor.image_processor.size["longest_edge"] = changes.get("max_pixels", 2_000_000)
    for name, value in changes.get("generation", {}).items():
        setattr(model.generation_config, name, value)
    given = {"processor": processor} if changes.get("given", True) else {}
    row = {"prompt": "Where is the cup?", "boxes": [[1, 1, 9, 9]], "width": 64, "height": 64}
    return GRPOTrainer(
        model,
        processing_class=processor.tokenizer if changes.get("text_only") else processor,
        reward_funcs=reward_functions(SETTINGS, **given),
        train_dataset=Dataset.from_list([row]),
        args=GRPOConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", log_multimodal=False),
    )


def test_a_sound_trainer_passes(folder: Path, tmp_path: Path) -> None:
    check_trainer(make_trainer(folder, tmp_path))
    check_trainer(
        make_trainer(folder, tmp_path, generation={"repetition_penalty": 1.05, "top_k": 1, "temperature": 0.1})
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"padding_side": "right"}, ["pads on the right", "padding_side = 'left'"]),
        ({"text_only": True}, ["is a tokenizer", "AutoProcessor"]),
        ({"given": False}, ["special tokens", "3,136 to 1,000,000 pixels", "to 2,000,000", "processor=processor"]),
        ({"generation": {"no_repeat_ngram_size": 3, "min_p": 0.1}}, ["min_p, no_repeat_ngram_size", "sample_plainly"]),
        ({"padding_side": "right", "generation": {"min_p": 0.1}}, ["pads on the right", "min_p"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    changes: dict[str, Any], parts: list[str], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        check_trainer(make_trainer(folder, tmp_path, **changes))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
