"""Rewards of transcriptions: edit similarity, the format term, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Mapping

from perception_r1.rewards.base import Context, Option
from perception_r1.rewards.objects import issues_text
from perception_r1.text import edit_similarity
from perception_r1.types import TextTarget

WHITESPACE = Option(lambda value: isinstance(value, bool), "whether white space is normalised")


def edit(ctx: Context) -> float:
    """1 − Levenshtein distance / longer length, by character, of the answer and the text; 1 when both are empty.

    ``whitespace`` (an option, on for ``robust``) compares with runs of white space as one space and none at the ends.
    An answer that was cut off is compared as far as it goes.
    """
    target = ctx.sample.target
    if not isinstance(target, TextTarget) or ctx.parsed.status == "malformed":
        return 0.0
    answer, text = ctx.parsed.answer, target.text
    if ctx.reward.options.get("whitespace"):
        answer, text = " ".join(answer.split()), " ".join(text.split())
    return edit_similarity(answer, text)


def text_format(ctx: Context) -> float:
    """OCR's format term, 0 or 1: there is text to compare (in its block when thinking)."""
    return float(ctx.parsed.status in ("ok", "truncated"))


def text_reason(ctx: Context, components: Mapping[str, float]) -> str:
    """Why a transcription scored so."""
    parsed = ctx.parsed
    if parsed.status == "malformed":
        return f"unreadable: {issues_text(parsed.issues) or 'no text'}"
    if not parsed.answer:
        return "no text" + ("; cut off at the token limit" if parsed.status == "truncated" else "")
    text = f"{components['edit']:.0%} of the text is right" if "edit" in components else "scored"
    return text + "; cut off at the token limit" if parsed.status == "truncated" else text
