"""The reward of a verl run: its reward manager calls ``compute_score`` once an answer.

verl decodes answers without special tokens, takes no None, and stacks what is returned, so every answer gets the same
keys. ``pr1 export verl`` writes a ``reward.py`` that names the settings; without one, verl's configuration can:

    reward.custom_reward_function.path=pkg://perception_r1.integrations.verl
    +reward.custom_reward_function.reward_kwargs.settings=/path/task.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perception_r1.integrations.scoring import Settings, judge_of, scorer_of
from perception_r1.tasks import Task


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    settings: str,
    unscored: float = 0.0,
    **_: Any,
) -> dict[str, float]:
    """The score of one answer and its components.

    Args:
        data_source: verl's name of the data; not used.
        solution_str: the answer.
        ground_truth: the packed row of the question.
        extra_info: verl's; not used.
        settings: of the task: a path or JSON.
        unscored: what stands for *not scored*; counted and logged.
    """
    scorer = scorer_of(settings, unscored)
    record = scorer.record(solution_str, ground_truth)
    return {"score": scorer.reward(record), **scorer.numbers(record)}


async def compute_judged_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    *,
    settings: str,
    unscored: float = 0.0,
    **_: Any,
) -> dict[str, float]:
    """The same with a judge, whose verdicts verl awaits while other answers go on."""
    scorer = scorer_of(settings, unscored)
    (record,) = await scorer.judged([solution_str], [ground_truth])
    return {"score": scorer.reward(record), **scorer.numbers(record)}


def load(settings: Settings, unscored: float = 0.0) -> Callable[..., Any]:
    """``compute_score``, or ``compute_judged_score``, with its settings filled in, for a ``reward.py``."""
    if isinstance(settings, (Task, Mapping)):
        raise TypeError("verl's workers read settings themselves: give a path, or JSON text")
    score = compute_score if judge_of(settings) is None else compute_judged_score
    return partial(score, settings=str(settings), unscored=unscored)


def reward_key() -> str:
    """Where the installed verl looks for a reward function; the key moved when the reward got a table of its own."""
    found = find_spec("verl")
    config = Path(next(iter(found.submodule_search_locations or ()), "")) / "trainer" / "config" if found else None
    moved = config is None or (config / "reward").is_dir()
    return "reward.custom_reward_function" if moved else "custom_reward_function"


if __name__ == "__main__":  # for the launch script of an export
    print(reward_key())
