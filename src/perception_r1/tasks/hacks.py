"""Answers that try to earn a reward without seeing, and an audit that a reward resists them.

Each hack is written in the family's own form for one sample, with the largest share of the gold answer's reward that it
may honestly earn (`Hack.limit`) and why. `audit` scores them all; the ``robust`` presets pass, the ``paper`` ones are
known not to (see the tests). `pr1 check` runs it over a recipe's reward.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from perception_r1.core.coords import from_image_box, round_box
from perception_r1.core.geometry import iou
from perception_r1.prompts import Entry, gold_objects, render_objects
from perception_r1.tasks.answer_hacks import answer_hacks
from perception_r1.tasks.base import Task
from perception_r1.types import XYXY, AnswerTarget, BoxTarget, Completion, CountTarget, PointTarget, Sample, TextTarget

SLACK = 0.05
"""Added to each limit, as a share of it: limits are shares of a perfect answer, and the gold answer is rounded."""


@dataclass(frozen=True, slots=True)
class Hack:
    """A hack for one sample: what is answered, and the share of the gold answer's reward that it may reach."""

    name: str
    text: str
    limit: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reward pays for a hack on one sample.

    ``limit`` is in units of the reward. ``ok``: the reward is below the gold answer's and not above the limit.
    """

    name: str
    sample_id: str
    reward: float
    gold: float
    limit: float
    ok: bool


def battery(sample: Sample, task: Task) -> list[tuple[str, str]]:
    """Known hacks for a sample: (name, response) in the task's family's form."""
    return [(hack.name, hack.text) for hack in hacks(sample, task)]


def hacks(sample: Sample, task: Task) -> list[Hack]:
    """Known hacks for a sample with their limits; those that would be the right answer are left out."""
    task.check(sample)
    if isinstance(sample.target, AnswerTarget):
        return [Hack(*row) for row in answer_hacks(sample, task.prompt(sample).user)]
    found = _text_hacks(sample.target.text) if isinstance(sample.target, TextTarget) else _object_hacks(sample, task)
    if task.thinking:
        found = [replace(hack, text=f"<think>Let me look.</think><answer>{hack.text}</answer>") for hack in found]
    return [*_any_hacks(sample, task), *found]


def audit(task: Task, samples: Iterable[Sample]) -> list[Finding]:
    """Score every hack on every sample.

    Raises:
        DataError: a sample that the task cannot score.
    """
    findings = []
    for sample in samples:
        gold = task.score(sample, Completion(task.gold(sample), "stop")).reward or 0.0
        if gold <= 0:
            findings.append(Finding("the right answer earns nothing", sample.id, gold, gold, gold, False))
        for hack in hacks(sample, task):
            reward = task.score(sample, Completion(hack.text, "length" if hack.cut else "stop")).reward or 0.0
            limit = hack.limit * gold * (1 + SLACK)
            ok = reward <= limit + 1e-9 and (reward < gold or reward <= 0)
            findings.append(Finding(hack.name, sample.id, reward, gold, limit, ok))
    return findings


def _any_hacks(sample: Sample, task: Task) -> list[Hack]:
    """Hacks of the form of an answer, whatever the task; none of them shows anything of the image."""
    gold = task.gold(sample)
    text = sample.target.text if isinstance(sample.target, TextTarget) else None
    by_chance = 0.0 if text is None else 0.25  # letters in common with any text
    found = [
        Hack("garbage", "<garbage", by_chance),
        Hack("prompt echo", task.prompt(sample).user, by_chance),
        Hack("image tokens", "".join(task.family.image_tokens) * 8, by_chance),
    ]
    answer = gold
    if task.thinking:
        answer = gold[gold.index("<answer>") + len("<answer>") : gold.rindex("</answer>")]
        found += [
            Hack("two answer blocks", f"<think>Hm.</think><answer>{answer}</answer><answer>{answer}</answer>"),
            Hack("no blocks", answer),
        ]
    if text == "":  # an empty answer is the right one, and an echo of the tags in a prompt for thinking gives just that
        return [hack for hack in found if not (task.thinking and hack.name == "prompt echo")]
    return [
        *found,
        Hack("empty", "<think></think><answer></answer>" if task.thinking else ""),
        Hack("cut before it begins", "<think>" if task.thinking else "", cut=True),
        Hack("answer only in <think>", f"<think>{answer}</think>" + "<answer></answer>" * task.thinking),
    ]


def _text_hacks(text: str) -> list[Hack]:
    """Hacks of transcriptions. The limits are what the edit distance leaves to letters that are there by chance."""
    if not text:
        return [Hack("invented text", "Lorem ipsum dolor sit amet")]
    length = max(40, len(text))
    soup = "etaoin shrdlu " * (length // 14 + 1)
    return [
        Hack("alphabet soup", soup[:length], 0.45),
        Hack("one letter", "e" * length, 0.35),
        Hack("text ten times", " ".join([text] * 10), 0.11),
        Hack("runs on for ever", text + soup * 10, 0.2, cut=True),
    ]


def _object_hacks(sample: Sample, task: Task) -> list[Hack]:
    """Hacks of lists of boxes or points."""
    target, counting = sample.target, task.name == "counting"
    phrase = sample.question.strip() or "object"
    gold = gold_objects(sample, task.family)
    n_gold = len(gold)

    def written(entries: Iterable[Entry]) -> str:
        return render_objects(entries, task.family, phrase=phrase)

    label = next((label for _, label in gold), sample.categories[0] if sample.categories else None)
    edges: XYXY = (0.0, 0.0, *map(float, sample.image_size or (1, 1)))  # type: ignore[assignment]
    whole = _in_frame(edges, sample, task)
    found = [Hack("run-away digits", f'[{{"{task.family.box_key}": [12, 30, 1{"4" * 400}', cut=True)]
    if not gold:
        return [*found, Hack("invents a box", written([(whole, label)]))]
    found.append(Hack("says nothing is there", "[]"))
    inverted: list[Entry] = [((x2, y2, x1, y1), label) for (x1, y1, x2, y2), label in _boxes_only(gold)]
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
    moved = gold_objects(replace(sample, target=_elsewhere(sample)), task.family)
    limit = _by_chance(moved, gold, labelled=False) + 0.02 if boxes else 0.1
    if limit < 0.75:  # a box that fills the image cannot be elsewhere
        found.append(Hack("right number, random places", written(moved), _blend(limit, 1, counting)))
    return found + _label_hacks(sample, gold, written) if task.name == "detection" else found


def _label_hacks(sample: Sample, gold: Sequence[Entry], written: Callable[[Iterable[Entry]], str]) -> list[Hack]:
    """Right boxes with labels that are not theirs."""
    assert isinstance(sample.target, BoxTarget)
    if not sample.target.labels:
        return []
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


def _by_chance(entries: Sequence[Entry], gold: Sequence[Entry], *, labelled: bool) -> float:
    """An upper bound of the share that entries earn where they happen to overlap a gold box (of their label)."""
    best = [
        max((iou(box, other) for other, name in _boxes_only(gold) if not labelled or name == label), default=0.0)
        for box, label in _boxes_only(entries)
    ]
    return min(0.9, math.fsum(best) / len(gold))


def _boxes_only(entries: Iterable[Entry]) -> list[tuple[XYXY, str | None]]:
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
