"""Every right answer, written as the model would write it, read back and scored.

What the rounding of the model's coordinates leaves is known beforehand, so a gold answer that scores less means that
something between the row and the reward is wrong: a label that breaks the answer's form, sizes that do not belong to
the image, a frame that cannot express the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from perception_r1.boxes import nearness, units
from perception_r1.check.findings import Finding, several
from perception_r1.families import Family
from perception_r1.rewards.objects import point_tolerances
from perception_r1.tasks import Task, reward_spec, task_class
from perception_r1.types import BoxTarget, PointTarget, RewardRecord, Sample

SLACK = 1e-9
SHOWN = 5
"""Findings of one kind that are named one by one."""


@dataclass(frozen=True, slots=True)
class GoldReport:
    """Rewards of the gold answers.

    ``mean``, ``least`` and ``least_id`` are of the robust reward; ``own_mean`` of the task's own reward where that is
    another one. None without rows.
    """

    n: int
    mean: float | None
    least: float | None
    least_id: str | None
    own_mean: float | None
    findings: tuple[Finding, ...]


def least_reward(sample: Sample, family: Family, *, thin: list[int] | None = None) -> float:
    """The robust reward that a gold answer keeps after rounding to the family's frame, in [0, 1].

    A box of w × h keeps an IoU of at least b = (1 − u_x/w)(1 − u_y/h), u being one unit of the frame in original-image
    pixels; below the reward's floor nothing is left of it. A point moves by at most one unit a side.

    Args:
        sample: with a known image size.
        family: whose frame it is.
        thin: indices of boxes below the floor are appended to it.
    """
    target = sample.target
    options = reward_spec(sample.task).options if sample.task != "ocr" else {}
    if isinstance(target, BoxTarget) and target.boxes_xyxy:
        unit_x, unit_y = units(family.frame_of(sample))
        phi = []
        for index, (x1, y1, x2, y2) in enumerate(target.boxes_xyxy):
            width, height = x2 - x1, y2 - y1
            left = max(0.0, 1 - unit_x / width) * max(0.0, 1 - unit_y / height) if width > 0 and height > 0 else 0.0
            if left < options["floor"]:
                left = 0.0
                if thin is not None:
                    thin.append(index)
            phi.append(left)
        places = math.fsum(phi) / len(phi)
    elif isinstance(target, PointTarget) and target.points_xy:
        assert sample.image_size is not None
        tolerances = point_tolerances(target.points_xy, math.hypot(*sample.image_size), options["point_cap"])
        moved = math.hypot(*units(family.frame_of(sample)))
        places = math.fsum(nearness(moved, tolerance) for tolerance in tolerances) / len(tolerances)
    else:
        return 1.0
    return task_class(sample.task).least_reward(places)


def check_gold(task: Task, samples: Iterable[Sample], advance: Callable[[], object] = lambda: None) -> GoldReport:
    """Render, parse, convert and score the gold answer of every sample.

    Args:
        task: with the recipe's own reward.
        samples: prepared (image size and model size known).
        advance: called after each sample.
    """
    robust = replace(task, reward=reward_spec(task.name))
    own = task.reward != robust.reward
    rewards: list[float] = []
    own_rewards: list[float] = []
    least: tuple[float, str | None] = (math.inf, None)
    low: list[Finding] = []
    unrewarded: list[Finding] = []
    thin_boxes: list[tuple[str, str]] = []
    for sample in samples:
        answer = task.gold(sample)
        record = robust.score(sample, answer)
        thin: list[int] = []
        bound = least_reward(sample, task.family, thin=thin)
        reward = record.reward if record.reward is not None else -math.inf
        if reward < bound - SLACK:
            low.append(Finding("gold", _low(record, bound, answer), sample=sample.id))
        if thin:
            thin_boxes.append((sample.id, _thin(sample, thin[0])))
        rewards.append(reward)
        least = min(least, (reward, sample.id), key=lambda item: item[0])
        if own:
            mine = task.score(sample, answer)
            own_rewards.append(mine.reward if mine.reward is not None else 0.0)
            if (mine.reward is None or mine.reward <= 0) and bound > 0:
                what = "does not score" if mine.reward is None else f"gives {mine.reward:.3g} to"
                why = f" ({mine.reason})" if mine.reason else ""
                unrewarded.append(
                    Finding(
                        "gold",
                        f"the recipe's reward {what} the right answer{why}: {_short(answer)}",
                        "warning",
                        sample.id,
                    )
                )
        advance()
    findings = [*_some(low), *_some(unrewarded)]
    if thin_boxes:
        first_id, example = thin_boxes[0]
        findings.append(
            Finding(
                "gold",
                f"{several(len(thin_boxes), 'row')} with a box too thin for the model's coordinates, so no answer "
                f"earns it: {example} (leave it out, or raise image.max_pixels if the frame is the resized image)",
                "warning",
                first_id,
            )
        )
    if not rewards:
        return GoldReport(0, None, None, None, None, tuple(findings))
    mean = math.fsum(rewards) / len(rewards)
    own_mean = math.fsum(own_rewards) / len(own_rewards) if own else None
    return GoldReport(len(rewards), mean, least[0], least[1], own_mean, tuple(findings))


def _low(record: RewardRecord, bound: float, answer: str) -> str:
    scored = "is not scored" if record.reward is None else f"scores {record.reward:.4f}"
    why = f" ({record.reason})" if record.reason else ""
    return f"the right answer {scored}, rounding leaves at least {bound:.4f}{why}: {_short(answer)}"


def _thin(sample: Sample, index: int) -> str:
    assert isinstance(sample.target, BoxTarget)
    x1, y1, x2, y2 = sample.target.boxes_xyxy[index]
    return f"boxes[{index}] is {x2 - x1:.3g} × {y2 - y1:.3g} pixels"


def _some(findings: list[Finding]) -> list[Finding]:
    """The first few by name and the rest as a number."""
    if len(findings) <= SHOWN:
        return findings
    rest = findings[SHOWN]
    more = Finding("gold", f"and {several(len(findings) - SHOWN, 'row')} more like these", rest.severity, rest.sample)
    return [*findings[:SHOWN], more]


def _short(text: str, length: int = 120) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
