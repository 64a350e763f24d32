"""What is asked and what would be right, word for word."""

from __future__ import annotations

import pytest

from perception_r1.errors import RecipeError
from perception_r1.families import FAMILIES, Family
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import BoxTarget, CountTarget, PointTarget, Prompt, Sample, Target, TaskName, TextTarget

SIZE = (1000, 500)


def sample(task: TaskName, target: Target, question: str = "red car", **more: object) -> Sample:
    return Sample("s", task, question, target, image_size=SIZE, **more)  # type: ignore[arg-type]


def render_prompt(asked: Sample, family: Family, *, thinking: bool = False, preset: str = "training") -> Prompt:
    return make_task(asked.task, family=family, thinking=thinking, prompt=preset).prompt(asked)


def render_answer(asked: Sample, family: Family, *, thinking: bool = False) -> str:
    return make_task(asked.task, family=family, thinking=thinking).gold(asked)


BOX = sample("grounding", BoxTarget(((100, 100, 500, 250),)))
COUNT = sample("counting", BoxTarget(((100, 100, 500, 250), (0, 0, 10, 10))))
DETECTION = sample("detection", BoxTarget(((100, 100, 500, 250),), ("car",)), "", categories=("car", "traffic light"))
OCR = sample("ocr", TextTarget("Hello"), "")


def test_prompts_of_the_paper() -> None:
    qwen = FAMILIES["qwen2_vl"]
    assert [render_prompt(asked, qwen).user for asked in (BOX, COUNT, DETECTION, OCR)] == [
        "Output the bounding box of the red car in the image.",
        "Output all the bounding boxes of the red car",
        "Please output bbox coordinates and names of car, traffic light.",
        "OCR this image.",
    ]
    assert render_prompt(BOX, qwen).system == "You are a helpful assistant. "


def test_prompts_of_the_released_evaluation() -> None:
    qwen = FAMILIES["qwen2_5_vl"]
    assert render_prompt(DETECTION, qwen, preset="evaluation").user == (
        "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes car, traffic light."
    )
    assert render_prompt(OCR, qwen, preset="evaluation").user == "OCR this image: "
    assert render_prompt(OCR, qwen, preset="evaluation").system is None
    assert render_prompt(OCR, FAMILIES["qwen2_vl"], preset="evaluation").user == "<image>\nOCR this image: "


def test_thinking() -> None:
    text = render_prompt(COUNT, FAMILIES["qwen2_vl"], thinking=True).user
    assert text == (
        "Output all the bounding boxes of the red car. "
        "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    )
    answer = render_answer(BOX, FAMILIES["qwen3_vl"], thinking=True)
    assert answer.startswith("<think>")
    assert answer.endswith('</think><answer>[{"bbox_2d": [100, 200, 500, 500], "label": "red car"}]</answer>')


def test_families_are_told_the_form_that_they_need() -> None:
    assert render_prompt(BOX, FAMILIES["qwen3_vl"]).user.endswith(" Output the coordinates in JSON format.")
    assert "<ref>red car</ref>" in render_prompt(BOX, FAMILIES["internvl"]).user
    assert "fractions of either side" in render_prompt(DETECTION, FAMILIES["unit"]).user
    assert "in pixels of the image" in render_prompt(COUNT, FAMILIES["pixel"]).user
    assert (
        render_prompt(sample("ocr", TextTarget("x"), "Read the sign."), FAMILIES["qwen3_vl"]).user == "Read the sign."
    )


def test_unknown_presets_and_tasks() -> None:
    with pytest.raises(RecipeError, match="unknown prompt preset 'nice'"):
        render_prompt(BOX, FAMILIES["pixel"], preset="nice")
    with pytest.raises(RecipeError, match="unknown task 'pointing'"):
        render_prompt(sample("pointing", TextTarget("")), FAMILIES["pixel"])


def test_earlier_names_of_presets() -> None:
    qwen = FAMILIES["qwen2_5_vl"]
    assert render_prompt(DETECTION, qwen, preset="paper") == render_prompt(DETECTION, qwen)
    assert render_prompt(DETECTION, qwen, preset="released") == render_prompt(DETECTION, qwen, preset="evaluation")
    assert reward_spec("counting", "paper").preset == "released"


def test_answers() -> None:
    assert render_answer(COUNT, FAMILIES["qwen2_vl"]) == (
        "<|object_ref_start|>red car<|object_ref_end|><|box_start|>(100,200),(500,500)<|box_end|>"
        "<|box_start|>(0,0),(10,20)<|box_end|>"
    )
    assert render_answer(DETECTION, FAMILIES["qwen2_5_vl"]) == '[{"bbox_2d": [101, 101, 504, 252], "label": "car"}]'
    assert render_answer(DETECTION, FAMILIES["pixel"]) == '[{"bbox_2d": [100, 100, 500, 250], "label": "car"}]'
    assert render_answer(DETECTION, FAMILIES["unit"]) == '[{"bbox_2d": [0.1, 0.2, 0.5, 0.5], "label": "car"}]'
    assert render_answer(BOX, FAMILIES["internvl"]) == "<ref>red car</ref><box>[[100, 200, 500, 500]]</box>"
    assert render_answer(OCR, FAMILIES["qwen2_vl"]) == "Hello"
    assert render_answer(sample("grounding", BoxTarget(())), FAMILIES["qwen2_vl"]) == "[]"


def test_points_and_numbers() -> None:
    points = sample("counting", PointTarget(((500, 250), (0, 500))))
    assert render_answer(points, FAMILIES["qwen3_vl"]) == (
        '[{"point_2d": [500, 500], "label": "red car"}, {"point_2d": [0, 1000], "label": "red car"}]'
    )
    # A family that only writes boxes: small ones, centred on the click where the image allows it.
    assert render_answer(points, FAMILIES["qwen2_vl"]).endswith(
        "<|box_start|>(495,495),(505,505)<|box_end|><|box_start|>(0,999),(1,1000)<|box_end|>"
    )
    assert render_answer(sample("counting", CountTarget(7)), FAMILIES["qwen2_vl"]).count("<|box_start|>") == 7
