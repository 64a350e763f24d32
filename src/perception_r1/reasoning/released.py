"""The visual perception reward as Xiao et al. (arXiv 2506.07218) released it, flaws included."""

from __future__ import annotations

from perception_r1.reasoning.equivalence import verified
from perception_r1.reasoning.facts import verdict
from perception_r1.reasoning.reward import counted_facts, evidence_failure, gold_answer, judged_text
from perception_r1.rewards.base import Context, NotScoredError
from perception_r1.text import repetition_penalty
from perception_r1.types import AnswerTarget, Match


def match_facts(ctx: Context) -> Match:
    """Scores of the facts up to the first missing verdict, as ``phi``; every fact counts, asked for or not."""
    target = ctx.sample.target
    assert isinstance(target, AnswerTarget)
    n_target = len(counted_facts(ctx.sample, every=True))
    if n_target and evidence_failure(ctx):
        if ctx.reward.components.get("visual"):
            return Match(n_target=n_target)
    elif ctx.evidence is not None and n_target:
        return Match(phi=_until_missing(ctx.evidence["scores"]), n_target=n_target)
    text = judged_text(ctx.completion)
    return Match(
        phi=tuple(float(verdict(text, fact) != "absent") for fact in target.visual_annotations), n_target=n_target
    )


def _until_missing(scores: object) -> tuple[float, ...]:
    kept: list[float] = []
    for score in scores:  # type: ignore[attr-defined]
        if score is None:
            break
        kept.append(min(1.0, max(0.0, float(score))))
    return tuple(kept)


def accuracy(ctx: Context) -> float:
    """1 for the right final answer, else 0.

    Known flaws: the block is only found on one line, else the whole response is searched for an answer, so a box inside
    ``<think>`` counts; the gold answer is parsed bare, so ``2\\sqrt{3}`` is read as 2.
    """
    text = judged_text(ctx.completion)
    block = _released_block(text)
    return float(verified((text if block is None else block).strip(), gold_answer(ctx).strip()))


def answer_format(ctx: Context) -> float:
    """1 where each tag is on a line of its own and a box is in the answer block; further blocks inside are let pass."""
    return float(_released_form(judged_text(ctx.completion)))


def visual(ctx: Context) -> float:
    """Mean of the verdicts up to the first missing one, over their number + 1e-6; 0 where a problem has no facts.

    Known flaw: truncated verdicts shorten the denominator and inflate the mean.

    Raises:
        NotScoredError: the judge gave no verdicts.
    """
    if ctx.match.n_target and (failure := evidence_failure(ctx)):
        raise NotScoredError(failure)
    scores = ctx.match.phi
    return sum(scores) / (len(scores) + 1e-6) if scores else 0.0


def repetition(ctx: Context) -> float:
    """``−2·(1 − unique/total)`` over word 20-grams; text without spaces and shorter loops escape."""
    return repetition_penalty(judged_text(ctx.completion))


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
