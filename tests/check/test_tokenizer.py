"""The model's own tokenizer and chat template: what would spoil a training without a word."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from perception_r1.check.tokenizer import check_tokenizer
from perception_r1.data.images import prepare
from perception_r1.models.tiny import TINY_FAMILIES, build_processor, build_tiny
from perception_r1.models.tiny_tokenizer import QWEN_TEMPLATE
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Sample

GENERATION = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def messages(family: str, processor: Any, config: Any = None, *, thinking: bool = False) -> list[str]:
    sample = prepare(Sample("a", "grounding", "brown dog", BoxTarget(((1, 2, 30, 40),)), image_size=(96, 96)), family)
    task = make_task("grounding", family=family, thinking=thinking)
    return [finding.message for finding in check_tokenizer(task, sample, processor, config)]


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("thinking", [False, True])
def test_good_models_have_nothing_to_say(family: str, thinking: bool) -> None:
    model, processor = build_tiny(family)
    assert messages(family, processor, model.config, thinking=thinking) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (QWEN_TEMPLATE.replace(GENERATION, ""), "writes no generation prompt"),
        (QWEN_TEMPLATE.replace(IMAGE, ""), "writes 0 image placeholders (<|image_pad|>) for one image"),
        (QWEN_TEMPLATE.replace(IMAGE, IMAGE * 2), "writes 2 image placeholders"),
        (QWEN_TEMPLATE.replace("{{ part.text }}", "{{ 'x' }}"), "drops the question"),
        (QWEN_TEMPLATE + "{{ raise_exception('no system turn') }}", "cannot render our messages (no system turn)"),
        ("{{ messages[0].content + 1 }}", "cannot render our messages"),
    ],
)
def test_templates_that_lose_something(template: str, message: str) -> None:
    processor = build_processor("qwen3_vl")
    processor.chat_template = template
    found = messages("qwen3_vl", processor)
    assert any(message in text for text in found), found
    assert all("\n" not in text for text in found)


def test_a_template_without_system_turn() -> None:
    processor = build_processor("qwen2_vl")
    skip = "{% for message in messages if message.role != 'system' %}"
    processor.chat_template = QWEN_TEMPLATE.replace("{% for message in messages %}", skip)
    assert messages("qwen2_vl", processor, thinking=True) == ["the chat template drops the system turn"]


def test_special_tokens_of_the_answer_are_in_the_vocabulary() -> None:
    (message,) = messages("internvl", build_processor("qwen3_vl"))
    assert message.startswith("</box>, </ref>, <box>, <ref> of the answers of family 'internvl' are no tokens")


def test_ids_of_tokenizer_and_model_agree() -> None:
    model, processor = build_tiny("qwen2_5_vl")
    model.config.get_text_config().vocab_size = 1000
    model.config.image_token_id = 3
    found = messages("qwen2_5_vl", processor, model.config)
    assert len(found) == 2
    assert "but the model's vocab_size is 1,000" in found[0]
    assert "but config.json says 3" in found[1]
