"""No hack may pay under the robust rewards; which ones the released rewards pay is written down here."""

from __future__ import annotations

from collections import defaultdict

import pytest

from perception_r1.families import FAMILIES
from perception_r1.tasks import make_task, reward_spec
from perception_r1.tasks.hacks import audit, battery
from perception_r1.types import BoxTarget, CountTarget, PointTarget, Sample, TextTarget

SIZE = (640, 480)
CATEGORIES = ("person", "car", "dog", "cat")
FEW = ((40.0, 30.0, 200.0, 300.0), (250.0, 60.0, 330.0, 140.0), (400.5, 200.25, 620.0, 470.0))
MANY = tuple((x + 3.0, y + 5.0, x + 45.0, y + 50.0) for x in range(0, 600, 60) for y in range(0, 420, 70))


def samples(task: str) -> list[Sample]:
    if task == "ocr":
        texts = ("The quick brown fox jumps over the lazy dog. " * 8, "7 3 5", "", "第一章 你好")
        return [Sample(f"text {i}", "ocr", "", TextTarget(text)) for i, text in enumerate(texts)]
    found = []
    for name, boxes in (("one", FEW[:1]), ("few", FEW), ("many", MANY), ("none", ())):
        labels = tuple(CATEGORIES[i % 3] for i in range(len(boxes)))
        if task == "grounding" and name in ("few", "many"):
            continue
        target = BoxTarget(boxes, labels if task == "detection" else ())
        found.append(Sample(name, task, "dog", target, image_size=SIZE, categories=CATEGORIES))  # type: ignore[arg-type]
        if task == "counting":
            clicks = PointTarget(tuple(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes))
            found.append(Sample(f"{name} clicks", "counting", "dog", clicks, image_size=SIZE))
            found.append(Sample(f"{name} number", "counting", "dog", CountTarget(len(boxes)), image_size=SIZE))
    return found


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["grounding", "counting", "detection", "ocr"])
def test_robust_rewards_resist_every_hack(task: str, family: str, thinking: bool) -> None:
    findings = audit(make_task(task, family=family, thinking=thinking), samples(task))
    assert len(findings) > 20
    assert [finding for finding in findings if not finding.ok] == []
    assert all(finding.gold > 0.93 for finding in findings)


@pytest.mark.parametrize("matching", ["sequential", "greedy"])
def test_nor_do_other_matchings_open_one(matching: str) -> None:
    task = make_task("detection", family="qwen3_vl", reward=reward_spec("detection", matching=matching))
    assert all(finding.ok for finding in audit(task, samples("detection")))


def paid(task: str, family: str = "qwen2_vl", **options: object) -> dict[str, set[str]]:
    """Hacks that the released reward pays, and on which samples."""
    made = make_task(task, family=family, reward=options.get("reward", "released"))  # type: ignore[arg-type]
    asked = [sample for sample in samples(task) if not isinstance(sample.target, CountTarget)]
    found = defaultdict(set)
    for finding in audit(made, asked):
        if not finding.ok:
            found[finding.name].add(finding.sample_id)
    return found


def test_what_the_released_grounding_reward_pays() -> None:
    found = paid("grounding")
    # The format is worth half and looks at the first character.
    for name in ("garbage", "image tokens", "answer only in <think>", "inverted corners", "grid of boxes"):
        assert "one" in found[name], name
    assert "one" in found["every entry ten times"]  # only the first box is read
    assert "none" in found["invents a box"]


def test_what_the_released_counting_reward_pays() -> None:
    found = paid("counting")
    assert {"few clicks", "many clicks"} <= found["right number, random places"]
    assert "garbage" not in {
        name for name, ids in found.items() if ids - {"none", "none clicks"}
    }  # the format is a gate


def test_what_the_released_detection_reward_pays() -> None:
    found = paid("detection")
    assert {"few", "many"} <= found["labels all wrong"]
    assert {"few", "many"} <= found["every entry ten times"]
    assert {"few", "many"} <= found["every class for each box"]
    assert "none" in found["invents a box"]
    assert found["the right answer earns nothing"] == {"none"}
    assert "labels that do not exist" not in found


def test_what_the_released_ocr_reward_pays() -> None:
    assert paid("ocr") == {}


def test_a_users_reward_is_audited_too() -> None:
    """A reward of IoU alone: it pays for the boxes that were found and for nothing else that was said."""
    found = paid("detection", reward=reward_spec("detection", components={"iou": 1.0}))
    assert {"every entry ten times", "every class for each box"} <= set(found)


def test_the_battery_is_text_by_name() -> None:
    task = make_task("detection", family="qwen2_vl")
    found = dict(battery(samples("detection")[1], task))
    assert found["garbage"] == "<garbage"
    assert found["every entry ten times"].count("<|box_start|>") == 30
    assert found["every class for each box"].count("<|box_start|>") == 12
    assert found["prompt echo"] == "Please output bbox coordinates and names of person, car, dog, cat."
    assert dict(battery(samples("detection")[1], task)) == found  # the same each time
