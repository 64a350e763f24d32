"""How many answers a second one core scores, from the text to the record: parse, convert, match, reward, reason.

    python benchmarks/scoring.py

Each row is the best of several rounds over answers that all differ (no cache can help), in CPU time of this process, so
that other work on the machine does not count.
"""

from __future__ import annotations

import random
import time

from perception_r1.tasks import Task, make_task
from perception_r1.types import XYXY, BoxTarget, Completion, Sample

CATEGORIES = ("person", "car", "dog", "traffic light", "bus")
NEEDED = {"grounding": 20_000.0, "detection": 3_000.0}
"""Answers a second that the project promises on one core."""


def measure(rounds: int = 5) -> list[tuple[str, str, float, float]]:
    """(task, family, answers a second, needed) for grounding (1 box) and detection (20 boxes against 20)."""
    rows = []
    for name, n_boxes, n_answers in (("grounding", 1, 4000), ("detection", 20, 600)):
        for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"):
            task = make_task(name, family=family)
            rows.append((name, family, _rate(task, n_boxes, n_answers, rounds), NEEDED[name]))
    return rows


def _rate(task: Task, n_boxes: int, n_answers: int, rounds: int) -> float:
    draw = random.Random(0)
    pairs = []
    for index in range(n_answers):
        boxes = _boxes(draw, n_boxes)
        labels = tuple(draw.choice(CATEGORIES) for _ in boxes) if task.name == "detection" else ()
        # The answer is right but for an offset of some pixels, in another order: every box has to be matched.
        answered = [tuple(value + draw.uniform(-8, 8) for value in box) for box in boxes]
        order = list(range(n_boxes))
        draw.shuffle(order)
        sample = _sample(task, index, tuple(boxes), labels)
        said = _sample(
            task, index, tuple(answered[i] for i in order), tuple(labels[i] for i in order) if labels else ()
        )  # type: ignore[arg-type]
        pairs.append((sample, Completion(task.gold(said), "stop")))
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for sample, completion in pairs:
            task.score(sample, completion)
        best = min(best, time.process_time() - start)
    return n_answers / best


def _sample(task: Task, index: int, boxes: tuple[XYXY, ...], labels: tuple[str, ...]) -> Sample:
    return Sample(
        str(index),
        task.name,  # type: ignore[arg-type]
        "the dog on the left",
        BoxTarget(boxes, labels),
        image_size=(640, 480),
        categories=CATEGORIES if labels else (),
    )


def _boxes(draw: random.Random, count: int) -> list[XYXY]:
    corners = [(draw.uniform(10, 500), draw.uniform(10, 380)) for _ in range(count)]
    return [(x, y, x + draw.uniform(30, 120), y + draw.uniform(30, 80)) for x, y in corners]


def main() -> None:
    """Print the table."""
    print(f"{'task':<12}{'family':<12}{'answers/s':>12}{'needed':>10}")
    for task, family, rate, needed in measure():
        print(f"{task:<12}{family:<12}{rate:>12,.0f}{needed:>10,.0f}{'' if rate >= needed else '  too slow'}")


if __name__ == "__main__":
    main()
