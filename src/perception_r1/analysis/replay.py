"""Saved rollouts under another reward: would the policy have been pushed the same way?

GRPO only ever sees how a reward orders the answers of one group, so two rewards are compared there: rank agreement
(Kendall's τ-b), groups without a spread, and answers whose advantage changes its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_r1.analysis.rollouts import SAME, Group, group_of
from perception_r1.evaluate.metrics import quality
from perception_r1.progress import progress
from perception_r1.stats import interval
from perception_r1.tasks import Task

_PUSHED = 1e-6
"""An advantage nearer to 0 than this pushes nowhere."""


def rescore(groups: Sequence[Group], task: Task, *, show_progress: bool = False) -> list[Group]:
    """The same answers scored by ``task``, with their new advantages."""
    done = []
    with progress("scoring", len(groups), unit="groups", enabled=show_progress) as advance:
        for group in groups:
            answers = [(r.completion, task.score(group.sample, r.completion)) for r in group.rollouts]
            done.append(group_of(group.step, group.sample, answers))
            advance()
    return done


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's τ-b of two rankings of the same things, −1 to 1; None where either has no order at all.

    Values nearer than ``SAME`` are ties. Source: M. G. Kendall, "The treatment of ties in ranking problems" (1945).

    Example:
        >>> kendall([1, 2, 3], [1, 3, 2])
        0.3333333333333333
    """
    signs = []
    for values in (a, b):
        difference = np.subtract.outer(np.asarray(values, float), np.asarray(values, float))
        upper = difference[np.triu_indices(len(values), 1)]
        signs.append(np.where(np.abs(upper) <= SAME, 0.0, np.sign(upper)))
    ordered = float(np.sqrt(np.abs(signs[0]).sum() * np.abs(signs[1]).sum()))
    return None if ordered == 0 else float((signs[0] * signs[1]).sum() / ordered)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``compare_rewards`` found; see ``to_dict`` for the meaning of each figure."""

    figures: dict[str, Any]
    flipped: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return {**self.figures, "most_flipped": self.flipped}


def compare_rewards(before: Sequence[Group], after: Sequence[Group], *, seed: int = 0, examples: int = 5) -> Comparison:
    """Compare two scorings of the same answers, group by group.

    Args:
        before: as they were scored.
        after: the same groups, in the same order, under the other reward.
        seed: of the bootstrap (over groups, whose answers are not independent of each other).
        examples: how many of the groups with the most sign flips to name.

    Returns:
        ``figures``: n_groups, n_rollouts; ``mean_reward``, ``zero_spread`` and ``all_zero`` (shares of groups) and
        ``not_scored`` (answers), each {before, after}; ``rank_agreement`` (mean τ-b in groups that both order) and
        ``same_best`` (share of those groups whose best answers have one in common), ``sign_flips`` (share of the
        answers that either reward pushes which the other pushes the opposite way), ``signal_lost`` and
        ``signal_gained`` (pushed by one reward only), each {value, low, high, n}; ``metric_agreement`` (mean τ-b of
        reward and metric), {before, after}.
    """
    taus, best = [], []
    flips, lost, gained = [], [], []  # (how many, of how many) by group
    with_metric: tuple[list[float], list[float]] = ([], [])
    examples_found: list[tuple[int, dict[str, Any]]] = []
    for old, new in zip(before, after, strict=True):
        pairs = [
            (a.record.reward, b.record.reward, a.advantage or 0.0, b.advantage or 0.0)
            for a, b in zip(old.rollouts, new.rollouts, strict=True)
            if a.record.reward is not None and b.record.reward is not None
        ]
        was, now = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        tau = kendall(was, now)
        if tau is not None:
            taus.append(tau)
            best.append(float(bool(_best(was) & _best(now))))
        pushed = [(_sign(x), _sign(y)) for _, _, x, y in pairs]
        n_flips = sum(x * y < 0 for x, y in pushed)
        flips.append((n_flips, sum(bool(x or y) for x, y in pushed)))
        lost.append((sum(not y for x, y in pushed if x), sum(bool(x) for x, _ in pushed)))
        gained.append((sum(not x for x, y in pushed if y), sum(bool(y) for _, y in pushed)))
        if n_flips:
            examples_found.append(
                (n_flips, {"step": old.step, "id": old.sample.id, "flips": n_flips, "of": len(pairs)})
            )
        for side, group in enumerate((old, new)):
            scored = [r.record for r in group.rollouts if r.record.reward is not None]
            metric = [quality(group.sample, record) for record in scored]
            agreement = kendall([record.reward or 0.0 for record in scored], metric)
            if agreement is not None:
                with_metric[side].append(agreement)
    examples_found.sort(key=lambda found: -found[0])
    figures = {
        "n_groups": len(before),
        "n_rollouts": sum(len(group.rollouts) for group in before),
        "mean_reward": _both(before, after, lambda groups: _mean([x for g in groups for x in g.rewards])),
        "zero_spread": _both(before, after, lambda groups: _mean([float(g.is_flat) for g in groups])),
        "all_zero": _both(before, after, lambda groups: _mean([float(g.is_zero) for g in groups])),
        "not_scored": _both(before, after, lambda groups: sum(len(g.rollouts) - len(g.rewards) for g in groups)),
        "rank_agreement": _estimate(taus, seed),
        "same_best": _estimate(best, seed),
        "sign_flips": _share(flips, seed),
        "signal_lost": _share(lost, seed),
        "signal_gained": _share(gained, seed),
        "metric_agreement": {"before": _mean(with_metric[0]), "after": _mean(with_metric[1])},
    }
    return Comparison(figures, [found for _, found in examples_found[:examples]])


def _best(values: Sequence[float]) -> set[int]:
    top = max(values)
    return {index for index, value in enumerate(values) if top - value <= SAME}


def _sign(advantage: float) -> int:
    return 0 if abs(advantage) <= _PUSHED else 1 if advantage > 0 else -1


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _both(before: Sequence[Group], after: Sequence[Group], figure: Any) -> dict[str, Any]:
    return {"before": figure(before), "after": figure(after)}


def _estimate(values: Sequence[float], seed: int) -> dict[str, Any]:
    if not len(values):
        return {"value": None, "n": 0}
    value, low, high = interval(np.asarray(values), seed=seed)
    return {"value": value, "low": low, "high": high, "n": len(values)}


def _share(counts: Sequence[tuple[int, int]], seed: int) -> dict[str, Any]:
    """A share of answers from (how many, of how many) of each group; whole groups are resampled. n: answers."""
    told = np.asarray([pair for pair in counts if pair[1]], dtype=float)
    if not len(told):
        return {"value": None, "n": 0}
    value, low, high = interval(told, lambda means: means[..., 0] / means[..., 1], seed=seed)
    return {"value": value, "low": low, "high": high, "n": int(told[:, 1].sum())}
