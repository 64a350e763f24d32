"""Rewards of people's own scripts above a megapixel: limits from the processor, from the settings, or an error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from perception_r1.errors import DataError, RecipeError
from perception_r1.integrations import easyr1, scoring, swift, trl, verl, vlm_r1

SETTINGS = {"task": "grounding", "family": "qwen2_5_vl"}
PERFECT = '[{"bbox_2d": [402, 202, 906, 708]}]'  # in pixels of 1932 × 1092, which the published processor shows
ROW = {
    "id": "a",
    "task": "grounding",
    "question": "cat",
    "width": 1920,
    "height": 1080,
    "boxes": [[400, 200, 900, 700]],
}


def by_trl(settings: Any, **options: Any) -> float | None:
    (reward,) = trl.reward_functions(settings, **options)
    columns = {key: [value] for key, value in ROW.items() if key not in ("id", "task")}
    return asyncio.run(reward(completions=[PERFECT], completion_ids=[[0]], **columns))[0]


def by_verl(settings: Any) -> float:
    return verl.compute_score("", PERFECT, json.dumps(ROW), settings=json.dumps(settings))["score"]


def by_swift(settings: Any) -> float:
    return swift.reward_class(object, settings)()([PERFECT], row=[json.dumps(ROW)])[0]


def by_easyr1(settings: Any) -> float:
    item = {"response": PERFECT, "ground_truth": json.dumps(ROW)}
    return easyr1.compute_score([item], settings=json.dumps(settings))[0]["overall"]


def by_vlm_r1(settings: Any) -> float:
    return vlm_r1.reward_registry(settings)["accuracy"]([PERFECT], [json.dumps(ROW)])[0]


@pytest.mark.parametrize("adapter", [by_trl, by_verl, by_swift, by_easyr1, by_vlm_r1])
def test_limits_of_the_settings_count_and_none_is_an_error(adapter: Any) -> None:
    with pytest.raises(DataError, match=r"seen at 1316 × 728 .* or at 1932 × 1092"):
        adapter(SETTINGS)
    assert adapter({**SETTINGS, "image": {"max_pixels": 12_845_056}}) == pytest.approx(0.99739, abs=1e-5)
    assert adapter({**SETTINGS, "family": {"base": "qwen2_5_vl", "max_pixels": 12_845_056}}) == pytest.approx(
        0.99739, abs=1e-5
    )
    assert adapter({**SETTINGS, "family": "qwen3_vl"}) == 0.0  # out of 0 to 1000 × 1000: no size is asked for


def test_sizes_of_a_row_win() -> None:
    (reward,) = trl.reward_functions({**SETTINGS, "image": {"max_pixels": 1_000_000}})
    row = json.dumps({**ROW, "model_width": 1932, "model_height": 1092})
    assert asyncio.run(reward(completions=[PERFECT], row=[row])) == [pytest.approx(0.99739, abs=1e-5)]


def test_limits_of_a_processor_count() -> None:
    pytest.importorskip("transformers")
    from perception_r1.models.limits import set_limits
    from perception_r1.models.tiny import build_processor

    processor = build_processor("qwen2_5_vl")
    set_limits(processor, (3136, 12_845_056))
    task = scoring.with_processor(scoring.task_of(SETTINGS), processor)
    sample = scoring.sample_of(json.dumps(ROW))
    assert task.score(sample, PERFECT).reward == pytest.approx(0.99739, abs=1e-5)
    (reward,) = trl.reward_functions(SETTINGS, processor=processor)
    ids = processor.tokenizer(PERFECT + "<|im_end|>")["input_ids"]
    columns = {key: [value] for key, value in ROW.items() if key not in ("id", "task")}
    scored = asyncio.run(reward(completions=[PERFECT], completion_ids=[ids], **columns))
    assert scored == [pytest.approx(0.99739, abs=1e-5)]
    with pytest.raises(RecipeError, match="multiples of 28, but the processor resizes to multiples of 32"):
        trl.reward_functions(SETTINGS, processor=build_processor("qwen3_vl"))
    trl.reward_functions({**SETTINGS, "family": "internvl"}, processor=build_processor("internvl"))


@pytest.mark.parametrize("image", [{"max_pixel": 1}, {"max_pixels": 0}, {"max_pixels": True}, [1]])
def test_wrong_limits_are_named(image: Any) -> None:
    with pytest.raises(RecipeError, match="image"):
        scoring.task_of({**SETTINGS, "image": image})
