"""A short sentence for each score, so that a person sees at once why an answer earned what it did."""

from __future__ import annotations

from collections.abc import Mapping

from perception_r1.core.components import Context
from perception_r1.types import CountTarget, PointTarget

_ISSUES = {
    "inverted": "inverted corners",
    "degenerate": "no area",
    "numbers": "wrong number of coordinates",
    "non_numeric": "something that is not a number",
    "runaway": "run-away digits",
    "unclosed": "an unclosed bracket",
    "missing": "no coordinates",
    "yxyx": "y before x (box_2d)",
    "truncated": "cut off",
    "think_missing": "no <think> block",
    "think_duplicate": "more than one <think> block",
    "think_unclosed": "the <think> block never ends",
    "answer_missing": "no <answer> block",
    "answer_duplicate": "more than one <answer> block",
    "answer_unclosed": "the <answer> block never ends",
    "blocks_order": "<think> and <answer> blocks in the wrong order",
    "foreign": "another model family's coordinates",
}


def objects_reason(ctx: Context) -> str:
    """Why an answer of boxes or points scored so."""
    parsed = ctx.parsed
    n_target, n_pairs = ctx.n_target, len(ctx.match.pairs)
    if parsed.status == "malformed":
        return f"unreadable: {_issues(parsed.issues) or 'no box, point or explicit empty answer'}"
    if parsed.status == "empty":
        return "rightly says that nothing is there" if n_target == 0 else f"says that nothing is there; {n_target} are"
    if not parsed.objects:
        return f"cut off before any box{': ' + _issues(parsed.issues) if parsed.issues else ''}"
    target = ctx.sample.target
    if n_target == 0:
        text = f"nothing to find, but {_number(len(parsed.objects), 'entry', 'entries')} given"
    elif isinstance(target, CountTarget):
        text = f"lists {len(parsed.objects)}; {n_target} are there"
    elif n_pairs == n_target == len(parsed.objects) == 1 and ctx.match.ious[0] > 0:
        text = f"found with IoU {ctx.match.ious[0]:.2f}"
    else:
        kind = "point" if isinstance(target, PointTarget) else "box"
        text = f"{n_pairs} of {_number(n_target, kind, kind + 's' if kind == 'point' else 'boxes')} matched"
        extra = len(parsed.objects) - n_pairs
        if n_target > n_pairs:
            text += f"; {_number(n_target - n_pairs, 'target', 'targets')} missed"
        if extra:
            text += f"; {_number(extra, 'entry', 'entries')} without a target"
    if parsed.issues:
        for index, entry in enumerate(parsed.objects):
            if entry.issue is not None:
                text += f"; entry {index + 1}: {_ISSUES.get(entry.issue, entry.issue)}"
                break
    return text + "; cut off at the token limit" if parsed.status == "truncated" else text


def text_reason(ctx: Context, components: Mapping[str, float]) -> str:
    """Why a transcription scored so."""
    parsed = ctx.parsed
    if parsed.status == "malformed":
        return f"unreadable: {_issues(parsed.issues) or 'no text'}"
    if not parsed.answer:
        return "no text" + ("; cut off at the token limit" if parsed.status == "truncated" else "")
    text = f"{components['edit']:.0%} of the text is right" if "edit" in components else "scored"
    return text + "; cut off at the token limit" if parsed.status == "truncated" else text


def _issues(codes: tuple[str, ...]) -> str:
    return ", ".join(_ISSUES.get(code, code) for code in codes)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
