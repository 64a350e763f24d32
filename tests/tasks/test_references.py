"""What broke in the references and peers (PAPERS.md): each row that concerns these tasks, on the robust rewards."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from perception_r1 import score
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, PointTarget, Sample, TextTarget

SIZE = (1000, 1000)
GRID = tuple((x, y, x + 50, y + 50) for x in range(0, 1000, 200) for y in range(0, 800, 200))
"""Twenty boxes."""


def boxes(*places: tuple[float, ...], label: str | None = None) -> str:
    named = {} if label is None else {"label": label}
    return json.dumps([{"bbox_2d": list(place), **named} for place in places])


def grounding(text: str, preset: str = "robust", family: str = "qwen2_vl") -> float | None:
    return score(
        "grounding", text, {"boxes": [[100, 100, 300, 300]]}, family=family, image_size=SIZE, preset=preset
    ).reward


def detection(
    text: str, target: BoxTarget, preset: str = "robust", categories: tuple[str, ...] = ("cat", "dog")
) -> float | None:
    task = make_task("detection", family="qwen3_vl", reward=preset)
    return task.score(Sample("s", "detection", "", target, image_size=SIZE, categories=categories), text).reward


def test_pr1_format_reward_takes_garbage() -> None:
    assert grounding("<garbage") == 0
    assert grounding("<garbage", "released") == 1  # as released


def test_nothing_that_a_model_writes_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for text in (code, f"[{{'bbox_2d': [{code}, 1, 2, 3]}}]", f"<|box_start|>({code},1),(2,3)<|box_end|>"):
        for preset in ("robust", "released"):
            grounding(text, preset)
            score("counting", text, {"points": [[1, 2]]}, family="qwen2_vl", image_size=SIZE, preset=preset)
            detection(text, BoxTarget(()), preset)
    assert not mark.exists()


@pytest.mark.parametrize(("corners", "word"), [("(5,5),(5,5)", "no area"), ("(300,300),(100,100)", "inverted corners")])
def test_pr1_iou_of_degenerate_and_inverted_boxes_divides_by_zero(corners: str, word: str) -> None:
    text = f"<|box_start|>{corners}<|box_end|>"
    for target in (BoxTarget(((5, 5, 5, 5),)), BoxTarget(((100, 100, 300, 300),))):
        sample = Sample("s", "grounding", "x", target, image_size=SIZE)
        for preset, value in (("robust", 0), ("released", 1)):  # 1: the format, which looks at the first character
            record = make_task("grounding", family="qwen2_vl", reward=preset).score(sample, text)
            assert record.reward == value
            assert word in record.reason


def test_pr1_box_without_special_tokens_is_read_in_the_declared_frame() -> None:
    assert grounding("(100,100),(300,300)") == 1
    assert grounding("cat(100,100),(300,300)") == 1


def test_pr1_counting_pays_the_right_number_in_random_places() -> None:
    draw = random.Random(0)
    paid: dict[str, list[float]] = {"robust": [], "released": []}
    for _ in range(100):
        clicks = PointTarget(tuple((draw.uniform(0, 1000), draw.uniform(0, 1000)) for _ in range(6)))
        places = [(draw.randint(50, 900), draw.randint(50, 900)) for _ in range(6)]
        text = "<|object_ref_start|>x<|object_ref_end|>" + "".join(
            f"<|box_start|>({x - 20},{y - 20}),({x + 20},{y + 20})<|box_end|>" for x, y in places
        )
        sample = Sample("s", "counting", "x", clicks, image_size=SIZE)
        for preset, rewards in paid.items():
            rewards.append(make_task("counting", family="qwen2_vl", reward=preset).score(sample, text).reward or 0)
    assert statistics.mean(paid["released"]) > 0.75
    # Half for the number; of the places only what chance finds.
    assert 0.5 <= statistics.mean(paid["robust"]) < 0.6


def test_pr1_detection_pays_one_perfect_box_of_twenty() -> None:
    target = BoxTarget(GRID, ("cat",) * 20)
    assert detection(boxes(GRID[0], label="cat"), target) == pytest.approx(2 / 21)
    assert detection(boxes(*GRID[:10], label="cat"), target) == pytest.approx(20 / 30)
    assert (detection(boxes(GRID[0], label="cat"), target, "released") or 0) / 3 > 0.6


def test_pr1_detection_of_nothing() -> None:
    assert detection("[]", BoxTarget(())) == 1
    assert detection(boxes(GRID[0], label="cat"), BoxTarget(())) == 0
    assert detection("[]", BoxTarget(()), "released") == 0
    assert detection(boxes(GRID[0], label="cat"), BoxTarget(()), "released") == 0.25


@pytest.mark.parametrize(
    "bad",
    ["[90, 90, 10, 10]", "[1, 2, 3]", '["a", 1, 2, 3]', "[1, 2, 3, 444444444444]", "null", "{}", "[NaN, 1, 2, 3]"],
)
def test_pr1_detection_loses_all_to_one_bad_entry(bad: str) -> None:
    target = BoxTarget(GRID[:3], ("cat",) * 3)
    entries = [
        f'{{"bbox_2d": {place}, "label": "cat"}}' for place in (list(GRID[0]), bad, list(GRID[1]), list(GRID[2]))
    ]
    reward = detection(f"[{', '.join(entries)}]", target)
    assert reward == pytest.approx(6 / 7)  # the entry alone is lost


def test_pr1_ocr_of_empty_text_and_long_pages() -> None:
    for answer in ("", "a page"):
        for text in ("", "a page", "x" * 3000):
            record = score("ocr", answer, {"text": text}, family="qwen2_vl")
            assert record.reward == pytest.approx(1.0 if answer == text else 0.0, abs=0.01)


def test_pr1_no_environment_variable_configures_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    target = BoxTarget(GRID[:2], ("cat", "dog"))
    text = boxes(*GRID[:2], label="cat")
    before = [detection(text, target, preset) for preset in ("robust", "released")]
    for name, value in {
        "F1_SCALE": "9",
        "DO_PENAIlty": "False",
        "CLS_COE": "5",
        "IOU_COE": "5",
        "COVERAGE_SCALE": "3",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOG_DIR", raising=False)
    assert [detection(text, target, preset) for preset in ("robust", "released")] == before


def test_vlm_r1_iou_of_equal_unit_boxes() -> None:
    target = {"boxes": [[100, 100, 300, 300]]}
    record = score("grounding", boxes((0.1, 0.1, 0.3, 0.3)), target, family="unit", image_size=SIZE)
    assert record.reward == pytest.approx(1)


def test_vlm_r1_detection_with_all_labels_wrong() -> None:
    target = BoxTarget(GRID[:4], ("cat",) * 4)
    assert detection(boxes(*GRID[:4], label="dog"), target) == 0
    assert detection(boxes(*GRID[:4]), target) == 0


def test_visual_rft_empty_answer_and_all_classes() -> None:
    target = BoxTarget(GRID[:4], ("cat", "dog", "cow", "hen"))
    names = ("cat", "dog", "cow", "hen", "car", "bus", "cup", "bed", "tie", "kite")
    for empty in ("", "[]", "<answer></answer>"):
        assert detection(empty, target, categories=names) == 0
    everything = json.dumps([{"bbox_2d": list(place), "label": name} for place in GRID[:4] for name in names])
    assert detection(everything, target, categories=names) == pytest.approx(2 * 4 / (40 + 4))


def test_rex_omni_every_box_ten_times() -> None:
    target = BoxTarget(GRID[:4], ("cat",) * 4)
    assert detection(boxes(*(GRID[:4] * 10), label="cat"), target) == pytest.approx(2 * 4 / (40 + 4))


def test_an_image_token_in_an_answer_earns_nothing() -> None:
    for text in ("<|image_pad|>" * 50, "<|vision_start|><|image_pad|><|vision_end|>"):
        assert grounding(text) == 0


def test_a_reward_needs_no_other_answer() -> None:
    """Scores do not depend on what was scored before (the released matcher and logs keep state)."""
    sample = Sample("s", "ocr", "", TextTarget("abc"))
    task = make_task("ocr", family="qwen2_vl")
    first = task.score(sample, Completion("abd"))
    task.score(sample, Completion("zzz"))
    assert task.score(sample, Completion("abd")) == first
