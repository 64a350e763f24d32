"""Chains of thought from a vision-language model, and those of them whose final answer is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.data.images import open_image
from perception_r1.data.row import row_from_sample, sample_from_row
from perception_r1.errors import DataError
from perception_r1.judge.prompt import PromptFile
from perception_r1.openai_server import ChatServer, Reply, image_part
from perception_r1.progress import progress
from perception_r1.reasoning.equivalence import same_answer
from perception_r1.reasoning.reward import parse_answer
from perception_r1.types import AnswerTarget, Completion, Sample
from perception_r1.vpr.steps import (
    StepReport,
    appending,
    ask_all,
    check_settings,
    read_rows,
    reusable_rows,
    sample_digest,
    server_settings,
    write_rows,
)


def distill(
    samples: Sequence[Sample],
    server: ChatServer,
    prompt: PromptFile,
    out: Path,
    *,
    n: int = 1,
    temperature: float = 1.0,
    max_tokens: int = 4096,
    resume: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> StepReport:
    """Ask for ``n`` solutions of each problem; each is a request of its own, since many servers ignore ``n``.

    Writes the canonical row of each problem with ``response``, ``finish_reason``, ``model``, ``sample`` (which of the
    n) and ``input`` (a digest of the problem), its id being ``ID#k``.

    Raises:
        UserError: the server cannot be asked; what was done is kept.
    """
    if any(not isinstance(sample.target, AnswerTarget) for sample in samples):
        raise DataError("problems need an 'answer' (rows for task geometry)")
    decoding = {"temperature": temperature, "max_tokens": max_tokens, **(extra_body or {})}
    check_settings(out, {**server_settings(server, decoding), "prompt": prompt.digest}, resume=resume)
    keys = {f"{sample.id}#{k}": (sample, k) for sample in samples for k in range(n)}
    inputs = {sample.id: sample_digest(sample) for sample in samples}
    before = {str(row["id"]) for row in reusable_rows(out, ((key, inputs[s.id]) for key, (s, _) in keys.items()))}
    thinking = "<think>" in f"{prompt.system}{prompt.user}"
    left = [key for key in keys if key not in before]
    report = StepReport("distill", n_in=len(keys), n_before=len(keys) - len(left))

    def body(sample: Sample, k: int) -> dict[str, Any]:
        messages = prompt.messages(question=sample.question)
        text = messages[-1]["content"]
        if sample.image is not None:
            messages[-1]["content"] = [image_part(open_image(sample.image)), {"type": "text", "text": text}]
        asked: dict[str, Any] = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        if temperature > 0:
            asked["seed"] = k  # equal requests may otherwise share one answer in a server's cache
        return {**asked, **(extra_body or {})}

    with appending(out) as write:

        def accept(key: str, reply: Reply) -> str:
            text = reply.whole(thinking=thinking)
            if not text.strip():
                return "an empty answer"
            sample, k = keys[key]
            row = {**row_from_sample(sample), "id": key, "response": text, "finish_reason": reply.finish_reason}
            write({**row, "model": server.model, "sample": k, "problem": sample.id, "input": inputs[sample.id]})
            return ""

        requests = [(key, lambda key=key: body(*keys[key])) for key in left]
        ask_all(
            server, requests, accept, report, out, label="distilling", done=report.n_before, show_progress=show_progress
        )
    return report


def keep_right(
    path: Path, out: Path, *, per_problem: int | None = None, strict: bool = True, show_progress: bool = True
) -> StepReport:
    """Keep the responses whose final answer is right, by the same checker as the reward.

    Args:
        path: rows with ``answer`` and ``response``.
        out: where to write those that are kept, in order.
        per_problem: at most so many a problem, the shortest first.
        strict: also want the form that training rewards (both blocks and one box).
        show_progress: show it on standard error.
    """
    rows = read_rows(path, needs=("answer", "response"))
    counts: Counter[str] = Counter()
    kept: dict[str, list[dict[str, Any]]] = {}
    with progress("filtering", len(rows), enabled=show_progress) as advance:
        for row in rows:
            fault = _fault(row, strict)
            if fault:
                counts[fault] += 1
            else:
                kept.setdefault(str(row.get("problem", row.get("id"))), []).append(row)
            advance()
    if per_problem is not None:
        for problem, found in kept.items():
            counts["more than wanted"] += max(0, len(found) - per_problem)
            kept[problem] = sorted(found, key=lambda row: len(str(row["response"])))[:per_problem]
    chosen = [row for found in kept.values() for row in found]
    write_rows(out, chosen)
    counts["problems solved"] = len(kept)
    return StepReport("filter", n_in=len(rows), n_done=len(chosen), counts=dict(counts))


def _fault(row: Mapping[str, Any], strict: bool) -> str:
    """Why a chain is not kept; "" for one that is."""
    parsed = parse_answer(Completion(str(row["response"]), row.get("finish_reason")))
    if parsed.status == "truncated":
        return "cut off"
    if parsed.status != "ok":
        return "unreadable"
    if not same_answer(parsed.answer, str(row["answer"])):
        return "wrong"
    return "not in form" if strict and not parsed.format_ok else ""


def problem_of(row: Mapping[str, Any], path: Path, line: int) -> Sample:
    """The problem of a distilled row, under the problem's own id and without the response."""
    bare = {key: value for key, value in row.items() if key != "response"}
    return sample_from_row(
        {**bare, "id": row.get("problem", row.get("id"))},
        path=path,
        line=line,
        task="geometry",
        image_required=False,
        check_image=False,
    )
