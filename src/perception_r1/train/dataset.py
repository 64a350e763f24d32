"""Rows as TRL's trainers read them: prompt, image, and the canonical row that the reward needs.

Images stay on disk until a row is drawn. A group draws the same row G times in a row, so the last images are kept.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perception_r1.data.images import model_image
from perception_r1.data.row import row_from_sample
from perception_r1.integrations.scoring import ROW_COLUMN, sample_of
from perception_r1.integrations.trl import EVALUATION_COLUMN

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from perception_r1.tasks import Task
    from perception_r1.types import Sample

_KEPT_IMAGES = 64


def rollout_dataset(samples: Sequence[Sample], task: Task, *, evaluation: bool = False) -> Dataset:
    """Rows for ``GRPOTrainer``: ``prompt`` (chat messages), ``image`` (at the model's size) and ``row`` (JSON).

    Rows of an ``evaluation`` during training carry the column that the reward function knows them by.
    """
    return _dataset(samples, _Rows(task, answers=False, evaluation=evaluation))


def answer_dataset(samples: Sequence[Sample], task: Task) -> Dataset:
    """Rows for ``SFTTrainer``: ``prompt``, ``completion`` (the gold answer in the model's own format) and ``image``."""
    return _dataset(samples, _Rows(task, answers=True))


def _dataset(samples: Sequence[Sample], transform: _Rows) -> Dataset:
    from datasets import Dataset

    rows = [json.dumps(row_from_sample(sample), ensure_ascii=False) for sample in samples]
    return Dataset.from_dict({ROW_COLUMN: rows}).with_transform(transform)


class _Rows:
    """Turns stored rows into what the trainer reads, when they are drawn."""

    def __init__(self, task: Task, *, answers: bool, evaluation: bool = False) -> None:
        self.task, self.answers, self.evaluation = task, answers, evaluation
        self.images: OrderedDict[str, Image.Image] = OrderedDict()

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        samples = [sample_of(row) for row in batch[ROW_COLUMN]]
        columns: dict[str, list[Any]] = {
            "prompt": [self.task.prompt(sample).messages() for sample in samples],
            "image": [self._image(row, sample) for row, sample in zip(batch[ROW_COLUMN], samples, strict=True)],
        }
        if self.answers:
            columns["completion"] = [[{"role": "assistant", "content": self.task.gold(sample)}] for sample in samples]
        else:
            columns[ROW_COLUMN] = batch[ROW_COLUMN]
        if self.evaluation:
            columns[EVALUATION_COLUMN] = [True] * len(samples)
        return columns

    def _image(self, row: str, sample: Sample) -> Image.Image:
        if row not in self.images:
            self.images[row] = model_image(sample)
            if len(self.images) > _KEPT_IMAGES:
                self.images.popitem(last=False)
        self.images.move_to_end(row)
        return self.images[row]
