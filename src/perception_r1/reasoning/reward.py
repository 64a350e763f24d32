"""The reward of a reasoned answer: accuracy, format, visual, repetition (the visual perception reward, VPR).

The preset ``robust``; Xiao et al.'s components as released are in `reasoning.released`. A judge's verdicts come in as
*evidence*, fetched before; without any the facts are looked for in the text by `reasoning.facts`.

Evidence: ``scores`` (one a fact, in order: 0..1, None where the judge gave no verdict), ``contradicted`` (one bool a
fact; optional), ``failure`` (why there are none: the answer is then *not scored*), ``judge`` (its name).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from perception_r1.answers.reader import content_end, split_thinking
from perception_r1.errors import DataError
from perception_r1.reasoning.equivalence import boxes, same_answer, unboxed
from perception_r1.reasoning.facts import unasked, verdict
from perception_r1.rewards.base import Context, NotScoredError
from perception_r1.text import loop_share, repetition_penalty
from perception_r1.types import AnswerTarget, Completion, Match, Parsed, Sample

_SPLITTING = re.compile(r"\\text\{\s*or\s*\}|\bor\b", re.IGNORECASE)
_MOST_PARTS = 8
EVERY_FACT = "every_fact"
"""Internal option of a preset: facts that the question gives away count, too."""


def parse_answer(completion: Completion) -> Parsed:
    """Read the boxed answer of a completion with ``<think>`` and ``<answer>`` blocks; never raises.

    ``answer`` is the content of the one ``\\boxed{…}`` in the answer block, or the whole block where nothing is boxed.
    Boxes with different contents, or a box in another, are no answer (issue ``several_boxes``). ``format_ok``: both
    blocks, nothing round them, exactly one box, not empty.
    """
    text = completion.text
    found = split_thinking(text, thinking=True)
    block = text[found.start : found.end]
    cut = completion.finish_reason == "length" or (completion.finish_reason is None and found.cut)
    inside = boxes(block)
    issues = found.issues
    answer = block
    if inside:
        answer = inside[0]
        if len(set(inside)) > 1 or boxes(answer):
            answer, issues = "", (*issues, "several_boxes")
    strict = found.strict and not cut and not issues and len(inside) == 1 and bool(answer)
    if cut:
        return Parsed("truncated", answer="" if found.issues else answer, issues=issues)
    if not answer or found.issues:
        return Parsed("malformed", issues=issues or ("answer_empty",))
    return Parsed("ok", answer=answer, format_ok=strict, issues=issues)


def match_facts(ctx: Context) -> Match:
    """Which visual facts the response states: ``phi`` is 1 or 0 for each fact that counts; there are no pairs.

    A fact counts as stated when the judge says so and the response does not also contradict it. Without verdicts
    (``failure``) ``phi`` is empty where the reward pays for facts.
    """
    counted = counted_facts(ctx.sample)
    if evidence_failure(ctx) and ctx.reward.components.get("visual"):
        return Match(n_target=len(counted))
    return Match(phi=tuple(map(float, _stated(ctx, counted))), n_target=len(counted))


def evidence_failure(ctx: Context) -> str | None:
    """Why a judge's verdicts cannot be used; None where they can, or where there is no judge."""
    target, evidence = ctx.sample.target, ctx.evidence
    assert isinstance(target, AnswerTarget)
    if evidence is None:
        return None
    if evidence.get("failure") is not None:
        return str(evidence["failure"])
    scores = evidence.get("scores")
    if not isinstance(scores, (list, tuple)) or len(scores) != len(target.visual_annotations):
        return "the judge's verdicts are not one a fact"
    return None


def _stated(ctx: Context, counted: Sequence[int]) -> list[bool]:
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    text = judged_text(ctx.completion)
    evidence = None if evidence_failure(ctx) else ctx.evidence
    said = [verdict(text, target.visual_annotations[index]) for index in counted]
    if evidence is None:
        return [each == "stated" for each in said]
    denied: Sequence[bool] = evidence.get("contradicted") or ()
    stated = []
    for index, each in zip(counted, said, strict=True):
        score = evidence["scores"][index]
        judged = score is not None and score >= 0.5
        stated.append(judged and each != "contradicted" and not (index < len(denied) and denied[index]))
    return stated


def counted_facts(sample: Sample, *, every: bool = False) -> tuple[int, ...]:
    """Indices of the facts that count: those not in the question and not stated before, or all where ``every``."""
    target = sample.target
    if not isinstance(target, AnswerTarget):
        return ()
    if every:
        return tuple(range(len(target.visual_annotations)))
    return unasked(sample.question, target.visual_annotations)


def judged_text(completion: Completion) -> str:
    """What of a completion is judged: the text without its end tokens."""
    return completion.text[: content_end(completion.text)]


def accuracy(ctx: Context) -> float:
    """1 for the right final answer, else 0.

    The answer is the boxed content of the answer block (the whole block where nothing is boxed), gold wrapped; "3 or 4"
    is right only where the gold answer has an "or" too, and the parts are the same in any order.
    """
    return float(is_right(ctx.parsed.status, ctx.parsed.answer, gold_answer(ctx)))


def gold_answer(ctx: Context) -> str:
    """The gold answer.

    Raises:
        DataError: it is empty.
    """
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    if not target.answer.strip():
        raise DataError(f"sample {ctx.sample.id!r}: its answer is empty")
    return target.answer


def answer_format(ctx: Context) -> float:
    """1 for ``<think>…</think><answer>…\\boxed{…}…</answer>`` and nothing else, else 0."""
    return float(ctx.parsed.format_ok)


def visual(ctx: Context) -> float | None:
    """Share of the visual facts that the response states, in [0, 1]; see `match_facts`.

    A missing verdict counts against the whole; facts that the question gives away do not count at all (none left: does
    not apply).

    Raises:
        NotScoredError: the judge gave no verdicts.
    """
    if not ctx.match.n_target:
        return None
    if failure := evidence_failure(ctx):
        raise NotScoredError(failure)
    return sum(ctx.match.phi) / ctx.match.n_target


def repetition(ctx: Context) -> float:
    """A penalty in [−2, 0]: ``−2·(1 − unique/total)`` over word 20-grams, or −2 times the share of the text in a loop.

    The larger of the two: loops catch text without spaces and repetitions of under 20 words.
    """
    text = judged_text(ctx.completion)
    return min(repetition_penalty(text), -2.0 * loop_share(text))


def is_right(status: str, answer: str, gold: str) -> bool:
    """Whether an answer, as `parse_answer` read it, is the gold answer; "3 or 4" names two, so gold must have both."""
    if status != "ok":
        return False
    if _SPLITTING.search(answer):
        return _same_parts(answer, unboxed(gold))
    return same_answer(answer, gold)


def _same_parts(given: str, gold: str) -> bool:
    """Whether two answers with an "or" have the same parts, each once, in any order."""
    parts, left = _SPLITTING.split(given), _SPLITTING.split(gold)
    if len(parts) != len(left) or not 2 <= len(left) <= _MOST_PARTS:
        return False
    for part in parts:
        found = next((index for index, other in enumerate(left) if same_answer(part, other)), None)
        if found is None:
            return False
        del left[found]
    return True


_ISSUES = {
    "several_boxes": "more than one boxed answer",
    "answer_empty": "the answer block is empty",
    "think_missing": "no <think> block",
    "think_duplicate": "more than one <think> block",
    "think_unclosed": "the <think> block never ends",
    "answer_missing": "no <answer> block",
    "answer_duplicate": "more than one <answer> block",
    "answer_unclosed": "the <answer> block never ends",
    "blocks_order": "<think> and <answer> blocks in the wrong order",
}


def answer_reason(parsed: Parsed, components: Mapping[str, float], n_found: int, n_facts: int | None) -> str:
    """Why a reasoned answer scored so; ``n_facts`` is None where the reward does not pay for facts."""
    if components.get("accuracy") == 1.0:
        text = "right answer"
    elif parsed.status == "truncated":
        text = "cut off at the token limit"
    elif parsed.status == "malformed":
        text = "no readable answer: " + ", ".join(_ISSUES.get(code, code) for code in parsed.issues)
    else:
        text = "wrong answer" if "accuracy" in components else "scored"
    if n_facts is not None:
        text += f"; {n_found} of {n_facts} visual facts stated"
    if components.get("repetition", 0.0) <= -0.2:
        text += "; repeats itself"
    return text
