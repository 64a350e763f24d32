"""Token counts: an estimate by hand, the tokenizer of a real tiny model, and the limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perception_r1.check import TokenCounter, check_lengths
from perception_r1.check.lengths import estimate_tokens, image_tokens
from perception_r1.data.images import prepare
from perception_r1.families import FAMILIES
from perception_r1.tasks import make_task
from perception_r1.types import Sample, TextTarget

TASK = make_task("ocr", family="qwen2_5_vl")


def page(text: str, size: tuple[int, int] = (560, 280), id: str = "a") -> Sample:
    return prepare(Sample(id, "ocr", "", TextTarget(text), image_size=size), "qwen2_5_vl")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("cat", 1),
        ("giraffe", 2),
        ("(12,345)", 8),
        ("<|box_start|>(1,2)<|box_end|>", 7),
        ("我们", 2),
        ("a_b", 3),
        ("...", 3),
    ],
)
def test_estimate(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_image_tokens_are_cells_of_the_grid() -> None:
    assert image_tokens(page("", (560, 280)), FAMILIES["qwen2_5_vl"]) == 20 * 10
    assert image_tokens(replace(page(""), model_size=None), FAMILIES["qwen2_5_vl"]) == 0


def test_without_limits_only_the_lengths_are_told() -> None:
    report = check_lengths(TASK, [page("abc"), page("abc " * 50, (1120, 560), id="b")], TokenCounter.estimate())
    assert report is not None
    assert (report.prompt_id, report.answer_id, report.image_tokens) == ("b", "b", 40 * 20)
    assert report.answer_tokens == 50
    assert report.prompt_tokens > 800
    assert not report.exact
    assert report.findings == ()
    assert check_lengths(TASK, [], TokenCounter.estimate()) is None


def test_limits() -> None:
    rows = [page("abc " * 50)]
    fits = check_lengths(TASK, rows, TokenCounter.estimate(), max_answer=51, max_sft=400, max_context=300)
    assert fits is not None and fits.findings == ()
    report = check_lengths(TASK, rows, TokenCounter.estimate(), max_answer=50, max_sft=250, max_context=250)
    assert report is not None
    context, answer, sft = (finding.message for finding in report.findings)
    assert context.startswith("the longest prompt has about 2") and "reads 250" in context
    assert "1 right answer would be cut off: the longest has about 50 tokens" in answer
    assert "cut by sft.max_length 250" in sft
    # How long an answer is was only estimated, so it may fit after all.
    assert [finding.severity for finding in report.findings] == ["error", "warning", "error"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from perception_r1.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny("qwen2_5_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_with_a_model_the_count_is_the_processors(tiny: Path, tmp_path: Path) -> None:
    """Equal to what the model's own processor makes of prompt and pixels."""
    from PIL import Image
    from transformers import AutoConfig

    from perception_r1.models.processors import load_processor

    row = page("reads this", (112, 84))
    counter = TokenCounter.of_processor(load_processor(str(tiny)), AutoConfig.from_pretrained(tiny))
    report = check_lengths(TASK, [row], counter)
    assert report is not None and report.exact and report.context == counter.context
    processor = load_processor(str(tiny))
    messages = TASK.prompt(row).messages()
    for turn in messages:
        for part in turn["content"]:
            if part["type"] == "image":
                part["image"] = Image.new("RGB", row.model_size or (0, 0), "white")
    encoded = processor.apply_chat_template([messages], add_generation_prompt=True, tokenize=True, return_dict=True)
    assert report.prompt_tokens == len(encoded["input_ids"][0])
    assert report.answer_tokens == len(processor.tokenizer("reads this")["input_ids"])


@pytest.mark.parametrize("size", [(112, 112), (448, 224), (1000, 300), (20, 20)])
def test_tiles_are_counted_as_the_processor_cuts_them(size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    from PIL import Image

    from perception_r1.models.tiny import build_processor

    task = make_task("ocr", family="internvl")
    processor = build_processor("internvl")
    processor.image_processor.crop_to_patches = True
    row = prepare(Sample("a", "ocr", "", TextTarget("b"), image_size=size), "internvl")
    counter = TokenCounter.of_processor(processor)
    text = processor.apply_chat_template(task.prompt(row).messages(), add_generation_prompt=True, tokenize=False)
    image = Image.new("RGB", row.model_size or (0, 0))
    ids = processor(text=[text], images=[image], return_tensors="pt")["input_ids"][0].tolist()
    assert counter.prompt(task.prompt(row)) + image_tokens(row, task.family, counter) == len(ids)
