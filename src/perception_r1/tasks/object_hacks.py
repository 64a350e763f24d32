"""Lists of boxes or points that try to earn without looking."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perception_r1.answers.formats import WrittenEntry
from perception_r1.boxes import from_image_box, iou, round_box
from perception_r1.tasks.base import Hack, Task
from perception_r1.tasks.gold import gold_entries
from perception_r1.types import XYXY, BoxTarget, CountTarget, PointTarget, Sample


def object_hacks(sample: Sample, task: Task, *, counting: bool = False) -> list[Hack]:
    """Hacks of lists of boxes or points."""
    target = sample.target
    phrase = sample.question.strip() or "object"
    gold = gold_entries(sample, task.family)
    n_gold = len(gold)

    def written(entries: Iterable[WrittenEntry]) -> str:
        return task.family.write(entries, phrase)

    label = next((label for _, label in gold), sample.categories[0] if sample.categories else None)
    edges: XYXY = (0.0, 0.0, *map(float, sample.image_size or (1, 1)))  # type: ignore[assignment]
    whole = _in_frame(edges, sample, task)
    found = [Hack("run-away digits", f'[{{"{task.family.box_key}": [12, 30, 1{"4" * 400}', cut=True)]
    if not gold:
        return [*found, Hack("invents a box", written([(whole, label)]))]
    found.append(Hack("says nothing is there", "[]"))
    inverted: list[WrittenEntry] = [((x2, y2, x1, y1), label) for (x1, y1, x2, y2), label in _boxes_only(gold)]
    if inverted:
        found.append(Hack("inverted corners", written(inverted)))
    if isinstance(target, CountTarget):  # only the number is known, so places are no hack
        return found
    found.append(Hack("every entry ten times", written(gold * 10), _blend(0.2, 1, counting)))
    most = 2 * n_gold / (100 + n_gold)  # each target found once
    number = min(n_gold, 100) / max(n_gold, 100)
    grid = [(box, label) for box in _grid(sample, task, 10)]
    found.append(Hack("grid of boxes", written(grid), _blend(most, number, counting)))
    boxes = target.boxes_xyxy if isinstance(target, BoxTarget) else ()
    best = max((iou(edges, box) for box in boxes), default=1.0)
    if n_gold > 1 or (boxes and best < 0.9):
        limit = _blend(2 * (best + 0.02) / (1 + n_gold), 1 / n_gold, counting)
        found.append(Hack("one box round the image", written([(whole, label)]), limit))
    moved = gold_entries(replace(sample, target=_elsewhere(sample)), task.family)
    limit = _by_chance(moved, gold, labelled=False) + 0.02 if boxes else 0.1
    if limit < 0.75:  # a box that fills the image cannot be elsewhere
        found.append(Hack("right number, random places", written(moved), _blend(limit, 1, counting)))
    return found


def label_hacks(sample: Sample, task: Task) -> list[Hack]:
    """Right boxes with labels that are not theirs."""
    assert isinstance(sample.target, BoxTarget)
    if not sample.target.labels:
        return []
    gold = gold_entries(sample, task.family)

    def written(entries: Iterable[WrittenEntry]) -> str:
        return task.family.write(entries, sample.question.strip() or "object")

    classes = list(dict.fromkeys((*sample.categories, *sample.target.labels)))
    found = [
        Hack("labels that do not exist", written([(place, "something") for place, _ in gold])),
        Hack("labels in a sentence", written([(place, " or ".join(classes) + "?") for place, _ in gold])),
    ]
    if len(classes) > 1:
        after = {name: classes[(index + 1) % len(classes)] for index, name in enumerate(classes)}
        share = 2 / (len(classes) + 1)  # n right ones among n · classes entries, and n targets
        wrong = [(place, after[label or ""]) for place, label in gold]
        found += [
            # Boxes of two classes that overlap may honestly find each other.
            Hack("labels all wrong", written(wrong), _by_chance(wrong, gold, labelled=True)),
            Hack("every class for each box", written([(place, name) for place, _ in gold for name in classes]), share),
        ]
    return found


def _by_chance(entries: Sequence[WrittenEntry], gold: Sequence[WrittenEntry], *, labelled: bool) -> float:
    """An upper bound of the share that entries earn where they happen to overlap a gold box (of their label)."""
    best = [
        max((iou(box, other) for other, name in _boxes_only(gold) if not labelled or name == label), default=0.0)
        for box, label in _boxes_only(entries)
    ]
    return min(0.9, math.fsum(best) / len(gold))


def _boxes_only(entries: Iterable[WrittenEntry]) -> list[tuple[XYXY, str | None]]:
    return [(place, label) for place, label in entries if len(place) == 4]


def _blend(places: float, number: float, counting: bool) -> float:
    """Limit of a hack whose places earn ``places`` and whose number earns ``number``."""
    return 0.5 * places + 0.5 * number if counting else places


def _in_frame(box: XYXY, sample: Sample, task: Task) -> XYXY:
    frame = task.family.frame_of(sample)
    return round_box(from_image_box(box, frame), frame)


def _grid(sample: Sample, task: Task, side: int) -> list[XYXY]:
    width, height = sample.image_size or (1, 1)
    steps = [(column, row) for row in range(side) for column in range(side)]
    return [
        _in_frame((width * x / side, height * y / side, width * (x + 1) / side, height * (y + 1) / side), sample, task)
        for x, y in steps
    ]


def _elsewhere(sample: Sample) -> BoxTarget | PointTarget:
    """Each target in another place: of twenty seeded draws the one farthest from all targets."""
    width, height = sample.image_size or (1, 1)
    draw = random.Random(f"elsewhere {sample.id}")
    if isinstance(sample.target, PointTarget):
        points = sample.target.points_xy
        drawn = [[(draw.uniform(0, width), draw.uniform(0, height)) for _ in range(20)] for _ in points]
        return PointTarget(
            tuple(max(row, key=lambda xy: min(math.dist(xy, other) for other in points)) for row in drawn)
        )
    assert isinstance(sample.target, BoxTarget)
    boxes = sample.target.boxes_xyxy
    found = []
    for x1, y1, x2, y2 in boxes:
        wide, high = min(x2 - x1, width), min(y2 - y1, height)
        places = [(draw.uniform(0, width - wide), draw.uniform(0, height - high)) for _ in range(20)]
        moved = [(x, y, x + wide, y + high) for x, y in places]
        found.append(min(moved, key=lambda box: max(iou(box, other) for other in boxes)))
    return BoxTarget(tuple(found), sample.target.labels)
