"""Each component and each preset against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from perception_r1.answers.formats import WrittenEntry as Entry
from perception_r1.families import get_family
from perception_r1.tasks import make_task, reward_spec
from perception_r1.types import BoxTarget, Completion, CountTarget, PointTarget, RewardRecord, Sample, TextTarget

SIZE = (1000, 1000)
"""With this size the 0..1000 frame is that of pixels."""
A, B, C = (0, 0, 100, 100), (200, 0, 300, 100), (400, 400, 500, 500)
HALF_A = (0, 0, 100, 50)
"""IoU 0.5 with A."""


def say(*places: tuple[float, ...], labels: tuple[str | None, ...] = ()) -> str:
    entries: list[Entry] = [
        (place, label) for place, label in zip(places, labels or (None,) * len(places), strict=True)
    ]  # type: ignore[misc]
    return get_family("qwen2_vl").write(entries, "cat")


def score(task: str, target: object, text: str, reward: object = "robust", **sample: object) -> RewardRecord:
    made = make_task(task, family="qwen2_vl", reward=reward)  # type: ignore[arg-type]
    asked = Sample("s", task, "cat", target, image_size=SIZE, **sample)  # type: ignore[arg-type]
    return made.score(asked, Completion(text, "stop"))


class TestGrounding:
    def test_robust(self) -> None:
        target = BoxTarget((A,))
        assert score("grounding", target, say(A)).reward == 1
        assert score("grounding", target, say(HALF_A)).reward == 0.5
        assert score("grounding", target, say(A, B)).reward == pytest.approx(2 / 3)
        assert score("grounding", target, say(B, A)).reward == pytest.approx(2 / 3)
        assert score("grounding", target, say((0, 0, 100, 9))).reward == 0  # IoU 0.09, under the floor
        assert score("grounding", target, say((0, 0, 100, 10))).reward == pytest.approx(0.1)

    def test_several_targets_and_none(self) -> None:
        assert score("grounding", BoxTarget((A, B)), say(A)).reward == pytest.approx(2 / 3)
        assert score("grounding", BoxTarget(()), "[]").reward == 1
        assert score("grounding", BoxTarget(()), say(A)).reward == 0
        assert score("grounding", BoxTarget(()), "what?").reward == 0

    def test_paper(self) -> None:
        target = BoxTarget((A,))
        assert score("grounding", target, say(A), "released").reward == 2
        found = score("grounding", target, say(HALF_A), "released")
        assert found.reward == 1.25
        assert found.components == {"format": 1, "iou2": 0.25}
        # Only the first box is looked at.
        assert score("grounding", target, say(HALF_A, A), "released").reward == 1.25
        assert score("grounding", target, say((100, 100, 0, 0)), "released").reward == 1
        assert score("grounding", target, "no idea", "released").reward == 0

    def test_iou_as_an_option(self) -> None:
        spec = reward_spec("grounding", "released", components={"format": 1, "iou": 1})
        assert score("grounding", BoxTarget((A,)), say(HALF_A), spec).reward == 1.5


class TestCounting:
    def test_robust_boxes(self) -> None:
        target = BoxTarget((A, B, C))
        assert score("counting", target, say(A, B, C)).reward == 1
        # 2 of 3: count 2/3, places 2 · 2 / (2 + 3).
        found = score("counting", target, say(A, B))
        assert found.components == pytest.approx({"count": 2 / 3, "matched": 0.8})
        assert found.reward == pytest.approx(0.5 * 2 / 3 + 0.5 * 0.8)
        # A loose box instead of none: count 1, places 2 · 2.5 / 6.
        assert score("counting", target, say(HALF_A, B, C)).reward == pytest.approx(0.5 + 0.5 * 5 / 6)

    def test_copies_are_one_for_the_count_and_each_a_prediction_for_the_places(self) -> None:
        found = score("counting", BoxTarget((A, B, C)), say(A, A, A))
        assert found.components == pytest.approx({"count": 1 / 3, "matched": 2 / 6})

    def test_targets_in_one_place(self) -> None:
        """Two targets in the same place may be said twice; a third copy is one too many for the places only."""
        target = BoxTarget((A, A))
        assert score("counting", target, say(A, A)).reward == 1
        assert score("counting", target, say(A)).components == pytest.approx({"count": 0.5, "matched": 2 / 3})
        assert score("counting", target, say(A, A, A)).components == pytest.approx({"count": 1, "matched": 0.8})

    def test_unusable_entries_count_against(self) -> None:
        found = score("counting", BoxTarget((A, B)), say(A, B, (50, 50, 10, 10)))
        assert found.components == pytest.approx({"count": 2 / 3, "matched": 0.8})
        assert found.reason == "2 of 2 boxes matched; 1 entry without a target; entry 3: inverted corners"

    def test_an_entry_with_a_box_and_a_point_is_one(self) -> None:
        """Each counted twice, so that half of the objects with both earned the whole count."""
        task = make_task("counting", family="qwen3_vl")
        entries = [{"bbox_2d": list(box), "point_2d": [box[0] + 50, box[1] + 50]} for box in (A, B, C)]

        def scored(target: BoxTarget | CountTarget, number: int) -> RewardRecord:
            return task.score(Sample("s", "counting", "cat", target, image_size=SIZE), json.dumps(entries[:number]))

        for target in (BoxTarget((A, B, C, (700, 700, 800, 800))), CountTarget(4)):
            found = scored(target, 2)
            assert (found.n_pred, found.n_valid) == (2, 2)
            assert found.components["count"] == pytest.approx(2 / 4)
        found = scored(BoxTarget((A, B, C)), 3)
        assert (found.reward, found.n_valid) == (1, 3)

    def test_points(self) -> None:
        """Clicks at 100 apart: tolerance 50, full up to 25."""
        target = PointTarget(((100, 100), (200, 100)))
        task = make_task("counting", family="qwen3_vl")
        sample = Sample("s", "counting", "cat", target, image_size=SIZE)

        def places(*points: tuple[float, float]) -> float:
            text = task.family.write([(point, None) for point in points])
            return task.score(sample, text).components["matched"]

        assert places((100, 100), (200, 100)) == 1
        assert places((120, 100), (200, 115)) == 1
        assert places((100, 100), (237.5, 100)) == pytest.approx((1 + 0.5) / 2)
        assert places((100, 100), (250, 100)) == 0.5
        # Centres of boxes do as well.
        assert score("counting", target, say((50, 50, 150, 150), (190, 90, 210, 110))).reward == 1

    def test_a_lone_click_has_a_tolerance_of_the_diagonal(self) -> None:
        """0.15 of 1414 px is 212: full up to 106, and half the way to 0 at 159."""
        target = PointTarget(((500, 500),))
        box = (649, 490, 669, 510)  # centre (659, 500)
        assert score("counting", target, say(box)).components["matched"] == pytest.approx(
            2 - 2 * 159 / 212.132, abs=1e-4
        )
        near = reward_spec("counting", options={"point_cap": 0.05})
        assert score("counting", target, say(box), near).components["matched"] == 0

    def test_number_only(self) -> None:
        assert score("counting", CountTarget(3), say(A, B, C)).reward == 1
        assert score("counting", CountTarget(3), say(A, B)).components == pytest.approx({"count": 2 / 3})
        assert score("counting", CountTarget(3), say(A, B)).reward == pytest.approx(2 / 3)
        assert score("counting", CountTarget(3), say(A, A, A)).reward == pytest.approx(1 / 3)
        assert score("counting", CountTarget(3), say(A, B, C, A, A, A)).reward == pytest.approx(3 / 6)
        assert score("counting", CountTarget(0), "[]").reward == 1
        assert score("counting", CountTarget(0), say(A)).reward == 0

    def test_other_weights(self) -> None:
        spec = reward_spec("counting", components={"count": 0.25, "matched": 0.75})
        assert score("counting", BoxTarget((A, B, C)), say(A, B), spec).reward == pytest.approx(
            0.25 * 2 / 3 + 0.75 * 0.8
        )

    def test_paper(self) -> None:
        """Clicks; the second box's centre is 60 off, so the mean of L2 is 30 of 1414."""
        target = PointTarget(((50, 50), (250, 50)))
        found = score("counting", target, say(A, (260, 0, 360, 100)), "released")
        assert found.reward == pytest.approx(1 - 30 / 1414.2136, abs=1e-6)
        assert found.components["format"] == 1
        assert score("counting", target, say(A, B, C), "released").reward == pytest.approx(2 / 3)
        assert score("counting", target, say(A) + "!", "released").reward == 0  # the format is a gate
        assert score("counting", target, say(A) + "<|im_end|>", "released").reward == pytest.approx(0.5)
        cut = make_task("counting", family="qwen2_vl", reward="released").score(
            Sample("s", "counting", "cat", target, image_size=SIZE), Completion(say(A), "length")
        )
        assert cut.reward == 0

    def test_paper_reads_distances_in_the_0_to_1000_space(self) -> None:
        made = make_task("counting", family="pixel", reward="released")
        sample = Sample("s", "counting", "cat", PointTarget(((100, 100),)), image_size=(2000, 500))
        # 100 px right of the click are 50 of 1000 of the width.
        assert made.score(sample, '[{"point_2d": [200, 100]}]').reward == pytest.approx(1 - 50 / 1414.2136, abs=1e-6)


class TestDetection:
    target = BoxTarget((A, B, C), ("cat", "cat", "dog"))
    categories = ("cat", "dog", "cow")

    def robust(self, text: str) -> RewardRecord:
        return score("detection", self.target, text, categories=self.categories)

    def test_robust(self) -> None:
        assert self.robust(say(A, B, C, labels=("cat", "cat", "dog"))).reward == 1
        assert self.robust(say(C, A, B, labels=("DOG", "cat", " cat"))).reward == 1
        assert self.robust(say(A, B, C, labels=("cat", "dog", "dog"))).reward == pytest.approx(4 / 6)
        assert self.robust(say(HALF_A, C, labels=("cat", "dog"))).reward == pytest.approx(2 * 1.5 / 5)
        # Under the floor of 0.3: nothing, and it still counts as a prediction.
        assert self.robust(say((0, 0, 100, 29), C, labels=("cat", "dog"))).reward == pytest.approx(2 / 5)

    def test_floor_is_an_option(self) -> None:
        low = reward_spec("detection", options={"floor": 0.1})
        text = say((0, 0, 100, 29), C, labels=("cat", "dog"))
        assert score("detection", self.target, text, low).reward == pytest.approx(2 * 1.29 / 5)

    def test_entries_without_a_label(self) -> None:
        made = make_task("detection", family="qwen3_vl")
        sample = Sample("s", "detection", "", self.target, image_size=SIZE, categories=self.categories)
        text = '[{"bbox_2d": [0, 0, 100, 100]}, {"bbox_2d": [200, 0, 300, 100], "label": "cat"}]'
        assert made.score(sample, text).reward == pytest.approx(2 / 5)


class TestDetectionAsReleased:
    """0.25 · format + 0.75 · F1 + cls + IoU − 0.5 · (FP / n_pred + FN / n_target), clamped to [0, 3]."""

    target = BoxTarget((A, B, C), ("cat", "cat", "dog"))

    def paper(
        self, text: str, target: BoxTarget | None = None, reward: object = "released", family: str = "qwen2_vl"
    ) -> RewardRecord:
        made = make_task("detection", family=family, reward=reward)  # type: ignore[arg-type]
        sample = Sample(
            "s",
            "detection",
            "",
            target or self.target,
            image_size=SIZE,
            model_size=SIZE,
            categories=("cat", "dog", "cow"),
        )
        return made.score(sample, Completion(text, "stop"))

    def test_perfect(self) -> None:
        assert self.paper(say(A, B, C, labels=("cat", "cat", "dog"))).reward == pytest.approx(3)

    def test_each_term(self) -> None:
        # Four entries: one label unknown (no prediction), A at IoU 0.8, B with a wrong label, one box that is nowhere.
        text = say((0, 0, 100, 80), B, (700, 700, 800, 800), C, labels=("cat", "dog", "cow", "unicorn"))
        found = self.paper(text)
        assert found.components == pytest.approx(
            {"format": 0.75, "f1": 2 / 3, "cls": 0.5, "iou": 0.9, "missing": 1 / 3 + 1 / 3, "whole": 1}
        )
        assert found.reward == pytest.approx(0.25 * 0.75 + 0.75 * 2 / 3 + 0.5 + 0.9 - 0.5 * 2 / 3)

    def test_f1_does_not_look_at_labels(self) -> None:
        found = self.paper(say(A, B, C, labels=("dog", "dog", "cat")))
        assert found.components["f1"] == 1
        assert found.components["cls"] == 0
        assert found.reward == pytest.approx(0.25 + 0.75 + 1)

    def test_the_five_steps_of_the_ablation(self) -> None:
        text = say((0, 0, 100, 80), B, labels=("cat", "dog"))  # 2 of 3, IoU 0.9, half of the labels
        terms = {"format": 0.25, "iou": 1.0, "cls": 1.0, "f1": 0.75, "missing": -0.5}
        expected, total = [], 0.0
        for value in (0.25, 0.9, 0.5, 0.75 * 0.8, -0.5 / 3):
            total += value
            expected.append(total)
        for step in range(1, 6):
            spec = reward_spec("detection", "released", components=dict(list(terms.items())[:step]))
            assert self.paper(text, reward=spec).reward == pytest.approx(expected[step - 1])

    def test_one_perfect_box_of_twenty(self) -> None:
        """F1 = 2/21, FN = 19/20: 0.25 + 0.0714 + 1 + 1 − 0.475; as the released script runs it, 2.32."""
        boxes = tuple((x, y, x + 50, y + 50) for x in range(0, 1000, 200) for y in range(0, 800, 200))
        target = BoxTarget(boxes, ("cat",) * 20)
        text = say(boxes[0], labels=("cat",))
        assert self.paper(text, target).reward == pytest.approx(2.25 + 0.75 * 2 / 21 - 0.475)
        script = reward_spec("detection", "released", components={"format": 0.25, "f1": 0.75, "cls": 1, "iou": 1})
        assert self.paper(text, target, script).reward == pytest.approx(2.3214, abs=1e-4)
        robust = make_task("detection", family="qwen2_vl").score(
            Sample("s", "detection", "", target, image_size=SIZE, categories=("cat",)), text
        )
        assert robust.reward == pytest.approx(2 / 21)

    def test_nothing_matched_leaves_the_format(self) -> None:
        assert self.paper(say((700, 700, 800, 800), labels=("cat",))).reward == 0.25
        assert self.paper(say((700, 700, 800, 800), A, labels=("cat", "unicorn"))).reward == 0.125

    def test_no_objects(self) -> None:
        nothing = BoxTarget(())
        assert self.paper(say(A, labels=("cat",)), nothing).reward == 0.25  # invented, and paid
        assert self.paper("[]", nothing).reward == 0  # right, and not paid

    def test_one_bad_entry_loses_all(self) -> None:
        assert self.paper(say(A, (90, 90, 10, 10), labels=("cat", "cat"))).reward == 0
        assert self.paper(say(A, (90, 90, 10, 10), labels=("cat", "unicorn"))).reward == pytest.approx(
            0.125 + 0.75 * 0.5 + 2 - 0.5 * 2 / 3
        )

    def test_json_as_a_whole(self) -> None:
        good = '[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}]'
        reward = pytest.approx(0.25 + 0.75 * 0.5 + 2 - 0.5 * 2 / 3)
        assert self.paper(good, family="qwen3_vl").reward == reward
        assert self.paper(f"```json\n{good}\n```", family="qwen3_vl").reward == reward
        for bad in (f"Here: {good}", good[:-1], good[1:-1], good.replace("[0, 0, 100, 100]", "[0, 0, 100]")):
            assert self.paper(bad, family="qwen3_vl").reward == 0

    def test_l1_is_in_pixels_of_the_image_that_the_model_sees(self) -> None:
        made = make_task("detection", family="qwen2_5_vl", reward="released")
        sample = Sample(
            "s", "detection", "", BoxTarget((A,), ("cat",)), image_size=SIZE, model_size=(504, 504), categories=("cat",)
        )
        assert made.score(sample, made.gold(sample)).reward == pytest.approx(3, abs=0.05)


class TestOcr:
    def test_both_presets(self) -> None:
        target = TextTarget("kitten")
        assert score("ocr", target, "kitten").reward == 1
        assert score("ocr", target, "sitting").reward == pytest.approx(1 - 3 / 7)
        assert score("ocr", target, "sitting", "released").reward == pytest.approx(1 - 3 / 7)
        assert score("ocr", TextTarget(""), "").reward == 1
        assert score("ocr", target, "").reward == 0

    def test_white_space(self) -> None:
        target = TextTarget("one two\nthree")
        assert score("ocr", target, "one  two three").reward == 1
        assert score("ocr", target, "one  two three", "released").reward == pytest.approx(1 - 2 / 14)

    def test_text_over_two_thousand_characters(self) -> None:
        assert score("ocr", TextTarget("ab" * 5000), "ab" * 2500).reward == 0.5

    def test_cut_off_text_scores_as_far_as_it_goes(self) -> None:
        made = make_task("ocr", family="qwen2_vl")
        sample = Sample("s", "ocr", "", TextTarget("0123456789"))
        record = made.score(sample, Completion("01234", "length"))
        assert (record.reward, record.status) == (0.5, "truncated")
        assert record.reason == "50% of the text is right; cut off at the token limit"
