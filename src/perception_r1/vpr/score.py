"""Saved responses scored with a judge: the reward, its components and the verdicts, one row a response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_r1.data.row import sample_from_row
from perception_r1.errors import UserError
from perception_r1.judge import ChatJudge, Judge, gather_evidence
from perception_r1.progress import progress
from perception_r1.tasks import Task, make_task, reward_spec
from perception_r1.types import AnswerTarget, Completion
from perception_r1.vpr.steps import (
    StepReport,
    appending,
    check_settings,
    failed_file,
    read_rows,
    reusable_rows,
    sample_digest,
    write_rows,
)

_CHUNK = 256


def judge_rows(
    path: Path,
    judge: Judge,
    out: Path,
    *,
    preset: str = "robust",
    resume: bool = False,
    show_progress: bool = True,
) -> StepReport:
    """Score rows with ``question``, ``answer``, ``visual_annotations`` and ``response``.

    Each row of ``out`` has ``id``, ``reward``, ``components``, ``reason``, ``facts`` (fact, verdict) and ``input`` (a
    digest of what was judged). What could not be judged is in ``OUT.failed.jsonl``, and is asked again with ``resume``.

    Raises:
        UserError: bad rows, no row at all could be judged, or the judge is gone; what was done is kept.
    """
    rows = read_rows(path, needs=("answer", "response"))
    samples = [
        sample_from_row(
            {"question": "?", "id": line, **row},
            path=path,
            line=line,
            task="geometry",
            image_required=False,
            check_image=False,
        )
        for line, row in enumerate(rows, start=1)
    ]
    completions = [Completion(str(row["response"]), row.get("finish_reason")) for row in rows]
    check_settings(out, {"judge": judge.name, "preset": preset, **_identity(judge)}, resume=resume)
    inputs = [
        sample_digest(sample, completion.text, completion.finish_reason)
        for sample, completion in zip(samples, completions, strict=True)
    ]
    finished = reusable_rows(out, zip((sample.id for sample in samples), inputs, strict=True))
    before = {(str(row["id"]), row["input"]) for row in finished}
    left = [index for index, sample in enumerate(samples) if (sample.id, inputs[index]) not in before]
    task = make_task("geometry", family="pixel", reward=reward_spec("geometry", preset))
    report = StepReport("judge", n_in=len(rows), n_before=len(rows) - len(left))
    failures: list[dict[str, Any]] = []
    began = time.monotonic()

    async def go() -> None:
        with (
            appending(out) as write,
            progress("judging", len(rows), done=report.n_before, unit="responses", enabled=show_progress) as advance,
        ):
            for start in range(0, len(left), _CHUNK):
                part = left[start : start + _CHUNK]
                chosen = [samples[i] for i in part], [completions[i] for i in part]
                evidence = await gather_evidence(judge, task, *chosen)
                for i, found in zip(part, evidence, strict=True):
                    record = task.score(samples[i], completions[i], found)
                    if record.reward is None:
                        failures.append({"id": samples[i].id, "reason": record.reason})
                        continue
                    report.n_done += 1
                    finished.append({**_row(task, samples[i], record, found), "input": inputs[i]})
                    write(finished[-1])
                advance(len(part), f"{len(failures)} failed" if failures else "")
                stats = judge.stats()
                report.prompt_tokens += int(stats.get("prompt_tokens", 0))
                report.completion_tokens += int(stats.get("completion_tokens", 0))
                if stats.get("failed", 0) == len(part):  # it is gone: the other chunks would fare no better
                    break
        await judge.close()

    asyncio.run(go())
    report.notes = list(getattr(judge, "notes", ()))
    report.n_failed, report.seconds = len(failures), round(time.monotonic() - began, 1)
    if failures:
        write_rows(failed_file(out), failures)
        if not report.n_done and not report.n_before:
            raise UserError(f"no response could be judged: {failures[0]['reason']}")
        if report.n_done + report.n_before + report.n_failed < report.n_in:
            raise UserError(f"{failures[-1]['reason']} (what was done is kept: --resume goes on)")
    else:
        failed_file(out).unlink(missing_ok=True)
    scored = [{"reward": row["reward"], **row["components"]} for row in finished]
    for name in dict.fromkeys(name for row in scored for name in row):
        values = [row[name] for row in scored if name in row]
        report.counts[f"mean {name}"] = round(sum(values) / len(values), 4)
    return report


def _identity(judge: Judge) -> dict[str, Any]:
    """Which model judges and how it is asked, of a judge behind a server."""
    return {"identity": judge.identity()} if isinstance(judge, ChatJudge) else {}


def _row(task: Task, sample: Any, record: Any, evidence: Mapping[str, Any] | None) -> dict[str, Any]:
    assert isinstance(sample.target, AnswerTarget)
    facts = []
    for index in task.counted_facts(sample):
        score = None if evidence is None else evidence["scores"][index]
        facts.append({"fact": sample.target.visual_annotations[index], "score": score})
    plain = record.to_dict()
    return {
        "id": sample.id,
        "reward": plain["reward"],
        "components": plain["components"],
        "status": plain["status"],
        "reason": plain["reason"],
        "facts": facts,
    }
