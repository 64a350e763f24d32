"""Rewards for ms-swift: classes as its ``--external_plugins`` register them, for ``--reward_funcs perception_r1``.

``pr1 export swift`` writes the plugin file; by hand it is:

    from swift.rewards import AsyncORM, ORM, orms
    from perception_r1.integrations.swift import reward_class
    orms["perception_r1"] = reward_class(ORM, "/path/task.json")

The data set has a column ``row``: the packed row. ms-swift takes None for an answer that was not scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from perception_r1.integrations.scoring import Scorer, Settings, text_of


def reward_class(base: type, settings: Settings) -> type:
    """A reward of ms-swift.

    Args:
        base: its ``ORM``, or ``AsyncORM`` for one that lets the others run meanwhile.
        settings: of the task.
    """
    scorer = Scorer(settings)

    def arguments(completions: Sequence[Any], columns: dict[str, Any]) -> tuple[list[str], Any, list[Any]]:
        reasons = columns.get("finish_reason") or [None] * len(completions)
        known = [reason if reason in ("stop", "length") else None for reason in reasons]
        return [text_of(each) for each in completions], columns["row"], known

    class PerceptionR1(base):  # type: ignore[misc, valid-type]
        """``task.score`` over a batch."""

        def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
            return [record.reward for record in scorer.records(*arguments(completions, columns))]

    class AsyncPerceptionR1(base):  # type: ignore[misc, valid-type]
        """The same, awaited: a judge is asked while other rewards go on."""

        async def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
            records = await asyncio.to_thread(scorer.records, *arguments(completions, columns))
            return [record.reward for record in records]

    return AsyncPerceptionR1 if base.__name__.startswith("Async") else PerceptionR1
