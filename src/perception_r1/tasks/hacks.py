"""Answers that try to earn a reward without seeing, and an audit that a reward resists them.

Each hack is written in the family's own form for one sample, with the largest share of the gold answer's reward that it
may honestly earn (`Hack.limit`) and why. `audit` scores them all; the ``robust`` presets pass, PR1's released ones are
known not to (see the tests). `pr1 check` runs it over a recipe's reward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from perception_r1.tasks.base import Hack, Task
from perception_r1.types import Completion, Sample, TextTarget

SLACK = 0.05
"""Added to each limit, as a share of it: limits are shares of a perfect answer, and the gold answer is rounded."""


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
    rows = task.hacks(sample)
    if task.has_own_blocks:
        return rows
    if task.thinking:
        rows = [replace(hack, text=f"<think>Let me look.</think><answer>{hack.text}</answer>") for hack in rows]
    return [*_any_hacks(sample, task), *rows]


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
