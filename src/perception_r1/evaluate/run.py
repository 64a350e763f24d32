"""One evaluation: ask, score (``task.score``, as in training), write each answer as it comes, then the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_r1.data.images import prepare
from perception_r1.errors import DataError
from perception_r1.evaluate.empty import EmptyAnswers, empty_note
from perception_r1.evaluate.folder import Others, answered_settings, merge_shares, open_folder, share_name
from perception_r1.evaluate.generate import Generator, NoAnswer, Streamer
from perception_r1.evaluate.metrics import keep_scored, summarise
from perception_r1.evaluate.results import (
    METRICS,
    SAMPLES,
    json_line,
    read_json_file,
    read_lines,
    result_row,
    write_json_file,
    write_lines,
)
from perception_r1.evaluate.tokens import box_scores as box_scores_of
from perception_r1.evaluate.workers import ALONE, Workers
from perception_r1.progress import progress as show_progress
from perception_r1.tasks import task_class
from perception_r1.tasks.base import Scored
from perception_r1.types import Completion, Prompt, RewardRecord, Sample

if TYPE_CHECKING:
    from perception_r1.tasks import Task

Answers = Generator | Streamer | Mapping[str, Completion]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with its record; ``scores`` of its boxes where tokens are known. ``why`` there is none, if so."""

    completion: Completion
    record: RewardRecord
    scores: tuple[float, ...] | None = None
    why: str | None = None


def evaluate(
    task: Task,
    samples: Sequence[Sample],
    answers: Answers,
    out_dir: str | Path,
    *,
    model_name: str,
    identity: Mapping[str, Any] | None = None,
    resume: bool = True,
    others: Others = "refuse",
    progress: bool = True,
    label: str = "evaluating",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    annotations: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
    benchmark: str | None = None,
    notes: Sequence[str] = (),
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Answer and score every sample; write ``samples.jsonl``, ``settings.json`` and ``metrics.json`` to ``out_dir``.

    Args:
        task: from ``make_task``; renders the prompts and scores the answers.
        samples: what to ask, with unique ids.
        answers: a generator, a streamer, or saved completions by sample id.
        out_dir: results; made if need be.
        model_name: how the results name the model.
        identity: which weights it has (``models.identity``); answers of others are never reused.
        resume: go on with answers already there (batches are always the same, so the result is, too).
        others: what to do where ``out_dir`` holds answers of another evaluation: "refuse", or "replace" them.
        progress: whether to show it on standard error.
        label: what the progress says.
        min_pixels, max_pixels: of the image as the model sees it, instead of the family's.
        annotations: detection: COCO's official annotation file, instead of ground truth made of the samples.
        resamples, seed: of the bootstrap.
        benchmark: its name, for tables that compare with published figures.
        notes: sentences about the data for ``metrics.json``.
        workers: the processes that share the work; each answers every so-many-th batch.

    Returns:
        What ``metrics.json`` holds: ``{task, model, n, n_scored, unparsable, primary, metrics: {name: {value, low,
        high, n}}, notes, generation, seconds}``; ``generation`` is what the backend was asked for and has to say.
        ``seconds`` is the time that answering took, without sittings that were killed. Processes other than the first
        get an empty dictionary.

    Raises:
        DataError: no samples, two with one id, an image that is missing, or a saved answer that is.
        UserError: ``out_dir`` holds an evaluation of something else.
    """
    out_dir = Path(out_dir)
    task = replace(task, family=task.family.with_limits(min_pixels, max_pixels))
    saved = isinstance(answers, Mapping)
    samples = [_prepared(sample, task, saved=saved) for sample in _unique(samples)]
    _refuse_missing(samples, answers)
    settings = answered_settings(task, samples, answers, model_name, identity)
    if workers.is_first:
        open_folder(out_dir, settings, samples, resume, others)
    workers.wait()
    earlier = (read_json_file(out_dir / METRICS) or {}) if resume else {}
    by_id = {sample.id: sample for sample in samples}
    found = _answered(out_dir / SAMPLES, task, by_id)
    before = len(found)
    workers.wait()  # nobody writes while another still reads
    start = time.monotonic()
    share = SAMPLES if workers.count == 1 else share_name(workers.index)
    empty = EmptyAnswers(len(samples) - before, warn=workers.is_first)
    with (
        show_progress(
            label, len(samples), done=before, unit="samples", enabled=progress and workers.is_first
        ) as advance,
        (out_dir / share).open("a", encoding="utf-8") as stream,
    ):
        for sample, completion in _ask(task, samples, answers, set(found), workers):
            answered = _scored(task, sample, completion)
            found[sample.id] = answered
            if answered.why is None:
                empty.see(completion.text if isinstance(completion, Completion) else "")
            stream.write(json_line(_row(sample, answered)))
            stream.flush()  # what a kill leaves is whole lines and at most one part
            advance(workers.count)
    workers.wait()
    if not workers.is_first:
        return {}
    if workers.count > 1:
        merge_shares(out_dir)
        found = _answered(out_dir / SAMPLES, task, by_id, failed=True)
    seconds = time.monotonic() - start if before < len(samples) else 0.0
    # Answers came longest first; the file that stays is in the order of the data.
    write_lines(out_dir / SAMPLES, (_row(sample, found[sample.id]) for sample in samples))
    metrics = {
        "model": model_name,
        **({"benchmark": benchmark} if benchmark else {}),
        **score_metrics(
            task.name,
            [(sample, found[sample.id].record) for sample in samples],
            annotations=annotations,
            resamples=resamples,
            seed=seed,
            box_scores={key: answered.scores for key, answered in found.items() if answered.scores is not None},
        ),
        "generation": _generation(answers, earlier if before == len(samples) else {}),
        "seconds": round(earlier.get("seconds", 0.0) + seconds, 3),
    }
    if identity:
        metrics["identity"] = dict(identity)
    n_empty = sum(answered.why is None and not answered.completion.text.strip() for answered in found.values())
    metrics["notes"] += [*notes, *metrics["generation"]["notes"], *empty_note(n_empty, len(samples))]
    write_json_file(out_dir / METRICS, metrics)
    return metrics


def score_metrics(
    task: str,
    scored: Sequence[Scored],
    *,
    annotations: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
    box_scores: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[str, Any]:
    """``metrics.summarise`` and, for detection, COCO's figures; ``notes`` say what a reader of them must know."""
    summary = summarise(task, scored, resamples=resamples, seed=seed)
    notes = [f"intervals: 95 %, {resamples} bootstrap resamples of the samples, seed {seed}"]
    if task_class(task).has_coco_figures:
        from perception_r1.evaluate.coco import AP_INTERVAL_NOTE

        try:
            from perception_r1.evaluate.coco import coco_metrics

            kept = keep_scored(scored)
            summary["metrics"] |= coco_metrics(kept, annotations, seed=seed)
            notes.append("COCO figures: score 1.0 for each box, answer order, at most 100 boxes an image")
            if box_scores:
                ordered = coco_metrics(kept, annotations, seed=seed, box_scores=box_scores)
                summary["metrics"] |= {f"{name}_logprob": entry for name, entry in ordered.items()}
                notes.append("…_logprob: the same with each box scored by the mean log-probability of its own tokens")
            notes.append(AP_INTERVAL_NOTE)
        except ModuleNotFoundError:
            notes.append("no COCO figures: hotcoco is not installed (pip install 'perception-r1[eval]')")
    notes += task_class(task).metric_notes
    return {**summary, "notes": notes}


def plan_batches(samples: Sequence[Sample], prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Indices in batches, longest prompt first: little padding, and too small a memory shows at once."""

    def length(index: int) -> float:
        width, height = samples[index].model_size or (0, 0)
        return width * height / 784 + len(prompts[index].user) / 4

    # Questions about one picture stay together: what they share is then computed once.
    order = sorted(range(len(samples)), key=lambda index: (-length(index), samples[index].image or "", index))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _ask(
    task: Task, samples: Sequence[Sample], answers: Answers, skip: set[str], workers: Workers
) -> Iterator[tuple[Sample, Completion | NoAnswer]]:
    """Samples not in ``skip`` with their completions, as they come; only this process's share of them."""
    if isinstance(answers, Mapping):
        yield from (
            (sample, answers[sample.id]) for sample in samples[workers.index :: workers.count] if sample.id not in skip
        )
        return
    prompts = [task.prompt(sample) for sample in samples]
    if isinstance(answers, Streamer):
        (order,) = plan_batches(samples, prompts, len(samples))
        left = [index for index in order[workers.index :: workers.count] if samples[index].id not in skip]
        for number, completion in answers.stream([samples[i] for i in left], [prompts[i] for i in left]):
            yield samples[left[number]], completion
        return
    for batch in plan_batches(samples, prompts, answers.batch_size)[workers.index :: workers.count]:
        # A batch that a kill cut in two is answered whole again: padding may move the last bits of a logit.
        if all(samples[index].id in skip for index in batch):
            continue
        completions = answers([samples[index] for index in batch], [prompts[index] for index in batch])
        for index, completion in zip(batch, completions, strict=True):
            if samples[index].id not in skip:
                yield samples[index], completion


def _refuse_missing(samples: Sequence[Sample], answers: Answers) -> None:
    """Saved answers must be there for every sample; said before a folder is made."""
    missing = [sample.id for sample in samples if sample.id not in answers] if isinstance(answers, Mapping) else []
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"no saved answer for sample {missing[0]!r}{more} (limit the data, or answer them)")


def _scored(task: Task, sample: Sample, completion: Completion | NoAnswer) -> Answered:
    if isinstance(completion, NoAnswer):
        return Answered(Completion(""), RewardRecord(None, reason=f"no answer: {completion}"), why=str(completion))
    record = task.score(sample, completion)
    scores = box_scores_of(completion, task.parse(sample, completion)) if record.pred_xyxy else None
    return Answered(completion, record, scores)


def _row(sample: Sample, answered: Answered) -> dict[str, Any]:
    row = result_row(sample, answered.completion, answered.record, answered.scores)
    return row if answered.why is None else {**row, "no_answer": answered.why}


def _answered(file: Path, task: Task, by_id: Mapping[str, Sample], *, failed: bool = False) -> dict[str, Answered]:
    """What a file of samples holds, scored anew; those without an answer only if ``failed``."""
    found = {}
    for row in read_lines(file) if file.is_file() else ():
        why = row.get("no_answer")
        if row.get("id") not in by_id or (why is not None and not failed):
            continue
        sample = by_id[row["id"]]
        if why is not None:
            found[sample.id] = _scored(task, sample, NoAnswer(why))
            continue
        completion = Completion(row["response"], row["finish_reason"])
        scores = row.get("box_scores")
        record = task.score(sample, completion)
        found[sample.id] = Answered(completion, record, None if scores is None else tuple(scores))
    return found


def _generation(answers: Answers, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What the backend was asked for and its notes; those of the earlier sitting where it was not asked again."""
    if known := earlier.get("generation"):
        return dict(known)
    settings = {} if isinstance(answers, Mapping) else answers.settings
    asked = getattr(answers, "decoding", settings.get("decoding"))
    return {**({"decoding": dict(asked)} if asked else {}), "notes": list(getattr(answers, "notes", ()))}


def _prepared(sample: Sample, task: Task, *, saved: bool) -> Sample:
    """The sample with the model's sizes. Saved answers are of a program that may have resized by other limits.

    Raises:
        DataError: they are in pixels of the resized image, and whose limits apply makes a difference.
    """
    if sample.model_size is not None or (sample.image is None and sample.image_size is None):
        return sample
    prepared = prepare(sample, task.family)
    if saved and task.family.frame == "resized" and prepared.image_size is not None:
        try:
            task.family.seen_size(prepared.image_size, "give --min-pixels and --max-pixels of who answered")
        except DataError as error:
            raise DataError(f"sample {sample.id!r}: {error.message}") from None
    return prepared


def _unique(samples: Sequence[Sample]) -> Sequence[Sample]:
    if not samples:
        raise DataError("there are no samples to evaluate")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"two samples have the id {sample.id!r} (ids must be unique)", field="id")
        seen.add(sample.id)
    return samples
