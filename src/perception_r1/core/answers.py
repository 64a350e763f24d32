"""The reward of a reasoned answer: accuracy, format, visual, repetition (the visual perception reward, VPR).

``paper`` follows the released code of Xiao et al. (arXiv 2506.07218) to the letter, flaws included; ``robust`` closes
them. A judge's verdicts come in as *evidence*, fetched before; without any the facts are looked for by `core.facts`.

Evidence: ``scores`` (one a fact, in order: 0..1, None where the judge gave no verdict), ``contradicted`` (one bool a
fact; optional), ``failure`` (why there are none: the answer is then *not scored*), ``judge`` (its name).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perception_r1.core.blocks import content_end, split_thinking
from perception_r1.core.equivalence import boxes, same_answer, unboxed, verified
from perception_r1.core.facts import unasked, verdict
from perception_r1.core.text import loop_share, repetition_penalty
from perception_r1.types import AnswerTarget, Completion, Match, Parsed, RewardRecord, Sample

if TYPE_CHECKING:
    from perception_r1.core.components import Context
    from perception_r1.core.spec import RewardSpec

_SPLITTING = re.compile(r"\\text\{\s*or\s*\}|\bor\b", re.IGNORECASE)
_MOST_PARTS = 8


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


def score_answer(
    spec: RewardSpec, sample: Sample, completion: Completion, parsed: Parsed, evidence: Mapping[str, Any] | None
) -> RewardRecord:
    """Score a reasoned answer; pure.

    ``n_target`` is the number of visual facts that count and ``n_valid`` how many were found.
    """
    from perception_r1.core.components import Context
    from perception_r1.core.rewards import combine

    assert isinstance(sample.target, AnswerTarget)
    failure = None if evidence is None else evidence.get("failure")
    counted = counted_facts(sample, spec.preset)
    judged = bool(spec.components.get("visual")) and bool(counted)
    if counted and failure is None and evidence is not None:
        scores = evidence.get("scores")
        if not isinstance(scores, (list, tuple)) or len(scores) != len(sample.target.visual_annotations):
            failure = "the judge's verdicts are not one a fact"
    if judged and failure is not None:
        spec = replace(spec, components={name: w for name, w in spec.components.items() if name != "visual"})
    ctx = Context(
        sample, completion, parsed, Match(), (), (), 0, 0, spec.options, "json", True,
        evidence=None if failure else evidence, preset=spec.preset,
    )  # fmt: skip
    reward, components = combine(spec, ctx) if spec.components else (0.0, {})
    if judged and failure is not None:
        return RewardRecord(
            None, components, parsed.status, f"not scored: {failure}", n_target=len(counted), answer=parsed.answer
        )
    n_found = sum(found_facts(ctx)) if counted else 0  # also where the reward does not pay for them: it is a metric
    reason = _reason(parsed, components, n_found, len(counted) if judged else None)
    if reward is None:
        reason = "not scored: the reward function gave None"
    return RewardRecord(
        reward, components, parsed.status, reason, n_valid=n_found, n_target=len(counted), answer=parsed.answer
    )


def counted_facts(sample: Sample, preset: str = "robust") -> tuple[int, ...]:
    """Indices of the facts that count: all for ``paper``, else those not in the question and not said before."""
    target = sample.target
    if not isinstance(target, AnswerTarget):
        return ()
    if preset == "paper":
        return tuple(range(len(target.visual_annotations)))
    return unasked(sample.question, target.visual_annotations)


def judged_text(completion: Completion) -> str:
    """What of a completion is judged: the text without its end tokens."""
    return completion.text[: content_end(completion.text)]


def accuracy(ctx: Context) -> float:
    """1 for the right final answer, else 0.

    ``robust``: the boxed content of the answer block (the whole block where nothing is boxed), gold wrapped; "3 or 4"
    is right only where the gold answer has an "or" too, and the parts are the same in any order. ``paper``:
    as released: the block is only found on one line, else the whole response is searched for an answer, so a box inside
    ``<think>`` counts; the gold answer is parsed bare, so ``2\\sqrt{3}`` is read as 2.
    """
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    if ctx.preset == "paper":
        text = judged_text(ctx.completion)
        block = _released_block(text)
        return float(verified((text if block is None else block).strip(), target.answer.strip()))
    return float(is_right(ctx.parsed.status, ctx.parsed.answer, target.answer))


def is_right(status: str, answer: str, gold: str) -> bool:
    """Whether an answer, as `parse_answer` read it, is the gold answer; "3 or 4" names two, so gold must have both."""
    if status != "ok":
        return False
    if _SPLITTING.search(answer):
        return _same_parts(answer, unboxed(gold))
    return same_answer(answer, gold)


def _released_block(text: str) -> str | None:
    """What ``<answer>(.*?)</answer>`` finds first, in linear time."""
    for line in text.split("\n"):
        start = line.find("<answer>") + len("<answer>")
        if start >= len("<answer>") and (end := line.find("</answer>", start)) >= 0:
            return line[start:end]
    return None


def _released_form(text: str) -> bool:
    """Whether the text is as released: each tag on a line of its own, a box that is not empty; in linear time.

    The pattern of dots and stars that says the same took minutes for an answer full of boxes and blocks.
    """
    head, middle, tail = "<think>\n", "\n</think>\n<answer>\n", "\n</answer>"
    if not (text.startswith(head) and text.endswith(tail)):
        return False
    thought = text.find(middle, len(head))
    box = -1 if thought < 0 else text.find("\\boxed{", thought + len(middle))
    closed = -1 if box < 0 else text.find("}", box + len("\\boxed{") + 1)
    return 0 <= closed < len(text) - len(tail)


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


def answer_format(ctx: Context) -> float:
    """1 for ``<think>…</think><answer>…\\boxed{…}…</answer>`` and nothing else, else 0.

    ``paper`` also wants each tag on a line of its own, and does not mind further blocks inside.
    """
    if ctx.preset == "paper":
        return float(_released_form(judged_text(ctx.completion)))
    return float(ctx.parsed.format_ok)


def visual(ctx: Context) -> float | None:
    """Share of the visual facts that the response states, in [0, 1].

    ``robust``: a fact counts when the judge says so and the response does not also contradict it; a missing verdict
    counts against the whole; facts that the question gives away do not count at all (none left: does not apply).
    ``paper``: mean of the verdicts up to the first missing one, over their number + 1e-6, so truncated verdicts inflate
    it; 0 where a problem has no facts.
    """
    facts = counted_facts(ctx.sample, ctx.preset)
    if ctx.preset == "paper":
        scores = _paper_scores(ctx)
        return sum(scores) / (len(scores) + 1e-6) if scores else 0.0
    return sum(found_facts(ctx)) / len(facts) if facts else None


def found_facts(ctx: Context) -> list[bool]:
    """For each counted fact whether the response earns it."""
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    if ctx.preset == "paper":
        return [score >= 0.5 for score in _paper_scores(ctx)]
    text = judged_text(ctx.completion)
    scores: Sequence[float | None] = (ctx.evidence or {}).get("scores") or ()
    denied: Sequence[bool] = (ctx.evidence or {}).get("contradicted") or ()
    found = []
    for index in counted_facts(ctx.sample):
        said = verdict(text, target.visual_annotations[index])
        if ctx.evidence is None:
            found.append(said == "stated")
            continue
        score = scores[index]
        yes = score is not None and score >= 0.5
        found.append(yes and said != "contradicted" and not (index < len(denied) and denied[index]))
    return found


def _paper_scores(ctx: Context) -> list[float]:
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    if ctx.evidence is None:
        text = judged_text(ctx.completion)
        return [float(verdict(text, fact) != "absent") for fact in target.visual_annotations]
    scores: list[float] = []
    for score in ctx.evidence["scores"]:
        if score is None:
            break
        scores.append(min(1.0, max(0.0, float(score))))
    return scores


def repetition(ctx: Context) -> float:
    """A penalty in [−2, 0]: ``−2·(1 − unique/total)`` over word 20-grams; ``robust`` also sees loops.

    ``robust`` takes the larger of it and −2 times the share of the text that lies in a loop, which catches text without
    spaces and loops of under 20 words.
    """
    text = judged_text(ctx.completion)
    penalty = repetition_penalty(text)
    return penalty if ctx.preset == "paper" else min(penalty, -2.0 * loop_share(text))


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


def _reason(parsed: Parsed, components: Mapping[str, float], n_found: int, n_facts: int | None) -> str:
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
