"""Our benchmarks as lmms-eval tasks: its harness and models, our parser, coordinate frames and metrics.

``write_tasks`` writes a folder for ``--include_path``: for each benchmark its samples (JSON lines), a YAML file and a
``utils.py`` of a few lines that calls ``LmmsTask``. The frame is written down with the task: lmms-eval's own grounding
and counting tasks assume absolute pixels and take the first number of a reply. Pictures are handed over at the
size that the model is to see, so that no adapter resizes them by limits of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write
from perception_r1.data.images import model_image, prepare
from perception_r1.data.row import row_from_sample, sample_from_row
from perception_r1.errors import UserError
from perception_r1.evaluate.benchmarks import Benchmark
from perception_r1.evaluate.coco import coco_metrics
from perception_r1.evaluate.metrics import columns, keep_scored
from perception_r1.evaluate.results import record_from_dict
from perception_r1.families import get_family
from perception_r1.tasks import Task, make_task, task_class
from perception_r1.tasks.base import PromptPreset
from perception_r1.types import Sample

_LOWER = {"mae", "edit_distance"}


SIZED = "perception_r1_sized"
"""Key of a picture's ``info``: it has the size that the model is to see."""


@dataclass(frozen=True)
class LmmsTask:
    """The functions that a task's YAML names.

    Args:
        task: grounding, counting, detection or ocr.
        family: of the model that will answer: whose frame its boxes are read in.
        prompt: ``training`` or ``evaluation``.
        min_pixels, max_pixels: of the picture as the model sees it, instead of the family's.
        annotations: detection: COCO's annotation file, for its own figures.
    """

    task: str
    family: str
    prompt: PromptPreset = "training"
    min_pixels: int | None = None
    max_pixels: int | None = None
    annotations: str | None = None

    @cached_property
    def scorer(self) -> Task:
        """The one scoring path."""
        return make_task(self.task, family=self.family, prompt=self.prompt)

    def sample(self, doc: dict[str, Any]) -> Sample:
        """The document's row as a sample with the model's sizes."""
        row = json.loads(doc["row"])
        sample = sample_from_row(row, path="lmms-eval", task=self.task, check_image=False)
        return prepare(sample, self.scorer.family, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def doc_to_visual(self, doc: dict[str, Any]) -> list[Any]:
        """The picture at the size in which answers are read, marked so that our model does not resize it again."""
        image = model_image(self.sample(doc))
        image.info[SIZED] = True
        return [image]

    def doc_to_text(self, doc: dict[str, Any], *_: Any, **__: Any) -> str:
        """The question in the words of the paper."""
        return self.scorer.prompt(self.sample(doc)).user

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """The same record under each metric's name: metrics are made of all of them at the end."""
        record = self.scorer.score(self.sample(doc), str(results[0]))
        entry = {"row": doc["row"], "record": record.to_dict()}
        return dict.fromkeys(task_class(self.task).headline, entry)

    def aggregate(self, metric: str, entries: Sequence[dict[str, Any]]) -> float:
        """A metric over all documents, as ``metrics.json`` of ``pr1 eval`` has it."""
        scored = [(self.sample({"row": entry["row"]}), record_from_dict(entry["record"])) for entry in entries]
        kept = keep_scored(scored)
        if not kept:
            return float("nan")
        if metric.startswith("AP"):
            return coco_metrics(kept, self.annotations, resamples=1).get(metric, {}).get("value", float("nan"))
        column = columns(self.task, kept)[metric]
        rows = column.rows()
        return float(column.statistic(rows.mean(axis=0) if rows.ndim == 2 else rows.mean(keepdims=True)))


def write_tasks(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    out: str | Path,
    *,
    family: str,
    prompt: PromptPreset = "evaluation",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    annotations: str | Path | None = None,
) -> str:
    """Write one benchmark as a task for ``lmms_eval --include_path OUT``.

    Args:
        benchmark: which; it names the task.
        samples: its samples.
        out: the folder of tasks; the benchmark gets a folder in it.
        family, prompt, min_pixels, max_pixels, annotations: as in ``LmmsTask``.

    Returns:
        The task's name: ``pr1_`` and the benchmark's, in letters that lmms-eval takes.

    Raises:
        UserError: a task that has no figures here, or an unknown family.
    """
    if not task_class(benchmark.task).headline:
        raise UserError(f"benchmark {benchmark.name}: lmms-eval has no task for {benchmark.task} from us")
    name = benchmark.lmms_name
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "data.jsonl") as stream:
        for sample in samples:
            # The row as text: the columns of a table are of one type, those of rows are not.
            row = row_from_sample(sample)
            stream.write(json.dumps({"id": sample.id, "row": json.dumps(row, ensure_ascii=False)}) + "\n")
    arguments = {
        "task": benchmark.task,
        "family": get_family(family).name,
        "prompt": prompt,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "annotations": None if annotations is None else str(Path(annotations).absolute()),
    }
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
    functions = "".join(
        f"\n\ndef {_function(metric)}(entries):\n    return TASK.aggregate({metric!r}, entries)\n"
        for metric in task_class(benchmark.task).headline
    )
    with atomic_write(folder / "utils.py") as stream:
        stream.write(
            f'"""{benchmark.title} for lmms-eval, scored by perception-r1."""\n\n'
            "from perception_r1.integrations.lmms_eval.tasks import LmmsTask\n\n"
            f"TASK = LmmsTask({given})\n"
            "doc_to_visual, doc_to_text, process_results = TASK.doc_to_visual, TASK.doc_to_text, TASK.process_results\n"
            f"{functions}"
        )
    metrics = "".join(
        f"  - {{metric: {json.dumps(metric)}, aggregation: !function utils.{_function(metric)}, "
        f"higher_is_better: {str(metric not in _LOWER).lower()}}}\n"
        for metric in task_class(benchmark.task).headline
    )
    with atomic_write(folder / f"{name}.yaml") as stream:
        stream.write(
            f"# {benchmark.title}, {len(samples)} samples; primary figure: {task_class(benchmark.task).primary}\n"
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs:\n  data_files: {{test: {json.dumps(str((folder / 'data.jsonl').absolute()))}}}\n"
            "test_split: test\noutput_type: generate_until\n"
            "doc_to_visual: !function utils.doc_to_visual\ndoc_to_text: !function utils.doc_to_text\n"
            'doc_to_target: "id"\nprocess_results: !function utils.process_results\n'
            f"generation_kwargs: {{max_new_tokens: {benchmark.max_new_tokens}, temperature: 0, do_sample: false}}\n"
            f"metric_list:\n{metrics}metadata:\n  - version: 1.0\n"
        )
    return name


def _function(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.lower())
