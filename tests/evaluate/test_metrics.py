from __future__ import annotations

import pytest

from perception_r1.evaluate import metrics
from perception_r1.rewards.objects import hits
from perception_r1.tasks import task_class
from perception_r1.types import BoxTarget, CountTarget, PointTarget, RewardRecord, Sample, TextTarget


def _sample(key: str, boxes=(), labels=(), task="grounding", target=None) -> Sample:
    return Sample(key, task, "q", target or BoxTarget(tuple(boxes), tuple(labels)), image_size=(100, 100))


def _record(boxes=(), labels=None, status="ok", reward=0.5, **more) -> RewardRecord:
    valid = sum(box is not None for box in boxes)
    return RewardRecord(
        reward,
        status=status,
        n_pred=len(boxes),
        n_valid=valid,
        pred_xyxy=tuple(boxes),
        pred_labels=tuple(labels or (None,) * len(boxes)),
        **more,
    )


def _values(summary):
    return {name: entry["value"] for name, entry in summary["metrics"].items()}


def test_grounding_by_hand():
    target = (0, 0, 10, 10)
    scored = [
        (_sample("exact", [target]), _record([target])),
        (_sample("0.8", [target]), _record([(0, 0, 10, 8)])),
        (_sample("0.5", [target]), _record([(0, 0, 10, 5)])),  # at the threshold counts: IoU ≥ 0.5
        (_sample("first box counts", [target]), _record([(50, 50, 60, 60), target])),
        (_sample("unusable first entry", [target]), _record([None, target])),
        (_sample("unreadable", [target]), _record(status="malformed", reward=0.0, reason="unreadable: no box")),
        (_sample("nothing there, said so"), _record(status="empty", reward=1.0)),
        (_sample("nothing there, made up"), _record([target], reward=0.0)),
    ]
    summary = metrics.summarise("grounding", scored)
    values = _values(summary)
    assert values["acc@0.5"] == 5 / 8
    assert values["acc@0.75"] == 4 / 8
    assert values["acc@0.95"] == 3 / 8
    assert values["avg"] == pytest.approx(4 / 8)
    assert values["mean_iou"] == pytest.approx((1 + 0.8 + 0.5 + 0 + 1 + 0 + 1 + 0) / 8)
    # centres: (5, 4) and (5, 2.5) lie inside, so "0.8" and "0.5" hit
    assert values["center_acc"] == 5 / 8
    assert summary["primary"] == "acc@0.5"
    assert summary["unparsable"] == {"unreadable: no box": 1}
    for entry in summary["metrics"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_not_scored_is_left_out_not_zero():
    box = (0, 0, 10, 10)
    scored = [
        (_sample("a", [box]), _record([box], reward=1.0)),
        (_sample("b", [box]), _record([], reward=None, reason="no size")),
    ]
    summary = metrics.summarise("grounding", scored)
    assert (summary["n"], summary["n_scored"]) == (2, 1)
    assert _values(summary)["acc@0.5"] == 1.0
    assert summary["unparsable"] == {"not scored: no size": 1}
    nothing = metrics.summarise("grounding", scored[1:])
    assert nothing["metrics"] == {}
    assert nothing["n_scored"] == 0


def test_counting_by_hand():
    box = (0.0, 0.0, 5.0, 5.0)
    scored = [
        (_sample("1", task="counting", target=CountTarget(1)), _record([box])),
        (_sample("2", task="counting", target=PointTarget(((1, 1), (9, 9)))), _record([box, None])),  # one usable
        (_sample("3", [box, (20, 20, 30, 30)], task="counting"), _record([box, box])),
        (_sample("4", task="counting", target=CountTarget(4)), _record([box])),
    ]
    values = _values(metrics.summarise("counting", scored))
    assert values["accuracy"] == 2 / 4
    assert values["mae"] == pytest.approx((0 + 1 + 0 + 3) / 4)
    assert values["accuracy[count=1]"] == 1.0
    assert values["accuracy[count=2]"] == 0.5
    assert values["accuracy[count=4]"] == 0.0
    assert "box_f1@0.5" not in values  # not every target has boxes


def test_detection_by_hand():
    cat, dog = (0, 0, 10, 10), (50, 50, 70, 70)
    scored = [
        # two right of three: the third repeats a box and is a false positive
        (_sample("a", [cat, dog], ["cat", "dog"], task="detection"), _record([cat, dog, cat], ["Cat", "dog", "cat"])),
        # right box, wrong label: nothing
        (_sample("b", [cat], ["cat"], task="detection"), _record([cat], ["dog"])),
        # IoU 0.4 only, and an entry that cannot be used
        (_sample("c", [cat], ["cat"], task="detection"), _record([(0, 0, 10, 4), None], ["cat", "cat"])),
        # nothing there, and nothing said
        (_sample("d", task="detection"), _record(status="empty")),
    ]
    values = _values(metrics.summarise("detection", scored))
    assert values["precision@0.5"] == pytest.approx(2 / 6)
    assert values["recall@0.5"] == pytest.approx(2 / 4)
    assert values["f1@0.5"] == pytest.approx(2 * 2 / (6 + 4))
    assert values["count_accuracy"] == 3 / 4  # of usable boxes: b, c and d


def test_true_positives_are_as_many_as_can_be():
    # Taking the best IoU first (p0 with t1) would leave p1 without a partner.
    t0, t1 = (0, 0, 10, 10), (0, 2, 10, 12)
    p0, p1 = (0, 1.2, 10, 11.2), (0, 4, 10, 14)
    sample = _sample("a", [t0, t1], ["x", "x"])
    assert len(hits(sample, _record([p0, p1], ["x", "x"]))) == 2


@pytest.mark.parametrize("label", ["traffic  light", "Traffic Light", " traffic\u00a0light ", "TRAFFIC\tLIGHT"])
def test_a_label_that_the_reward_takes_is_a_true_positive(label):
    from perception_r1.evaluate.coco import coco_metrics
    from perception_r1.tasks import make_task

    sample = _sample("a", [(0, 0, 50, 50)], ["traffic light"], task="detection")
    answer = f'[{{"bbox_2d": [0, 0, 50, 50], "label": "{label}"}}]'.replace("\t", "\\t")
    record = make_task("detection", family="pixel").score(sample, answer)
    assert record.reward == 1.0
    assert len(task_class("detection").hits(sample, record)) == 1
    assert coco_metrics([(sample, record)])["AP50"]["value"] == pytest.approx(1.0)


def test_detection_of_nothing_at_all_is_one():
    values = _values(metrics.summarise("detection", [(_sample("a"), _record(status="empty"))]))
    assert values["f1@0.5"] == values["precision@0.5"] == values["recall@0.5"] == 1.0


def test_ocr_pages_then_mean():
    pytest.importorskip("nltk")
    scored = [
        (_sample("a", task="ocr", target=TextTarget("one two")), _record(answer="one two")),
        (_sample("b", task="ocr", target=TextTarget("one two")), _record(answer="", status="empty")),
    ]
    values = _values(metrics.summarise("ocr", scored))
    assert values["edit_similarity"] == values["exact_match"] == values["f1"] == 0.5
    assert values["edit_distance"] == 0.5


def test_compare_is_paired_by_id():
    box, far = (0, 0, 10, 10), (50, 50, 60, 60)
    before = [(_sample(str(i), [box]), _record([far])) for i in range(10)]
    after = [(_sample(str(i), [box]), _record([box] if i < 4 else [far])) for i in reversed(range(12))]
    difference = metrics.compare("grounding", before, after)["acc@0.5"]
    assert difference["n"] == 10
    assert difference["value"] == pytest.approx(0.4)
    assert 0 < difference["low"] < 0.4 < difference["high"] < 0.8
    assert metrics.compare("grounding", before, []) == {}


def test_quality_is_the_primary_metric_of_one_answer():
    cat, dog = (0, 0, 10, 10), (50, 50, 70, 70)
    assert metrics.quality(_sample("a", [cat]), _record([(0, 0, 10, 6)])) == 1.0
    assert metrics.quality(_sample("a", [cat]), _record([dog])) == 0.0
    assert metrics.quality(_sample("a", [cat, dog], task="counting"), _record([dog, dog])) == 1.0
    both = _sample("a", [cat, dog], ["cat", "dog"], task="detection")
    assert metrics.quality(both, _record([cat], ["cat"])) == 2 / 3
    text = _sample("a", task="ocr", target=TextTarget("1234"))
    assert metrics.quality(text, _record(answer="1235")) == 0.75
