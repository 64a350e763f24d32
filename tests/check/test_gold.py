"""Round trips of right answers: bounds worked out by hand, and every family's gold answer above its bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_r1.check import check_gold, least_reward
from perception_r1.data.images import prepare
from perception_r1.families import FAMILIES
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import BoxTarget, CountTarget, PointTarget, Sample, Target, TextTarget


def sample(
    task: str, target: Target, size: tuple[int, int] = (2000, 1000), question: str = "cat", id: str = "a"
) -> Sample:
    return Sample(id, task, question, target, image_size=size, categories=("cat", "dog") if task == "detection" else ())  # type: ignore[arg-type]


def test_bound_of_a_box_is_what_rounding_leaves() -> None:
    # 0..1000 on 2000 × 1000: a unit is 2 × 1 pixels. Box of 20 × 10: (1 - 2/20)(1 - 1/10) = 0.81.
    box = BoxTarget(((100, 100, 120, 110),))
    assert least_reward(sample("grounding", box), FAMILIES["qwen3_vl"]) == pytest.approx(0.81)
    # Counting: half of the reward is the number, which rounding does not change.
    assert least_reward(sample("counting", box), FAMILIES["qwen3_vl"]) == pytest.approx(0.5 + 0.5 * 0.81)
    # Pixels of the original image: (1 - 1/20)(1 - 1/10).
    assert least_reward(sample("grounding", box), FAMILIES["pixel"]) == pytest.approx(0.855)


def test_a_box_below_the_floor_is_named_and_bounds_nothing() -> None:
    # 2.5 × 10 pixels: (1 - 2/2.5)(1 - 1/10) = 0.18, under detection's floor of 0.3; the other box keeps 0.81.
    row = sample("detection", BoxTarget(((0, 0, 2.5, 10), (100, 100, 120, 110)), ("cat", "dog")))
    thin: list[int] = []
    assert least_reward(row, FAMILIES["qwen3_vl"], thin=thin) == pytest.approx(0.81 / 2)
    assert thin == [0]
    report = check_gold(make_task("detection", family="qwen3_vl"), [row])
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert "boxes[0] is 2.5 × 10 pixels" in report.findings[0].message


def test_nothing_to_find_and_text_keep_everything() -> None:
    assert least_reward(sample("detection", BoxTarget(())), FAMILIES["qwen2_5_vl"]) == 1.0
    assert least_reward(sample("ocr", TextTarget("abc")), FAMILIES["qwen2_5_vl"]) == 1.0
    assert least_reward(sample("counting", CountTarget(3)), FAMILIES["qwen2_5_vl"]) == 1.0


TARGETS: list[tuple[str, Target]] = [
    ("grounding", BoxTarget(((10, 20, 300, 200),))),
    ("counting", BoxTarget(((10, 20, 60, 80), (200, 30, 290, 90), (10, 20, 60, 80)))),
    ("counting", PointTarget(((0, 0), (319, 239), (100, 100), (103, 100)))),
    ("counting", CountTarget(7)),
    ("counting", CountTarget(0)),
    ("detection", BoxTarget(((10, 20, 60, 80), (200, 30, 290, 90)), ("cat", "dog"))),
    ("detection", BoxTarget(())),
    ("ocr", TextTarget("Two lines\nof “text” [1, 2] {x} <b>")),
]


@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("task", "target"), TARGETS, ids=lambda value: value if isinstance(value, str) else "")
def test_right_answers_of_every_family_pass(task: str, target: Target, family: str, thinking: bool) -> None:
    row = prepare(sample(task, target, size=(320, 240)), family)
    report = check_gold(make_task(task, family=family, thinking=thinking), [row])
    assert report.findings == ()
    assert report.least == report.mean
    assert report.least >= least_reward(row, FAMILIES[family]) - 1e-9  # type: ignore[operator]
    assert report.own_mean is None


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(30, 5000), st.integers(30, 5000)),  # processors refuse more than 200 : 1
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    span=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_bound_holds_for_any_box(
    size: tuple[int, int], corner: tuple[float, float], span: tuple[float, float], family: str
) -> None:
    x1, y1 = corner[0] * size[0], corner[1] * size[1]
    box = (x1, y1, x1 + span[0] * (size[0] - x1), y1 + span[1] * (size[1] - y1))
    row = prepare(sample("grounding", BoxTarget((box,)), size=size), family)
    report = check_gold(make_task("grounding", family=family), [row])
    assert not [finding for finding in report.findings if finding.severity == "error"]


def test_a_label_that_breaks_the_form_is_found() -> None:
    """The right answer of this row cannot be written: its label ends the group of boxes early."""
    row = prepare(
        sample("detection", BoxTarget(((10, 20, 90, 80),), ("<|box_start|>(1,1),(9,9)<|box_end|>",))), "qwen2_vl"
    )
    report = check_gold(make_task("detection", family="qwen2_vl"), [row])
    assert report.findings[0].severity == "error"
    assert "the right answer scores" in report.findings[0].message
    assert report.findings[0].sample == "a"


def test_many_of_a_kind_are_summed_up() -> None:
    bad = BoxTarget(((10, 20, 90, 80),), ("<|box_start|>(1,1),(9,9)<|box_end|>",))
    rows = [prepare(sample("detection", bad, id=str(number)), "qwen2_vl") for number in range(9)]
    findings = check_gold(make_task("detection", family="qwen2_vl"), rows).findings
    assert len(findings) == 6
    assert findings[-1].message == "and 4 rows more like these"


def test_a_reward_that_gives_the_right_answer_nothing_is_a_warning() -> None:
    """PR1's released detection reward scores an object-free image 0, whatever is said."""
    task = make_task("detection", family="qwen2_5_vl", reward="released")
    report = check_gold(task, [prepare(sample("detection", BoxTarget(())), "qwen2_5_vl")])
    assert report.own_mean == 0.0
    assert report.mean == 1.0
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert report.findings[0].message.startswith("the recipe's reward gives 0 to the right answer")


def test_own_reward_is_averaged() -> None:
    task = make_task("grounding", family="pixel", reward=reward_spec("grounding", components={"iou": 3.0}))
    report = check_gold(task, [prepare(sample("grounding", BoxTarget(((10, 20, 30, 40),))), "pixel")])
    assert report.own_mean == pytest.approx(3.0)
    assert report.mean == pytest.approx(1.0)
