"""Every gold answer, written in the model's own form and read back, scores what rounding leaves of 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.boxes import units
from perception_r1.data.images import prepare
from perception_r1.families import FAMILIES
from perception_r1.tasks import make_task
from perception_r1.types import XYXY, BoxTarget, CountTarget, PointTarget, Sample, TextTarget

LABELS = ("person", "traffic light", "Kaffeemühle", 'a "quoted" one')
sizes = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(61, 1999), st.integers(61, 1999)),
    st.sampled_from([(3840, 2160), (4096, 4096), (641, 479), (333, 3999), (7, 1400)]),
)


@st.composite
def samples(draw: st.DrawFn, task: str) -> Sample:
    width, height = draw(sizes)
    found: list[XYXY] = []
    for _ in range(draw(st.integers(0, 5))):
        x1, y1 = draw(st.floats(0, width * 0.98)), draw(st.floats(0, height * 0.98))
        x2, y2 = draw(st.floats(x1 + width / 100, width * 1.0)), draw(st.floats(y1 + height / 100, height * 1.0))
        found.append((x1, y1, x2, y2))
    labels = tuple(draw(st.sampled_from(LABELS)) for _ in found) if task == "detection" else ()
    return Sample("s", task, "red car", BoxTarget(tuple(found), labels), image_size=(width, height), categories=LABELS)  # type: ignore[arg-type]


def least(sample: Sample, family: str, floor: float) -> float:
    """2 Σφ / 2n, φ being at least (1 − u_x/w)(1 − u_y/h) of each box where that reaches the floor."""
    assert isinstance(sample.target, BoxTarget)
    unit_x, unit_y = units(FAMILIES[family].frame_of(sample))
    bounds = [
        max(0.0, 1 - unit_x / (x2 - x1)) * max(0.0, 1 - unit_y / (y2 - y1))
        for x1, y1, x2, y2 in sample.target.boxes_xyxy
    ]
    return sum(bound for bound in bounds if bound >= floor) / len(bounds) if bounds else 1.0


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
def test_boxes(task: str, family: str, thinking: bool) -> None:
    made = make_task(task, family=family, thinking=thinking)

    @given(samples(task))
    def holds(row: Sample) -> None:
        sample = prepare(row, FAMILIES[family])
        record = made.score(sample, made.gold(sample))
        matched = record.components["matched"]
        assert matched >= least(sample, family, made.reward.options["floor"]) - 1e-9
        assert record.status == ("ok" if record.n_target else "empty")
        if task == "counting":
            assert record.components["count"] > 0.99 or matched < 1

    holds()


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_points_and_text(family: str) -> None:
    counting = make_task("counting", family=family)
    for size in ((20, 20), (641, 479), (3840, 2160)):
        for count in (0, 1, 2, 7, 50):
            sample = prepare(Sample("s", "counting", "cat", CountTarget(count), image_size=size), FAMILIES[family])
            assert counting.score(sample, counting.gold(sample)).reward == 1
        clicks = PointTarget(((0.0, 0.0), (size[0] * 1.0, size[1] * 1.0), (size[0] / 3, size[1] / 7)))
        sample = prepare(Sample("s", "counting", "cat", clicks, image_size=size), FAMILIES[family])
        assert counting.score(sample, counting.gold(sample)).reward == pytest.approx(1)
    for thinking in (False, True):
        ocr = make_task("ocr", family=family, thinking=thinking)
        for text in ("Hello", "", "第一章 你好", "a [1, 2] {x} (3, 4)\nline two", "7 3 5"):
            sample = Sample("s", "ocr", "", TextTarget(text))
            assert ocr.score(sample, ocr.gold(sample)).reward == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_real_boxes(family: str, shared_data: Path) -> None:
    """COCO images at their real sizes and densities."""
    coco = json.loads((shared_data / "coco" / "instances_val2017.json").read_text())
    names = {row["id"]: row["name"] for row in coco["categories"]}
    task = make_task("detection", family=family)
    seen = 0
    for image in coco["images"]:
        rows = [row for row in coco["annotations"] if row["image_id"] == image["id"]]
        boxes = tuple((x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in rows))
        labels = tuple(names[row["category_id"]] for row in rows)
        sample = Sample(
            str(image["id"]),
            "detection",
            "",
            BoxTarget(boxes, labels),
            image_size=(image["width"], image["height"]),
            categories=tuple(names.values()),
        )
        reward = task.score(sample, task.gold(sample)).reward
        assert reward is not None
        assert reward >= least(sample, family, 0.3) - 1e-9
        assert reward > 0.9
        seen += len(boxes)
    assert seen == 173


def test_the_paper_rewards_its_gold_in_full() -> None:
    sample = Sample("s", "grounding", "cat", BoxTarget(((100, 100, 300, 300),), ("cat",)), image_size=(1000, 1000))
    for family in ("qwen2_vl", "qwen3_vl", "internvl"):
        for task, most in (("grounding", 2), ("counting", 1), ("detection", 3)):
            made = make_task(task, family=family, reward="released")
            assert made.score(sample, made.gold(sample)).reward == pytest.approx(most), (family, task)
