"""Tiny models: real architectures that reload to the same logits, and a tokenizer for which any text encodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from perception_r1.data.digits import DEFAULT_SIZE, TASKS, scene  # noqa: E402
from perception_r1.errors import ModelError  # noqa: E402
from perception_r1.families import FAMILIES  # noqa: E402
from perception_r1.models.load import load_model  # noqa: E402
from perception_r1.models.tiny import TINY_FAMILIES, build_processor, build_tiny  # noqa: E402
from perception_r1.models.tiny_tokenizer import build_tokenizer  # noqa: E402
from perception_r1.tasks import make_task  # noqa: E402

TOKENIZER = build_tokenizer()


def inputs(processor, family: str, n: int = 2):
    rng = np.random.default_rng(0)
    drawn = [scene(rng, "counting", max_digits=3) for _ in range(n)]
    texts = [
        processor.apply_chat_template(
            make_task(sample.task, family=family).prompt(sample).messages(), add_generation_prompt=True, tokenize=False
        )
        for _, sample in drawn
    ]
    return processor(images=[[image] for image, _ in drawn], text=texts, return_tensors="pt", padding=True)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_saved_and_loaded_again_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    model, processor = build_tiny(family, seed=1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, processor_again = load_model(tmp_path)
    before, after = inputs(processor, family), inputs(processor_again, family)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != "pixel_values")
    # Where torchvision is installed the loaded image processor is of that backend, and rounds otherwise.
    torch.testing.assert_close(before["pixel_values"], after["pixel_values"], rtol=0, atol=0.016)
    with torch.no_grad():
        assert torch.equal(model(**before).logits, loaded.eval()(**before).logits)
    assert model.config.model_type in FAMILIES[family].model_types
    assert sum(p.numel() for p in model.parameters()) < 2_600_000


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build_tiny("qwen3_vl", seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)  # the global state is untouched
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight)


def test_answers_of_the_demo_are_short() -> None:
    rng = np.random.default_rng(0)
    for task in TASKS:
        for _ in range(20):
            _, sample = scene(rng, task, min_digits=2, max_digits=5)
            answer = make_task(sample.task, family="qwen3_vl").gold(sample)
            ids = TOKENIZER(answer)["input_ids"]
            n = len(sample.target.text) if task == "ocr" else len(sample.target.boxes_xyxy)
            assert len(ids) == (n if task == "ocr" else 5 * n + 1)
            assert TOKENIZER.decode(ids) == answer


def test_image_becomes_nine_tokens_without_resizing() -> None:
    processor = build_processor()
    batch = inputs(processor, "qwen3_vl", 1)
    assert batch["image_grid_thw"].tolist() == [[1, 6, 6]]
    assert int((batch["input_ids"] == processor.image_token_id).sum()) == 9
    assert FAMILIES["qwen3_vl"].model_size((DEFAULT_SIZE, DEFAULT_SIZE)) == (DEFAULT_SIZE, DEFAULT_SIZE)


def test_every_coordinate_is_one_token() -> None:
    for n in range(1001):
        assert len(TOKENIZER(f"({n},{n})")["input_ids"]) == 5


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_encodes(text: str) -> None:
    text = text.replace("<|", "")
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ModelError, match="no tiny model of family 'llava'"):
        build_tiny("llava")
