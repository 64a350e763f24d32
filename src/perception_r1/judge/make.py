"""A judge from a recipe's ``reward.judge`` table, or from the options of a command."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from perception_r1.errors import RecipeError
from perception_r1.judge.base import Judge
from perception_r1.judge.chat import ChatJudge
from perception_r1.judge.lexical import LexicalJudge


def make_judge(table: Mapping[str, Any] | None) -> Judge:
    """The judge that a table describes; None is the lexical one.

    Args:
        table: ``kind`` (lexical or openai) and, for openai, the arguments of `ChatJudge`; ``api_key_env`` names the
            environment variable that holds the key.

    Raises:
        RecipeError: something is missing or out of place.
    """
    options = {key: value for key, value in (table or {}).items() if value is not None}
    kind = options.pop("kind", "lexical")
    if kind == "lexical":
        return LexicalJudge()
    if kind != "openai":
        raise RecipeError(f"field 'reward.judge.kind': {kind!r} is unknown (known: lexical, openai)")
    for name in ("base_url", "model"):
        if not options.get(name):
            raise RecipeError(f"field 'reward.judge.{name}': missing (a judge of kind openai needs it)")
    if "extra_body" in options and not isinstance(options["extra_body"], Mapping):
        raise RecipeError("field 'reward.judge.extra_body': expected a table")
    variable = options.pop("api_key_env", None)
    if variable is not None and variable not in os.environ:
        raise RecipeError(f"field 'reward.judge.api_key_env': the environment has no variable {variable!r}")
    return ChatJudge(api_key=os.environ[variable] if variable else None, **options)


def open_judge(table: Mapping[str, Any] | None) -> Judge:
    """The judge that a table describes, after it has answered a first question.

    Raises:
        UserError: it cannot be asked: better now than after hours of training.
    """
    judge = make_judge(table)
    if isinstance(judge, ChatJudge):

        async def ask() -> None:
            try:
                await judge.check()
            finally:
                await judge.server.close()  # connections belong to the event loop that opened them

        asyncio.run(ask())
        for note in judge.notes:
            logging.getLogger(__name__).warning("judge %s: %s", judge.base_url, note)
    return judge
