"""From a completion's text to objects: one reader for every family, which only declares its coordinate frame.

``parse_objects`` reads boxes and points, ``parse_text`` plain text (OCR). Both never raise, never execute anything and
never invent a box; time is linear in the length of the text, whatever it holds. An entry that cannot be used keeps its
place with an ``issue`` (the codes are listed in ``answers.entries``) and still counts as a prediction.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perception_r1.answers.formats import FORMS, MAX_CHARS, strict_form
from perception_r1.answers.scanner import Scanner
from perception_r1.types import FinishReason, Parsed

END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<eos>", "<|end_of_text|>", "<|end|>", "<|eom_id|>"),
    *("<end_of_turn>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>", "<｜end▁of▁sentence｜>"),
)
"""Tokens of the chat templates that may trail an answer whose special tokens were kept."""
_EMPTY = re.compile(
    r"\[\s*+\]|\{\s*+\}|\[\s*+\{\s*+\}\s*+\]|\[\s*+\[\s*+\]\s*+\]"
    r"|\{\s*+[\"'](?:objects|boxes|bboxes|detections|instances|results|points)[\"']\s*+:\s*+\[\s*+\]\s*+\}"
    r"|[\"']?(?:none|null|nothing|n/a|no (?:such )?(?:objects?|box(?:es)?|match(?:es)?)(?: (?:found|detected))?"
    r"|not found|there (?:is|are) (?:none|no such objects?|nothing)(?: in (?:the|this) image)?)[.!]?[\"']?",
    re.IGNORECASE,
)
_EMPTY_FENCE = re.compile(r"```(?:json)?\s*+(?:\[\s*+\]|\{\s*+\}|none|null)\s*+```", re.IGNORECASE)
_FOREIGN = re.compile(r"<loc[0-9]{4}>|<points? ")
_TEXT_FENCE = re.compile(r"```[A-Za-z]{0,12}[ \t]*+\r?\n(.*)\n[ \t]*+```\Z", re.DOTALL)
_OPEN_TEXT_FENCE = re.compile(r"```[A-Za-z]{0,12}[ \t]*+\r?\n")
_MAX_EMPTY = 80
_HARMLESS = frozenset({"inverted", "degenerate"})
"""Issues of the numbers' values, which leave the form intact."""


def parse_objects(text: str, *, finish_reason: FinishReason | None = None, thinking: bool = False) -> Parsed:
    """Read the boxes and points of a completion, in the model's own frame, in order of position.

    Args:
        text: the completion, with or without its special tokens.
        finish_reason: ``length`` when it was cut at the token limit. When it is not known (None) an answer that visibly
            breaks off is taken for cut.
        thinking: whether ``<think>`` and ``<answer>`` blocks were asked for.

    Returns:
        ``ok`` with at least one entry, usable or not; ``empty`` for an explicit "nothing there" (``[]``, ``None``, a
        Qwen phrase without boxes); ``malformed`` when nothing can be read; ``truncated`` when cut (entries before the
        cut are kept). ``format_ok`` is strict: see ``strict_form``. Numbers in prose are never entries.

    Example:
        >>> parse_objects("<|box_start|>(10,20),(30,40)<|box_end|><|im_end|>").objects[0].box_xyxy
        (10.0, 20.0, 30.0, 40.0)
    """
    answer = split_thinking(text, thinking=thinking)
    length = finish_reason == "length"
    start, end = answer.start, answer.end
    if answer.issues and start == end:
        return Parsed("truncated" if length else "malformed", issues=answer.issues)
    body = text[start:end]
    cut = length or (finish_reason is None and answer.cut)
    if len(body) <= _MAX_EMPTY and (_EMPTY.fullmatch(body) or _EMPTY_FENCE.fullmatch(body)):
        strict = answer.strict and not cut and strict_form(body) is not None
        return Parsed("truncated" if cut else "empty", (), body, strict)
    for form in FORMS.values() if end - start <= MAX_CHARS else ():
        if (written := form.read(text, start, end)) is not None:
            issues = answer.issues + tuple(dict.fromkeys(entry.issue for entry in written if entry.issue))
            return Parsed("truncated" if cut else "ok", written, body, answer.strict and not cut, issues)
    scan = Scanner(text, start, end, cut=cut).run()
    objects = tuple(entry.freeze() for entry in scan.entries)
    codes = dict.fromkeys(entry.issue for entry in objects if entry.issue)
    issues = answer.issues + tuple(codes)
    if scan.excess is not None:
        issues += (scan.excess,)
    strict = answer.strict and not cut and scan.excess is None and codes.keys() <= _HARMLESS
    if objects:
        if scan.open and finish_reason is None:
            cut = True
        strict = strict and not scan.open and not cut and strict_form(body) is not None
        return Parsed("truncated" if cut else "ok", objects, body, strict, issues)
    if cut:
        return Parsed("truncated", (), body, False, issues)
    if scan.refs and strict_form(body) == "qwen_ref_box":  # a phrase without boxes
        return Parsed("empty", (), body, strict, issues)
    if _EMPTY_FENCE.search(body):
        return Parsed("empty", (), body, False, issues)
    if _FOREIGN.search(body):
        issues += ("foreign",)
    return Parsed("malformed", (), body, False, issues)


def parse_text(text: str, *, finish_reason: FinishReason | None = None, thinking: bool = False) -> Parsed:
    """Read a transcription (OCR): ``answer`` is the text without end tokens, blocks, outer fence and outer blanks.

    A blank answer is ``empty``; with ``thinking`` and without its blocks, ``malformed``; a cut one keeps its text.

    Example:
        >>> parse_text("Hello  world<|im_end|>").answer
        'Hello  world'
    """
    answer = split_thinking(text, thinking=thinking)
    cut = finish_reason == "length" or (finish_reason is None and answer.cut)
    body = text[answer.start : answer.end]
    if fence := _TEXT_FENCE.match(body):
        body = fence[1].strip()
    elif cut and (opened := _OPEN_TEXT_FENCE.match(body)):
        body = body[opened.end() :]
    if cut:
        return Parsed("truncated", (), body, False, answer.issues)
    if answer.issues and not body:
        return Parsed("malformed", issues=answer.issues)
    return Parsed("ok" if body else "empty", (), body, bool(body) and answer.strict, answer.issues)


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
