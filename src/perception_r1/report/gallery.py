"""The gallery: which samples are shown, fairly chosen, and what is drawn on each."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from typing import Any

from perception_r1.data.images import open_image
from perception_r1.errors import DataError
from perception_r1.evaluate.metrics import quality
from perception_r1.evaluate.results import Result
from perception_r1.report.runs import Evaluation
from perception_r1.tasks import task_class
from perception_r1.types import BoxTarget, PointTarget, Sample, Target, TextTarget

OUTCOMES = {
    "improved": "Improved",
    "worsened": "Worsened",
    "right": "Right before and after",
    "same": "Not right, unchanged",
}
ALONE = {"right": "Right", "partly": "Partly right", "wrong": "Wrong"}
_SIDE = 480


def outcome(before: float, after: float | None) -> str:
    """The group a sample belongs to, from the quality (0 to 1) of the first and the last model's answer."""
    if after is None:
        return "right" if before > 1 - 1e-9 else "wrong" if before <= 1e-9 else "partly"
    if abs(after - before) > 1e-9:
        return "improved" if after > before else "worsened"
    return "right" if after > 1 - 1e-9 else "same"


def choose(groups: dict[str, list[str]], n: int, seed: int) -> list[str]:
    """``n`` ids, the groups as even as they can be, drawn at random in each; in a shuffled order."""
    rng = random.Random(seed)
    pools = {name: rng.sample(ids, len(ids)) for name, ids in groups.items()}
    chosen: list[str] = []
    while len(chosen) < n and any(pools.values()):
        for pool in pools.values():
            if pool and len(chosen) < n:
                chosen.append(pool.pop())
    rng.shuffle(chosen)
    return chosen


def build_gallery(evaluations: Sequence[Evaluation], *, n: int = 24, seed: int = 0) -> dict[str, Any]:
    """Cards of up to ``n`` samples with every model's answer, ready for the template.

    A picture that cannot be opened any more leaves its place grey; the boxes are still drawn.
    """
    tables = [{result.sample.id: result for result in evaluation.results} for evaluation in evaluations]
    common = [key for key in tables[0] if all(key in table for table in tables)] if tables else []
    titles = OUTCOMES if len(tables) > 1 else ALONE
    groups: dict[str, list[str]] = {name: [] for name in titles}
    for key in common:
        first, last = tables[0][key], tables[-1][key]
        after = quality(last.sample, last.record) if len(tables) > 1 else None
        groups[outcome(quality(first.sample, first.record), after)].append(key)
    cards: list[dict[str, Any]] = []
    for index, key in enumerate(choose(groups, n, seed)):
        sample = tables[0][key].sample
        task = task_class(sample.task)
        name = next(name for name, ids in groups.items() if key in ids)
        size, picture = _picture(sample)
        cards.append(
            {
                "id": sample.id,
                "ref": f"img{index}",
                "outcome": name,
                "outcome_title": titles[name],
                "asked": task.asked(sample),
                "target": task.describe(sample),
                "width": size[0],
                "height": size[1],
                "picture": picture,
                "truth": _shapes(sample.target),
                "is_page": _is_page(sample.target),
                "panels": [
                    {"title": evaluation.title, "number": number, **_panel(table[key])}
                    for number, (evaluation, table) in enumerate(zip(evaluations, tables, strict=True))
                ],
            }
        )
    return {
        "cards": cards,
        "has_shapes": any(shapes["boxes"] or shapes["points"] for card in cards for shapes in _all_shapes(card)),
        # Photographs need room; scenes of a few digits do not.
        "wide": len(tables) > 3
        or (len(tables) > 1 and any(max(card["width"], card["height"]) > 256 for card in cards)),
        "total": len(common),
        "seed": seed,
        "groups": [
            {
                "name": name,
                "title": title,
                "all": len(groups[name]),
                "shown": sum(card["outcome"] == name for card in cards),
            }
            for name, title in titles.items()
        ],
    }


def drawn_boxes(result: Result) -> list[dict[str, Any]]:
    """The usable predicted boxes with ``hit``: whether the metric counts it (see `Task.hits`).

    Against points, a box is a hit when the reward paired it; where only the number is known, always.
    """
    sample, record = result.sample, result.record
    labels = record.pred_labels or (None,) * len(record.pred_xyxy)
    pairs = task_class(sample.task).hits(sample, record) if isinstance(sample.target, BoxTarget) else record.pairs
    right = {p for p, _ in pairs}
    placeless = not isinstance(sample.target, (BoxTarget, PointTarget))
    return [
        {"box": box, "label": label or "", "hit": placeless or index in right}
        for index, (box, label) in enumerate(zip(record.pred_xyxy, labels, strict=True))
        if box is not None
    ]


def _panel(result: Result) -> dict[str, Any]:
    sample, completion, record = result[:3]
    score = quality(sample, record)
    return {
        "boxes": drawn_boxes(result),
        "points": [point for point in record.pred_points if point is not None],
        "labelled": task_class(sample.task).labelled,
        "response": completion.text.encode("utf-8", "replace").decode("utf-8"),
        "cut": completion.finish_reason == "length",
        "reward": None if record.reward is None else f"{record.reward:.3f}",
        "status": record.status,
        "reason": record.reason,
        "said": task_class(sample.task).outcome(sample, record),
        "grade": "right" if score > 1 - 1e-9 else "wrong" if score <= 1e-9 else "partly",
    }


def _is_page(target: Target) -> bool:
    """Whether the target is more text than a heading takes."""
    return isinstance(target, TextTarget) and (len(target.text) > 80 or "\n" in target.text)


def _all_shapes(card: dict[str, Any]) -> list[dict[str, Any]]:
    """What is drawn on a card: the ground truth, and what each model said."""
    return [card["truth"], *card["panels"]]


def _shapes(target: Target) -> dict[str, Any]:
    if isinstance(target, BoxTarget):
        labels = target.labels or ("",) * len(target.boxes_xyxy)
        return {
            "boxes": [{"box": b, "label": name} for b, name in zip(target.boxes_xyxy, labels, strict=True)],
            "points": [],
        }
    return {"boxes": [], "points": list(target.points_xy) if isinstance(target, PointTarget) else []}


def _picture(sample: Sample) -> tuple[tuple[int, int], str]:
    """Size in original pixels, and the image as a data address (small enough for a page), or nothing."""
    size = sample.image_size or (1, 1)
    if sample.image is None:
        return size, ""
    try:
        img = open_image(sample.image)
    except DataError:
        return size, ""
    size = sample.image_size or img.size
    buffer = io.BytesIO()
    if max(img.size) <= 128:
        img.save(buffer, format="PNG", optimize=True)
        kind = "png"
    else:
        img.thumbnail((_SIDE, _SIDE))
        img.save(buffer, format="JPEG", quality=82, optimize=True)
        kind = "jpeg"
    return size, f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
