"""Rewards for VLM-R1's trainer: functions over (completions, solution, **columns), as its registry holds them.

In ``grpo_jsonl.py`` the registry becomes ``reward_funcs_registry = reward_registry("/path/task.json")`` and the run
asks for ``--reward_funcs accuracy``; the data are made by ``pr1 export vlm-r1`` (the solution is a packed row). The
trainer takes no None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perception_r1.integrations.scoring import Scorer, Settings, text_of

RewardFunction = Callable[..., list[float]]


def reward_registry(settings: Settings, unscored: float = 0.0) -> dict[str, RewardFunction]:
    """VLM-R1's registry with our reward as ``accuracy`` (format is part of it, where the preset asks for it).

    Args:
        settings: of the task.
        unscored: what stands for *not scored*; counted and logged.
    """
    scorer = Scorer(settings, unscored)

    def accuracy(completions: Sequence[Any], solution: Sequence[str], **columns: Any) -> list[float]:
        records = scorer.records([text_of(each) for each in completions], [packed_row(row) for row in solution])
        return [scorer.reward(record) for record in records]

    return {"accuracy": accuracy}


def packed_row(solution: str) -> str:
    """The packed row inside a solution, which VLM-R1's loader wraps in ``<answer>`` tags."""
    return solution.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
