"""Chains of thought into atomic visual facts: asked of a text model, deduplicated, what the question says dropped.

Output: one row a problem with ``visual_annotations``; as the parquet that the authors' repository reads, too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from perception_r1.data.files import atomic_write
from perception_r1.data.row import row_from_sample
from perception_r1.data.visual_info import COLUMN, read_infos, write_infos
from perception_r1.errors import DataError
from perception_r1.judge.prompt import PromptFile
from perception_r1.openai_server import ChatServer, Reply
from perception_r1.reasoning.facts import unasked
from perception_r1.types import AnswerTarget, Sample
from perception_r1.vpr.distill import problem_of
from perception_r1.vpr.steps import (
    StepReport,
    appending,
    ask_all,
    check_settings,
    read_rows,
    reusable_rows,
    sample_digest,
    server_settings,
)

_MOST_FACTS = 40
_SAME_WORDS = 95.0
_MARKER = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s+")


def annotate(
    path: Path,
    server: ChatServer,
    prompt: PromptFile,
    out: Path,
    *,
    max_tokens: int = 1024,
    resume: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> StepReport:
    """Ask for the visual facts of each chain; several chains of one problem give the union of their facts.

    Args:
        path: rows with ``question``, ``answer`` and ``response`` (what ``filter`` kept).
        server: a text model.
        prompt: with the placeholders ``question`` and ``solution``.
        out: rows with ``visual_annotations``, one a problem.
        max_tokens: of an answer.
        resume: go on with ``out``.
        extra_body: further fields of each request.
        show_progress: show it on standard error.

    Raises:
        UserError: the server cannot be asked; what was done is kept.
    """
    problems: dict[str, tuple[Sample, list[str]]] = {}
    for line, row in enumerate(read_rows(path, needs=("question", "answer", "response")), start=1):
        sample = problem_of(row, path, line)
        problems.setdefault(sample.id, (sample, []))[1].append(str(row["response"]))
    decoding = {"temperature": 0.0, "max_tokens": max_tokens, **(extra_body or {})}
    check_settings(out, {**server_settings(server, decoding), "prompt": prompt.digest}, resume=resume)
    inputs = {name: sample_digest(sample, texts) for name, (sample, texts) in problems.items()}
    before = {str(row["id"]) for row in reusable_rows(out, inputs.items())}
    left = [name for name in problems if name not in before]
    n_chains = {name: len(texts) for name, (_, texts) in problems.items()}
    n_before = sum(number for name, number in n_chains.items() if name in before)
    report = StepReport("annotate", n_in=sum(n_chains.values()), n_before=n_before)
    counts: Counter[str] = Counter()
    chains = {f"{name}#{k}": (name, text) for name in left for k, text in enumerate(problems[name][1])}
    waiting = {name: n_chains[name] for name in left}
    said: dict[str, list[str]] = {name: [] for name in left}

    with appending(out) as write:

        def accept(key: str, reply: Reply) -> str:
            name = chains[key][0]
            facts = read_facts(reply.answer)
            waiting[name] -= 1
            if facts is not None:
                said[name] += facts
            if waiting[name] == 0 and (facts is not None or said[name]):
                kept, dropped = tidy(problems[name][0].question, said[name])
                counts["facts"] += len(kept)
                counts["facts dropped"] += dropped
                counts["problems without facts"] += not kept
                sample = problems[name][0]
                assert isinstance(sample.target, AnswerTarget)
                row = row_from_sample(sample)
                write(
                    {
                        **row,
                        "visual_annotations": list(kept),
                        "response": problems[name][1][0],
                        "input": inputs[name],
                    }
                )
            return "" if facts is not None else "no list of facts in the answer"

        requests = [
            (
                key,
                {
                    "messages": prompt.messages(question=problems[name][0].question, solution=text),
                    **decoding,
                },
            )
            for key, (name, text) in chains.items()
        ]
        ask_all(
            server, requests, accept, report, out, label="annotating", done=report.n_before, show_progress=show_progress
        )
    report.counts = dict(counts)
    return report


def read_facts(text: str) -> list[str] | None:
    """The facts in a model's answer: ``{"facts": [...]}``, a JSON list, or ``<infoN>`` tags; None without any."""
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    if start >= 0:
        try:
            value = json.JSONDecoder().raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            value = value.get("facts")
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [" ".join(item.split()) for item in value if item.strip()]
    tagged = read_infos(text)
    if tagged:
        return list(tagged)
    listed = [_MARKER.sub("", line).strip() for line in text.splitlines() if _MARKER.match(line)]
    return listed or None


def tidy(question: str, facts: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Facts without those that the question states and those said before, and how many that were.

    Equal in meaning (`reasoning.facts`) or nearly equal in letters is said before.

    Example:
        >>> tidy("AB = 5. Find x.", ["AB = 5", "∠ABC = 40°", "angle ABC is 40 degrees"])
        (('∠ABC = 40°',), 2)
    """
    clean = tuple(dict.fromkeys(fact.strip() for fact in facts if fact.strip()))
    kept: list[str] = []
    for index in unasked(question, clean):
        fact = clean[index]
        letters = [character for character in fact if character.isdigit() or character.isupper()]
        alike = any(
            fuzz.ratio(fact.lower(), other.lower()) >= _SAME_WORDS
            and letters == [character for character in other if character.isdigit() or character.isupper()]
            for other in kept
        )
        if not alike:
            kept.append(fact)
    kept = kept[:_MOST_FACTS]
    return tuple(kept), len(facts) - len(kept)


def write_parquet(path: Path, out: Path) -> int:
    """Annotated rows as the authors' parquet: ``images``, ``problem``, ``answer``, ``visual_key_info``, ``id``.

    Raises:
        DataError: a row without its image.
    """
    import pyarrow
    import pyarrow.parquet

    rows = []
    for line, row in enumerate(read_rows(path, needs=("question", "answer", "image")), start=1):
        image = Path(row["image"]) if Path(row["image"]).is_absolute() else path.parent / row["image"]
        if not image.is_file():
            raise DataError(f"{row['image']!r} does not exist", path=path, line=line, field="image")
        rows.append(
            {
                "id": str(row["id"]),
                "images": [{"bytes": image.read_bytes(), "path": image.name}],
                "problem": f"<image>{row['question']}",
                "answer": str(row["answer"]),
                COLUMN: write_infos([str(fact) for fact in row.get("visual_annotations") or ()]),
            }
        )
    with atomic_write(out, "wb") as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream, compression="zstd")
    return len(rows)
