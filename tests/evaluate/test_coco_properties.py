"""COCO's twelve figures equal pycocotools on made-up data sets: crowds, empty images, ties, equal scores."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.evaluate import coco

pytest.importorskip("hotcoco")
api = pytest.importorskip("pycocotools.coco")

# Few values, so that boxes coincide, IoUs hit thresholds and scores tie.
SIDE = st.sampled_from([4, 10, 20, 40, 50, 100, 120])
BOX = st.tuples(st.sampled_from([0, 5, 10, 60, 100]), st.sampled_from([0, 5, 20, 100]), SIDE, SIDE)


@st.composite
def data_sets(draw):
    n_images, n_categories = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    score = st.just(1.0) if draw(st.booleans()) else st.sampled_from([0.1, 0.5, 0.5, 0.9])
    category, image = st.integers(1, n_categories), st.integers(1, n_images)
    objects = draw(st.lists(st.tuples(image, category, BOX, st.sampled_from([0, 0, 0, 1])), min_size=1, max_size=24))
    said = draw(st.lists(st.tuples(image, category, BOX, score), min_size=1, max_size=40))
    # half of the predictions lie on an object
    said += [(i, c, box, draw(score)) for i, c, box, _ in objects[::2]]
    truth = {
        "images": [{"id": i, "width": 300, "height": 300, "file_name": f"{i}.jpg"} for i in range(1, n_images + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(objects, start=1)
        ],
        "categories": [{"id": c, "name": str(c)} for c in range(1, n_categories + 1)],
    }
    return truth, [{"image_id": i, "category_id": c, "bbox": list(box), "score": s} for i, c, box, s in said]


def _reference(truth, results):
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = api.COCO()
        gt.dataset = truth
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes([dict(row) for row in results]), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(coco.NAMES, evaluator.stats, strict=True))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data_sets())
def test_equal_to_pycocotools(made):
    truth, results = made
    figures, _ = coco.coco_figures(truth, results)
    assert figures == pytest.approx(_reference(truth, results), abs=1e-9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data_sets())
def test_weight_one_is_the_plain_figure(made):
    """What the intervals are made with, at every image once, is COCO's own accumulation (no crowds: those it skips)."""
    import numpy as np

    truth, results = made
    figures, evaluator = coco.coco_figures(truth, results)
    ids = [image["id"] for image in truth["images"]]
    once = coco.weighted_ap(evaluator, ids, np.ones((1, len(ids))))
    for name in ("AP", "AP50", "AP75"):
        assert once[name][0] == pytest.approx(max(figures[name], 0.0), abs=1e-9)
