"""Is there something to gain from reinforcement learning here, or from fine-tuning, or nothing?

A model answers each question G times. What the rewards of these groups look like says what GRPO could do with the
question: where answers differ there is a gradient; where all earn nothing there is none, and only right answers shown
(SFT) can start it; where all are right there is nothing to learn.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_r1.analysis.rollouts import Group, is_zero, zero_reason
from perception_r1.errors import UserError
from perception_r1.evaluate.metrics import quality
from perception_r1.stats import interval

SOLVED = 0.95
"""A question whose answers are this good on average, by the metric, has little left to teach."""

HOPELESS = 0.05
"""A question whose best answer is not better than this, by the metric, and by share of the best reward."""

ADVICE = ("rl", "sft", "drop")


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that at least one of k answers is right, unbiased, from ``right`` right ones of n.

    Source: M. Chen et al., "Evaluating large language models trained on code" (arXiv 2107.03374).

    Example:
        >>> pass_at_k(8, 2, 1), round(pass_at_k(8, 2, 4), 4)
        (0.25, 0.7857)
    """
    if not 0 < k <= n:
        raise ValueError(f"k must be in 1..{n}, not {k}")
    if n - right < k:
        return 1.0
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def group_verdict(group: Group, most: float = 1.0) -> str:
    """What a question is good for: ``rl``, ``sft`` or ``drop``.

    Args:
        group: its sampled answers.
        most: the best reward that the task can give.
    """
    metrics = [quality(group.sample, r.record) for r in group.rollouts if r.record.reward is not None]
    if not metrics:
        return "drop"
    if statistics.fmean(metrics) >= SOLVED and statistics.fmean(group.rewards) >= SOLVED * most:
        return "drop"
    if max(metrics) <= HOPELESS and max(group.rewards) <= HOPELESS * most:
        return "sft"
    return "sft" if group.is_flat else "rl"


def diagnose_groups(groups: Sequence[Group], *, most: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """What the groups say.

    Args:
        groups: one a question.
        most: the best reward that the task can give (that of a gold answer).
        seed: of the bootstrap over questions.

    Answers that were not scored are left out, and questions without any other.

    Returns:
        ``n``, ``group_size``; ``reward`` and ``metric`` (means), ``best_reward`` and ``best_metric`` (of the best
        answer of each group), ``headroom`` (best − mean reward: what picking the better of its own answers would give),
        ``spread`` (standard deviation in a group), ``pass@k`` for k = 1, 2, 4 … G (a right answer is one with metric
        ≥ 0.999), ``zero_spread``, ``all_zero`` and ``solved`` (shares of questions), each {value, low, high};
        ``verdicts`` (shares), ``reasons`` (why answers earned nothing).

    Raises:
        UserError: no answer was scored.
    """
    asked, groups = len(groups), [group for group in groups if group.rewards]
    if not groups:
        raise UserError(f"no answer to any of the {asked} questions was scored: there is nothing to diagnose")
    rewards = [group.rewards for group in groups]
    metrics = [[quality(g.sample, r.record) for r in g.rollouts if r.record.reward is not None] for g in groups]
    size = min(map(len, metrics))
    verdicts = Counter(group_verdict(group, most) for group in groups)

    def shown(values: Sequence[float]) -> dict[str, float]:
        value, low, high = interval(np.asarray(values, float), seed=seed)
        return {"value": value, "low": low, "high": high}

    passed = {
        f"pass@{k}": shown([pass_at_k(len(row), sum(value >= 0.999 for value in row), k) for row in metrics])
        for k in _powers(size)
    }
    reasons = Counter(zero_reason(r.record) for g in groups for r in g.rollouts if is_zero(r.record))
    return {
        "n": len(groups),
        "group_size": size,
        "reward": shown([statistics.fmean(row) for row in rewards]),
        "best_reward": shown([max(row) for row in rewards]),
        "headroom": shown([max(row) - statistics.fmean(row) for row in rewards]),
        "metric": shown([statistics.fmean(row) for row in metrics]),
        "best_metric": shown([max(row) for row in metrics]),
        "spread": shown([group.spread for group in groups]),
        **passed,
        "zero_spread": shown([float(group.is_flat) for group in groups]),
        "all_zero": shown([float(group.is_zero) for group in groups]),
        "solved": shown([float(statistics.fmean(row) >= SOLVED) for row in metrics]),
        "verdicts": {name: verdicts[name] / len(groups) for name in ADVICE},
        "reasons": dict(reasons.most_common(8)),
    }


def _powers(most: int) -> list[int]:
    """1, 2, 4 … and ``most``."""
    return sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most})


def advise(
    perplexity: dict[str, Any], groups: dict[str, Any] | None = None, gold: dict[str, Any] | None = None
) -> dict[str, Any]:
    """RL, SFT or drop, with the reasons in sentences.

    Args:
        perplexity: of `perplexity.perceptual_perplexity`.
        groups: of `diagnose_groups`; without them only the data speak and the advice is None.
        gold: ``{perplexity, n}``: the model's own perplexity of the right answers, by token.

    Returns:
        ``{advice: "rl" | "sft" | "drop" | None, reasons: [...]}``.
    """
    reasons = []
    advice = None
    if groups is not None:
        rl, sft, drop = (groups["verdicts"][name] for name in ADVICE)
        size = groups["group_size"]
        if drop >= 0.8:
            advice = "drop"
            reasons.append(f"{_percent(drop)} of the questions are answered right already: little is left to teach.")
        elif rl >= 0.3:
            advice = "rl"
            reasons.append(
                f"In {_percent(rl)} of the questions some answers earn more than others, so GRPO has a gradient; the "
                f"best of {size} answers earns {groups['headroom']['value']:.3f} more than the mean."
            )
            if drop > 0.2:
                reasons.append(f"{_percent(drop)} are solved already and only cost time: leave them out.")
            if sft > 0.2:
                reasons.append(f"{_percent(sft)} teach nothing yet (all answers alike): a short SFT on them may help.")
        elif sft >= drop:
            advice = "sft"
            reasons.append(
                f"In {_percent(sft)} of the questions all {size} answers earn the same or nothing, so GRPO has no "
                "gradient: show right answers first (pr1 sft, or warm_start: sft), then diagnose again."
            )
        else:
            advice = "drop"
            reasons.append(
                f"{_percent(drop)} of the questions are solved and {_percent(sft)} out of reach: choose other data."
            )
        wrong = groups["reasons"]
        unread = sum(n for reason, n in wrong.items() if reason.startswith(("unreadable", "cut off", "no usable")))
        if unread > 0.2 * groups["n"] * size:
            share = unread / (groups["n"] * size)
            reasons.append(
                f"{_percent(share)} of the answers cannot be used: see to the prompt, or SFT on the form first."
            )
    if gold is not None and gold["perplexity"] > 10:
        reasons.append(
            f"Its perplexity of the right answers is {gold['perplexity']:.1f} a token: it hardly ever writes such an "
            "answer by itself."
        )
    if perplexity.get("n"):
        if perplexity["mean_log"] < 0.1:
            reasons.append(
                "There is one target a question (perceptual perplexity 1): RL gains little over SFT there in the paper."
            )
        else:
            reasons.append(
                f"The targets can be matched in many ways (median log n! = {perplexity['median_log']:.2f}): where this "
                "is high, the paper gains most from RL, and from matching in the reward."
            )
    return {"advice": advice, "reasons": reasons}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
