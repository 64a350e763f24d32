"""The properties that the robust rewards promise, for any answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception_r1.answers.formats import WrittenEntry as Entry
from perception_r1.boxes import match_matrix
from perception_r1.families import get_family
from perception_r1.rewards.base import Context
from perception_r1.rewards.objects import matched, point_tolerances
from perception_r1.tasks import TASKS, Task, make_task, reward_spec
from perception_r1.types import (
    XYXY,
    BoxTarget,
    Completion,
    CountTarget,
    Parsed,
    ParsedObject,
    PointTarget,
    Sample,
    Target,
    TextTarget,
)

FAMILY = get_family("pixel")
SIZE = (120, 90)
LABELS = ("cat", "dog")

corner = st.integers(0, 11)
boxes = st.builds(
    lambda x, y, w, h: (x * 8, y * 6, x * 8 + w * 8, y * 6 + h * 6),
    corner,
    corner,
    st.integers(1, 6),
    st.integers(1, 6),
)
labels = st.sampled_from([*LABELS, "CAT ", "unicorn"])
bad = st.sampled_from([(50, 50, 10, 10), (5, 5, 5, 9), (1, 2, 3), ("a", 1, 2, 3), (12345678, 1, 2, 3)])
entries = st.tuples(st.one_of(boxes, boxes, bad), labels)
answers = st.lists(entries, max_size=6)
targets = st.lists(st.tuples(boxes, st.sampled_from(LABELS)), max_size=5)
tasks = st.sampled_from(["grounding", "counting", "detection"])
TASK = {name: make_task(name, family=FAMILY) for name in TASKS}


def written(answer: list[tuple[tuple[object, ...], str]]) -> str:
    return json.dumps([{"bbox_2d": list(place), "label": label} for place, label in answer])


def sample_of(task: str, target: Sequence[tuple[XYXY, str]]) -> Sample:
    found = BoxTarget(tuple(box for box, _ in target), tuple(label for _, label in target))
    return Sample("s", task, "cat", found, image_size=SIZE, categories=LABELS)  # type: ignore[arg-type]


def reward(task: str, target: list[tuple[XYXY, str]], answer: list[tuple[tuple[object, ...], str]]) -> float:
    value = TASK[task].score(sample_of(task, target), Completion(written(answer), "stop")).reward
    assert value is not None
    return value


@given(tasks, targets, answers)
def test_in_0_1_and_1_only_for_an_answer_of_the_right_size(task: str, target: list, answer: list) -> None:
    value = reward(task, target, answer)
    assert 0 <= value <= 1
    if value == 1:
        assert len(answer) == len(target)


@given(tasks, targets, answers, st.randoms(use_true_random=False))
def test_order_never_matters(task: str, target: list, answer: list, draw: random.Random) -> None:
    before = reward(task, target, answer)
    draw.shuffle(target)
    draw.shuffle(answer)
    assert reward(task, target, answer) == pytest.approx(before, abs=1e-12)


@given(tasks, targets, answers, bad, labels)
def test_an_unusable_entry_never_helps(task: str, target: list, answer: list, place: tuple, label: str) -> None:
    assert reward(task, target, [*answer, (place, label)]) <= max(0.0, reward(task, target, answer))


@given(targets, answers, boxes)
def test_an_unknown_label_never_helps(target: list, answer: list, box: XYXY) -> None:
    assume(answer or target)  # without objects, anything but an explicit empty answer is wrong
    assert reward("detection", target, [*answer, (box, "unicorn")]) <= reward("detection", target, answer)


@given(targets, answers)
def test_an_unusable_entry_is_paid_in_full(target: list, answer: list) -> None:
    """It counts in n_pred: the places' score falls by exactly that."""
    assume(target)
    more = [*answer, ((50, 50, 10, 10), "cat")]
    before, after = reward("detection", target, answer), reward("detection", target, more)
    n = len(answer) + len(target)
    assert after == pytest.approx(before * n / (n + 1))


@given(st.sampled_from(["grounding", "detection"]), targets, answers, st.integers(0, 5))
def test_a_copy_never_helps_unless_it_reaches_a_second_target(task: str, target: list, answer: list, pick: int) -> None:
    assume(answer)
    copied = answer[pick % len(answer)]
    box = copied[0]
    assume(len(box) == 4 and all(isinstance(value, int) for value in box))
    near = [
        other
        for other, _ in target
        if min(box[2], other[2]) > max(box[0], other[0]) and min(box[3], other[3]) > max(box[1], other[1])
    ]
    assume(len(near) < 2)
    assert reward(task, target, [*answer, copied]) <= reward(task, target, answer)


@given(targets, answers, st.integers(0, 5))
def test_a_copy_never_helps_a_count_without_a_second_target(target: list, answer: list, pick: int) -> None:
    assume(answer and len({box for box, _ in target}) == len(target))
    sample = sample_of("counting", target)
    score = TASK["counting"].score
    before = score(sample, Completion(written(answer), "stop")).components["count"]
    copied = answer[pick % len(answer)]
    assert score(sample, Completion(written([*answer, copied]), "stop")).components["count"] <= before


phi_matrices = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1))
)


@given(phi_matrices, st.floats(0, 1), st.integers(0, 24), st.sampled_from([0.0, 0.1, 0.3]))
def test_raising_an_iou_never_lowers_the_score(ious: np.ndarray, raised: float, place: int, floor: float) -> None:
    def score(matrix: np.ndarray) -> float:
        n_pred, n_target = matrix.shape
        sample = Sample("1", "grounding", "cat", BoxTarget(((0, 0, 1, 1),) * n_target), image_size=(10, 10))
        parsed = Parsed("ok", (ParsedObject((0, 0, 1, 1)),) * n_pred)
        ctx = Context(reward_spec("grounding"), sample, Completion(""), parsed)
        return matched(ctx.with_match(match_matrix(matrix, floor=floor))) or 0.0

    better = ious.copy()
    better.flat[place % better.size] = max(raised, ious.flat[place % ious.size])
    assert score(better) >= score(ious) - 1e-12


@given(targets, answers, boxes)
def test_a_target_found_exactly_pays(target: list, answer: list, box: XYXY) -> None:
    """Replacing a wrong entry by a missed target never lowers the reward."""
    assume(answer and target)
    for task in ("grounding", "detection"):
        match = TASK[task].score(sample_of(task, target), Completion(written(answer), "stop"))
        found, wrong = {t for _, t in match.pairs}, {p for p, _ in match.pairs}
        missed = [t for t in range(len(target)) if t not in found]
        useless = [p for p in range(len(answer)) if p not in wrong]
        if not missed or not useless:
            continue
        better = list(answer)
        better[useless[0]] = target[missed[0]]
        assert reward(task, target, better) > match.reward


class TestNothingThere:
    @pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
    def test_only_an_explicit_empty_answer_scores(self, task: str) -> None:
        sample = sample_of(task, [])
        for text in ("[]", "```json\n[]\n```", "[] <|im_end|>"):
            assert TASK[task].score(sample, text).reward == 1
        for text in ("", "  ", "<garbage", "I see a cat.", '[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]', "[["):
            assert TASK[task].score(sample, text).reward == 0, text
        assert TASK[task].score(sample, Completion("[]", "length")).reward == 0

    def test_number_only(self) -> None:
        sample = Sample("s", "counting", "cat", CountTarget(0), image_size=SIZE)
        assert TASK["counting"].score(sample, "[]").reward == 1
        assert TASK["counting"].score(sample, "none of it").reward in (0, 1)
        assert TASK["counting"].score(sample, "seven").reward == 0

    def test_saying_so_where_there_is_something(self) -> None:
        record = TASK["grounding"].score(sample_of("grounding", [((0, 0, 9, 9), "cat")]), "[]")
        assert (record.reward, record.status) == (0, "empty")
        assert record.reason == "says that nothing is there; 1 are"


class TestCutOff:
    target = (((0, 0, 48, 48), "cat"), ((60, 0, 108, 48), "dog"))
    good = '[{"bbox_2d": [0, 0, 48, 48], "label": "cat"}, {"bbox_2d": [60, 0, 108, 48], "label": "dog"}'

    @pytest.mark.parametrize("tail", ["", "]", ', {"bbox_2d": [6', ', {"bbox_2d": [60, 0, 100, 50'])
    def test_entries_before_the_cut_score_and_the_tail_counts(self, tail: str) -> None:
        record = TASK["detection"].score(sample_of("detection", self.target), Completion(self.good + tail, "length"))
        assert record.status == "truncated"
        assert record.n_pred == 3
        assert record.reward == pytest.approx(2 * 2 / (3 + 2))
        assert record.reason.endswith("cut off at the token limit")

    def test_running_on_is_never_better_than_stopping(self) -> None:
        sample = sample_of("detection", self.target)
        stopped = TASK["detection"].score(sample, Completion(self.good + "]", "stop")).reward
        rewards = [
            TASK["detection"]
            .score(sample, Completion(self.good + ', {"bbox_2d": [1, 1, 9, 9], "label": "cat"}' * n, "length"))
            .reward
            for n in range(6)
        ]
        assert stopped == 1
        assert rewards == sorted(rewards, reverse=True)
        assert rewards[0] < stopped

    def test_counting(self) -> None:
        sample = sample_of("counting", self.target)
        record = TASK["counting"].score(sample, Completion(self.good, "length"))
        assert record.components == pytest.approx({"count": 2 / 3, "matched": 0.8})

    def test_cut_before_anything(self) -> None:
        record = TASK["grounding"].score(sample_of("grounding", self.target), Completion("I think", "length"))
        assert (record.reward, record.status) == (0, "truncated")


class TestThinking:
    task = make_task("grounding", family="qwen2_vl", thinking=True)
    sample = Sample("s", "grounding", "cat", BoxTarget(((0, 0, 50, 50),)), image_size=(1000, 1000))
    box = "<|box_start|>(0,0),(50,50)<|box_end|>"

    def test_the_answer_block_is_scored(self) -> None:
        assert self.task.score(self.sample, f"<think>a</think><answer>{self.box}</answer>").reward == 1

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (box, "unreadable: no <think> block"),
            (f"<think>{box}</think>", "unreadable: no <answer> block"),
            (f"<think>{box}</think><answer></answer>", "unreadable: no box, point or explicit empty answer"),
            (
                f"<think>a</think><answer>{box}</answer><answer>{box}</answer>",
                "unreadable: more than one <answer> block",
            ),
            (f"<answer>{box}</answer><think>a</think>", "unreadable: <think> and <answer> blocks in the wrong order"),
        ],
    )
    def test_other_blocks_score_nothing_and_say_why(self, text: str, reason: str) -> None:
        record = self.task.score(self.sample, Completion(text, "stop"))
        assert (record.reward, record.reason) == (0, reason)


class TestPoints:
    def test_tolerances(self) -> None:
        """Half the spacing, at most the cap, at least what rounding to 0..1000 costs."""
        assert point_tolerances(((0, 0), (100, 0), (400, 0)), 1000, 0.15) == (50, 50, 150)
        assert point_tolerances(((7, 7),), 1000, 0.15) == (150,)
        assert point_tolerances(((7, 7), (7, 7)), 1000, 0.15) == (150, 150)
        assert point_tolerances(((0, 0), (1.5, 0)), 1000, 0.15) == (2, 2)

    @given(st.lists(st.tuples(st.floats(0, 1200), st.floats(0, 900)), min_size=2, max_size=8, unique=True))
    def test_gold_clicks_score_1_in_every_frame(self, points: list[tuple[float, float]]) -> None:
        sample = Sample("s", "counting", "cat", PointTarget(tuple(points)), image_size=(1200, 900))
        for family in ("qwen3_vl", "pixel", "qwen2_vl", "internvl"):
            task = make_task("counting", family=family)
            record = task.score(sample, task.gold(sample))
            assert record.components["matched"] == pytest.approx(1, abs=1e-9), family


texts = st.text(alphabet="[]{}()<>|\"',:.0123456789 abx_-\n", max_size=80) | st.text(max_size=60)
any_targets: st.SearchStrategy[Target] = st.sampled_from(
    [BoxTarget(((1, 2, 30, 40),), ("cat",)), BoxTarget(()), PointTarget(((3, 4),)), CountTarget(2), TextTarget("abc")]
)


@given(
    texts,
    any_targets,
    st.sampled_from(["robust", "released"]),
    st.booleans(),
    st.sampled_from(["stop", "length", None]),
)
def test_no_text_makes_a_reward_raise(text: str, target: Target, preset: str, thinking: bool, end: object) -> None:
    for name, kind in TASKS.items():
        if not isinstance(target, kind.targets) or (preset == "released" and isinstance(target, CountTarget)):
            continue
        for family in ("qwen2_vl", "qwen3_vl", "internvl"):
            task: Task = make_task(name, family=family, reward=preset, thinking=thinking)
            sample = Sample("s", name, "cat", target, image_size=SIZE, categories=LABELS)  # type: ignore[arg-type]
            record = task.score(sample, Completion(text, end))  # type: ignore[arg-type]
            assert record.reward is not None
            assert 0 <= record.reward <= (1 if preset == "robust" else 3)
            assert record.reason


def test_records_are_in_pixels_and_complete() -> None:
    task = make_task("detection", family="qwen3_vl")
    sample = Sample(
        "s", "detection", "", BoxTarget(((0, 0, 64, 48),), ("cat",)), image_size=(640, 480), categories=LABELS
    )
    text = '[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}, {"bbox_2d": [9, 9, 1, 1], "label": "dog"}]'
    record = task.score(sample, text)
    assert record.pred_xyxy == ((0, 0, 64, 48), None)
    assert record.pred_labels == ("cat", "dog")
    assert (record.n_pred, record.n_valid, record.n_target) == (2, 1, 1)
    assert (record.pairs, record.ious) == (((0, 0),), (1,))
    assert record.to_dict()["components"] == {"matched": pytest.approx(2 / 3)}


def test_many_entries_are_quick_and_bounded() -> None:
    entry: Entry = ((1, 1, 9, 9), "cat")
    text = get_family(FAMILY).write([entry] * 3000)
    record = TASK["counting"].score(sample_of("counting", [((1, 1, 9, 9), "cat")]), text)
    assert record.reward is not None
    assert record.reward < 0.01
