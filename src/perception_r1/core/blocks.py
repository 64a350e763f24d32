"""Where the answer lies in a completion: end tokens, ``<think>`` and ``<answer>`` blocks."""

from __future__ import annotations

from typing import NamedTuple

END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<eos>", "<|end_of_text|>", "<|end|>", "<|eom_id|>"),
    *("<end_of_turn>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>", "<｜end▁of▁sentence｜>"),
)
"""Tokens of the chat templates that may trail an answer whose special tokens were kept."""


class Answer(NamedTuple):
    """Where the answer lies in the text, ``text[start:end]``, blank ends and end tokens left out.

    ``issues`` says why there is none (or what is wrong with the blocks); ``strict`` that nothing surrounds the blocks.
    """

    start: int
    end: int
    issues: tuple[str, ...] = ()
    strict: bool = True
    cut: bool = False


def content_end(text: str, start: int = 0, end: int | None = None) -> int:
    """The index where ``text[start:end]`` ends once trailing end tokens, padding and blanks are dropped."""
    stop = len(text) if end is None else end
    while stop > start:
        last = text[stop - 1]
        if last == ">":
            for token in END_TOKENS:
                if text.endswith(token, start, stop):
                    stop -= len(token)
                    break
            else:
                return stop
        elif last.isspace():
            stop -= 1
        else:
            return stop
    return start


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    end = content_end(text, start, end)
    while start < end and text[start].isspace():
        start += 1
    return start, end


def split_thinking(text: str, *, thinking: bool = True) -> Answer:
    """Find the answer in a completion.

    With ``thinking`` the completion must be exactly one ``<think>…</think>`` followed by exactly one
    ``<answer>…</answer>``; otherwise ``issues`` has the reason (``think_missing``, ``think_duplicate``,
    ``think_unclosed``, ``answer_missing``, ``answer_duplicate``, ``answer_unclosed``, ``blocks_order``) and the extent
    is empty, except that of an answer block in which the text ends (``cut``). Without, a ``<think>…</think>`` in front
    (whose opening tag may have been part of the prompt) is skipped, as are ``<answer>`` tags round the rest.
    """
    end = content_end(text)
    if not thinking:
        return _skip_thinking(text, end)
    counts = {tag: text.count(tag, 0, end) for tag in ("<think>", "</think>", "<answer>", "</answer>")}
    nothing = (end, end)
    if max(counts["<think>"], counts["</think>"]) > 1:
        return Answer(*nothing, ("think_duplicate",), False)
    if max(counts["<answer>"], counts["</answer>"]) > 1:
        return Answer(*nothing, ("answer_duplicate",), False)
    if not counts["<think>"]:
        return Answer(*nothing, ("think_missing",), False)
    if not counts["</think>"]:
        return Answer(*nothing, ("think_unclosed",), False, True)
    if not counts["<answer>"]:
        return Answer(*nothing, ("answer_missing",), False, True)
    think, thought = text.index("<think>"), text.index("</think>")
    opened = text.index("<answer>")
    closed = text.index("</answer>") if counts["</answer>"] else end
    if not think < thought < opened < closed + (not counts["</answer>"]):
        return Answer(*nothing, ("blocks_order",), False)
    extent = _trim(text, opened + len("<answer>"), closed)
    if not counts["</answer>"]:
        return Answer(*extent, ("answer_unclosed",), False, True)
    outside = text[:think] + text[thought + len("</think>") : opened] + text[closed + len("</answer>") : end]
    return Answer(*extent, (), not outside.strip())


def _skip_thinking(text: str, end: int) -> Answer:
    start, end = _trim(text, 0, end)
    strict = True
    thought = text.find("</think>", start, end)
    opens = text.startswith("<think>", start, end)
    if thought >= 0 and (opens or text.find("<think>", start, thought) < 0):
        start, end = _trim(text, thought + len("</think>"), end)
        strict = False
    elif opens:
        return Answer(end, end, ("think_unclosed",), False, True)
    if text.startswith("<answer>", start, end) and text.endswith("</answer>", start, end):
        start, end = _trim(text, start + len("<answer>"), end - len("</answer>"))
        strict = False
    return Answer(start, end, (), strict)
