"""What questions look like in other projects' records: conversations, image placeholders, prompt templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from perception_r1.data import fields
from perception_r1.data.fields import Where, shown
from perception_r1.tasks import task_class

_PLACEHOLDER = re.compile(r"<image>|<\|vision_start\|>.*?<\|vision_end\|>|<img>.*?</img>", re.DOTALL)
_THINKING = re.compile(r"\s*(?:first |please )*output the thinking process in <think>.*$", re.DOTALL | re.IGNORECASE)
_ASKS = {"human", "user"}
_ANSWERS = {"gpt", "assistant"}


def question_and_answer(record: Mapping[str, Any], where: Where) -> tuple[str, str]:
    """The first question and its answer in ``conversations`` (from / value) or ``messages`` (role / content)."""
    name = "conversations" if record.get("conversations") is not None else "messages"
    turns = record.get(name)
    if turns is None:
        raise where.error("is missing (expected a list of turns, human then gpt)", "conversations")
    if not fields.is_list(turns) or not all(isinstance(turn, Mapping) for turn in turns):
        raise where.error(f"{shown(turns)} is not a list of turns", name)
    said = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in turns]
    for (speaker, question), (answerer, answer) in pairwise(said):
        if speaker in _ASKS and answerer in _ANSWERS:
            if not isinstance(question, str) or not isinstance(answer, str):
                raise where.error(f"{shown(turns)} has a turn that is not text", name)
            return without_placeholder(question), answer
    raise where.error(f"{shown(turns)} has no human turn with a gpt turn after it", name)


def without_placeholder(question: str) -> str:
    """The question without image placeholders, which our prompts put where the model wants them."""
    return _PLACEHOLDER.sub("", question).strip()


def bare_question(question: str, task: str) -> str:
    """What is asked for, without the prompt around it: our prompts are rendered for each model family.

    Detection leaves the categories, page OCR nothing.

    Example:
        >>> bare_question("<image>Output the bounding box of the brown dog in the image.", "grounding")
        'brown dog'
    """
    question = _THINKING.sub("", without_placeholder(question)).strip()
    for template in task_class(task).known_prompts:
        found = re.fullmatch(template + r"\s*\.?", question, re.DOTALL | re.IGNORECASE)
        if found:
            return found.group(1).strip().removesuffix(".")
    return question
