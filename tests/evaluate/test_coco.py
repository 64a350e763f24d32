from __future__ import annotations

import contextlib
import io
import json
import random

import numpy as np
import pytest

from perception_r1.errors import DataError
from perception_r1.evaluate import coco
from perception_r1.types import BoxTarget, RewardRecord, Sample

pytest.importorskip("hotcoco")


def _pycocotools(truth, results, image_ids=None):
    api = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = api.COCO()
        gt.dataset = truth
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(results), "bbox")
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(coco.NAMES, evaluator.stats, strict=True))


def test_reference_figures(shared_data):
    folder = shared_data / "cocoeval_reference"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    figures, evaluator = coco.coco_figures(truth, results)
    expected = dict(
        zip(
            coco.NAMES,
            [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
            strict=True,
        )
    )
    assert {name: round(value, 3) for name, value in figures.items()} == expected
    assert figures == pytest.approx(_pycocotools(truth, results), abs=1e-9)
    # The re-weighted accumulation behind the interval, with every image once, is COCO's own.
    ids = sorted(image["id"] for image in truth["images"])
    once = coco.weighted_ap(evaluator, ids, np.ones((1, len(ids))))
    for name in ("AP", "AP50", "AP75"):
        assert once[name][0] == pytest.approx(figures[name], abs=1e-12)


def _random_scored(seed: int, n: int = 25) -> list[tuple[Sample, RewardRecord]]:
    rng = random.Random(seed)
    names = ("cat", "dog", "traffic light")
    scored = []
    for i in range(n):
        boxes, pred = [], []
        for _ in range(rng.choice([0, 1, 2, 5, 8])):
            x, y = rng.uniform(0, 400), rng.uniform(0, 300)
            box = (x, y, x + rng.uniform(4, 200), y + rng.uniform(4, 160))
            label = rng.choice(names)
            boxes.append((box, label))
            if rng.random() < 0.8:
                shift = rng.choice([0, 2, 9, 30])
                said = label if rng.random() < 0.9 else rng.choice((*names, "Cat ", "zebra"))
                pred.append((tuple(v + rng.uniform(-shift, shift) for v in box), said))
        if rng.random() < 0.3:
            pred.append((None, "cat"))
        sample = Sample(
            id=f"s{i}",
            task="detection",
            question="",
            categories=names,
            image_size=(640, 480),
            image=f"/x/{i:04d}.jpg",
            target=BoxTarget(tuple(b for b, _ in boxes), tuple(name for _, name in boxes)),
        )
        record = RewardRecord(
            reward=0.0,
            pred_xyxy=tuple(b for b, _ in pred),
            pred_labels=tuple(name for _, name in pred),
            n_pred=len(pred),
            n_valid=sum(b is not None for b, _ in pred),
            n_target=len(boxes),
        )
        scored.append((sample, record))
    return scored


@pytest.mark.parametrize("seed", range(8))
def test_made_up_sets_equal_pycocotools_with_all_scores_one(seed):
    scored = _random_scored(seed)
    truth = coco.ground_truth(scored)
    ids = list(range(1, len(scored) + 1))
    results = coco.detections(scored, ids, {c["name"]: c["id"] for c in truth["categories"]})
    figures, evaluator = coco.coco_figures(truth, results, ids)
    assert figures == pytest.approx(_pycocotools(truth, results, ids), abs=1e-9)
    once = coco.weighted_ap(evaluator, ids, np.ones((2, len(ids))))
    assert once["AP"] == pytest.approx([figures["AP"]] * 2, abs=1e-12)


def test_perfect_answers_and_no_answers():
    def one(pred):
        sample = Sample("a", "detection", "", BoxTarget(((10, 10, 60, 60),), ("cat",)), image_size=(100, 100))
        labels = ("cat",) * len(pred)
        return [(sample, RewardRecord(1.0, pred_xyxy=pred, pred_labels=labels, n_pred=len(pred), n_valid=len(pred)))]

    perfect = coco.coco_metrics(one(((10.0, 10.0, 60.0, 60.0),)))
    assert perfect["AP"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0, "n": 1})
    assert perfect["APm"]["value"] == pytest.approx(1.0)
    assert "APs" not in perfect  # no small box: no figure, rather than COCO's −1
    assert coco.coco_metrics(one(()))["AP"]["value"] == 0.0
    assert coco.coco_metrics([]) == {}


def test_interval_contains_the_value_and_is_seeded():
    scored = _random_scored(3)
    first = coco.coco_metrics(scored)
    assert first == coco.coco_metrics(scored)
    low, value, high = (first["AP"][key] for key in ("low", "value", "high"))
    assert 0 < low < value < high < 1
    assert abs((low + high) / 2 - value) < 0.25 * (high - low)  # resamples lie higher than what they are drawn from


def test_official_file_by_image_name(tmp_path):
    scored = _random_scored(5)
    truth = coco.ground_truth(scored)
    for image in truth["images"]:
        image["id"] += 100
        image["file_name"] = f"{image['id'] - 101:04d}.jpg"
    for annotation in truth["annotations"]:
        annotation["image_id"] += 100
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(truth))
    assert coco.coco_metrics(scored, path)["AP"] == coco.coco_metrics(scored)["AP"]
    # A part of the images: the others do not count as missed.
    assert coco.coco_metrics(scored[:10], path)["AP"]["value"] == coco.coco_metrics(scored[:10])["AP"]["value"]
    truth["images"].pop()
    path.write_text(json.dumps(truth))
    with pytest.raises(DataError, match=r"field 'images': image '0024.jpg' of sample 's24' is not in it"):
        coco.coco_metrics(scored, path)
