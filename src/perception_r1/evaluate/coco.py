"""COCO's twelve figures for detection answers, by hotcoco (equal to pycocotools, which is the oracle in the tests).

A model that writes boxes as text gives no confidence: every box has score 1.0, as in PR1, and boxes of equal score keep
the order of images and of the answer; as an option its tokens' log-probability is its score (see ``tokens``). Boxes
are in original pixels. A label that is not among the categories does not enter, as in
COCO.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_r1.errors import DataError
from perception_r1.stats import resample_counts
from perception_r1.text import normal_label
from perception_r1.types import BoxTarget, RewardRecord, Sample, Size

Scored = tuple[Sample, RewardRecord]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AP_INTERVAL_NOTE = (
    "intervals of AP: images resampled as weights on the precision-recall curve (200 resamples), the detections' "
    "order kept, centred on the value"
)


def ground_truth(scored: Sequence[Scored]) -> dict[str, Any]:
    """A COCO data set from samples: image ids 1..n in their order, areas of boxes, no crowds."""
    names: dict[str, int] = {}
    for sample, _ in scored:
        for name in (*sample.categories, *_target(sample).labels):
            names.setdefault(normal_label(name), len(names) + 1)
    annotations: list[dict[str, Any]] = []
    for image_id, (sample, _) in enumerate(scored, start=1):
        target = _target(sample)
        for box, label in zip(target.boxes_xyxy, target.labels, strict=True):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": names[normal_label(label)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": i, "width": (s.image_size or (0, 0))[0], "height": (s.image_size or (0, 0))[1], "file_name": s.id}
            for i, (s, _) in enumerate(scored, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in names.items()],
    }


def detections(
    scored: Sequence[Scored],
    image_ids: Sequence[int],
    category_ids: dict[str, int],
    *,
    box_scores: Mapping[str, Sequence[float]] | None = None,
    sizes: Mapping[int, Size] | None = None,
) -> list[dict[str, Any]]:
    """The usable boxes of the answers with a known label, as COCO results.

    Args:
        scored: samples with their records.
        image_ids: of their images, parallel.
        category_ids: by name, as `normal_label` spells it.
        box_scores: by sample id, one a predicted box; 1.0 where absent.
        sizes: (width, height) that the annotation file gives an image; boxes are scaled to it where it is not that of
            the image itself (PR1's file is about resized copies).
    """
    rows = []
    for image_id, (sample, record) in zip(image_ids, scored, strict=True):
        labels = record.pred_labels or (None,) * len(record.pred_xyxy)
        scores = (box_scores or {}).get(sample.id) or (1.0,) * len(record.pred_xyxy)
        own, said = sample.image_size, (sizes or {}).get(image_id)
        across, down = (said[0] / own[0], said[1] / own[1]) if own and said and own != said else (1.0, 1.0)
        for box, label, score in zip(record.pred_xyxy, labels, scores, strict=True):
            number = None if label is None else category_ids.get(normal_label(label))
            if box is not None and number is not None:
                x1, y1, x2, y2 = box[0] * across, box[1] * down, box[2] * across, box[3] * down
                rows.append(
                    {
                        "image_id": image_id,
                        "category_id": number,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": score,
                    }
                )
    return rows


def coco_figures(
    truth: dict[str, Any] | str | Path, results: list[dict[str, Any]], image_ids: Sequence[int] | None = None
) -> tuple[dict[str, float], Any]:
    """The twelve figures and the evaluator, over ``image_ids`` (default: every image of the file).

    A figure over no object at all (no small boxes, say) is −1, as COCO has it. Without results all are 0.
    """
    from hotcoco import COCO, COCOeval

    gt = COCO(truth if isinstance(truth, dict) else str(truth))
    # An empty result list has no columns to load; one that can match nothing stands for it.
    dt = gt.load_res(results or _nothing(gt))
    evaluator = COCOeval(gt, dt, "bbox")
    if image_ids is not None:
        evaluator.params.img_ids = sorted(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {name: float(value) for name, value in zip(NAMES, evaluator.stats, strict=True)}, evaluator


def coco_metrics(
    scored: Sequence[Scored],
    annotations: str | Path | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
    box_scores: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, dict[str, float]]:
    """COCO's figures of detection answers, ready for ``metrics.json``.

    Args:
        scored: samples with their records.
        annotations: the official annotation file (crowds and mask areas included); samples are found in it by the name
            of their image file. Without it the ground truth is the samples' own targets.
        resamples: for the intervals of AP, AP50 and AP75 (the other nine come without).
        seed: of the resampling.
        box_scores: as in ``detections``.

    Raises:
        DataError: a sample's image is not in the annotation file.
    """
    made = _evaluated(scored, annotations, box_scores)
    if made is None:
        return {}
    figures, evaluator, image_ids = made
    metrics: dict[str, dict[str, float]] = {name: {"value": value} for name, value in figures.items() if value >= 0}
    for name, values in _resampled(evaluator, image_ids, resamples, seed).items():
        if name in metrics:
            low, high = _centred(values, metrics[name]["value"])
            metrics[name] |= {"low": max(low, 0.0), "high": min(high, 1.0)}
    for entry in metrics.values():
        entry["n"] = len(image_ids)
    return metrics


def coco_differences(
    before: Sequence[Scored], after: Sequence[Scored], *, resamples: int = 200, seed: int = 0
) -> dict[str, dict[str, float]]:
    """AP, AP50 and AP75 of two models on the same samples: ``a``, ``b`` and ``value`` = b − a with its 95 % interval.

    Both see the same resamples of the images. Ground truth is the samples' own targets.
    """
    sides = [_evaluated(side, None, None) for side in (before, after)]
    if sides[0] is None or sides[1] is None:
        return {}
    samples = [_resampled(evaluator, ids, resamples, seed) for _, evaluator, ids in (sides[0], sides[1])]
    found = {}
    for name in samples[0]:
        a, b = sides[0][0][name], sides[1][0][name]
        low, high = _centred(samples[1][name] - samples[0][name], b - a)
        found[name] = {"value": b - a, "low": low, "high": high, "n": len(before), "a": a, "b": b}
    return found


def _centred(values: NDArray[np.float64], value: float) -> tuple[float, float]:
    """A 95 % interval around ``value`` as wide as that of the resamples.

    Precision is interpolated by its maximum to the right, so that the noise of a resample lifts its AP: by 0.01 with 80
    classes and 35,000 boxes, which left the value itself at the edge of the interval.
    """
    low, high = np.quantile(values, [0.025, 0.975]) + (value - values.mean())
    return min(float(low), value), max(float(high), value)


def _resampled(evaluator: Any, image_ids: Sequence[int], resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    # Whole numbers: how often each image is drawn; sums of them reach a recall point exactly where COCO's counts do.
    weights = np.concatenate(list(resample_counts(len(image_ids), resamples, seed)))
    return weighted_ap(evaluator, sorted(image_ids), weights)


def _evaluated(
    scored: Sequence[Scored], annotations: str | Path | None, box_scores: Mapping[str, Sequence[float]] | None
) -> tuple[dict[str, float], Any, list[int]] | None:
    """Figures, evaluator and image ids; None where there is nothing to find."""
    if not scored:
        return None
    truth: dict[str, Any]
    sizes: dict[int, Size] = {}
    if annotations is None:
        truth = ground_truth(scored)
        image_ids = list(range(1, len(scored) + 1))
    else:
        import json

        truth = json.loads(Path(annotations).read_text(encoding="utf-8"))
        by_name = {Path(image["file_name"]).name: image["id"] for image in truth["images"]}
        image_ids = []
        for sample, _ in scored:
            name = Path(sample.image or sample.id).name
            if name not in by_name:
                raise DataError(
                    f"image {name!r} of sample {sample.id!r} is not in it", path=annotations, field="images"
                )
            image_ids.append(by_name[name])
        sizes = {
            image["id"]: (image["width"], image["height"])
            for image in truth["images"]
            if {"width", "height"} <= image.keys()
        }
    if not truth["annotations"]:
        return None
    category_ids = {normal_label(category["name"]): category["id"] for category in truth["categories"]}
    results = detections(scored, image_ids, category_ids, box_scores=box_scores, sizes=sizes)
    figures, evaluator = coco_figures(truth, results, image_ids)
    return figures, evaluator, image_ids


def weighted_ap(
    evaluator: Any, image_ids: Sequence[int], weights_rn: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """AP, AP50 and AP75 under R weightings of the images (n, in the order of ``image_ids``); weight 1 gives COCO's.

    Follows COCO's accumulation: detections by score (stable), 101 recall points, the mean over classes that have
    targets under that weighting. Area "all", at most 100 detections an image and class.
    """
    column = {image_id: n for n, image_id in enumerate(image_ids)}
    whole = tuple(evaluator.params.area_rng[0])
    by_class: dict[int, list[dict[str, Any]]] = {}
    for entry in evaluator.eval_imgs:
        if entry is not None and tuple(entry["aRng"]) == whole:
            by_class.setdefault(entry["category_id"], []).append(entry)
    points = np.asarray(evaluator.params.rec_thrs)
    resamples = len(weights_rn)
    total, classes = np.zeros((10, resamples)), np.zeros(resamples)
    for entries in by_class.values():
        entries.sort(key=lambda entry: column[entry["image_id"]])
        targets = np.zeros(len(image_ids))
        for entry in entries:
            targets[column[entry["image_id"]]] += np.sum(~np.asarray(entry["gtIgnore"], dtype=bool))
        wanted_r = weights_rn @ targets
        has_r = wanted_r > 0
        classes += has_r
        where = np.concatenate([np.full(len(entry["dtScores"]), column[entry["image_id"]]) for entry in entries])
        if not has_r.any() or not len(where):
            continue
        order = np.argsort(-np.concatenate([entry["dtScores"] for entry in entries]), kind="stable")
        where = where.astype(int)[order]
        matched_td = np.concatenate([_by_threshold(entry["dtMatches"]) for entry in entries], axis=1)[:, order] > 0
        ignored_td = np.concatenate([_by_threshold(entry["dtIgnore"]) for entry in entries], axis=1)[:, order] > 0
        weight_rd = weights_rn[:, where]
        for t in range(10):
            tp_rd = np.cumsum(weight_rd * (matched_td[t] & ~ignored_td[t]), axis=1)
            fp_rd = np.cumsum(weight_rd * (~matched_td[t] & ~ignored_td[t]), axis=1)
            precision_rd = tp_rd / np.maximum(tp_rd + fp_rd, np.spacing(1))
            precision_rd = np.maximum.accumulate(precision_rd[:, ::-1], axis=1)[:, ::-1]
            for r in np.flatnonzero(has_r):
                index = np.searchsorted(tp_rd[r] / wanted_r[r], points, side="left")
                total[t, r] += precision_rd[r][index[index < len(where)]].sum() / len(points)
    mean_tr = np.divide(total, classes, out=np.zeros_like(total), where=classes > 0)
    return {"AP": mean_tr.mean(axis=0), "AP50": mean_tr[0], "AP75": mean_tr[5]}


def _by_threshold(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(10, -1) if array.size else np.zeros((10, 0))


def _nothing(gt: Any) -> list[dict[str, Any]]:
    image, category = min(gt.imgs), min(gt.cats)
    return [{"image_id": image, "category_id": category, "bbox": [-9.0, -9.0, 1.0, 1.0], "score": 0.0}]


def _target(sample: Sample) -> BoxTarget:
    return sample.target if isinstance(sample.target, BoxTarget) else BoxTarget(())
