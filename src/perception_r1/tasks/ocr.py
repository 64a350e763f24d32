"""OCR: read the text of a page.

Reward: 1 − character edit distance / longer length (white space normalised for ``robust``). Metrics: edit distance, F1,
precision, recall, BLEU, METEOR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perception_r1.core.parsing import parse_text
from perception_r1.core.rewards import score_text
from perception_r1.tasks.base import Task
from perception_r1.types import Completion, Parsed, RewardRecord, Sample, TextTarget


class OcrTask(Task):
    """Write down the text that the image shows."""

    name: ClassVar[str] = "ocr"
    targets: ClassVar[tuple[type, ...]] = (TextTarget,)

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """The text without end tokens and blocks."""
        return parse_text(completion.text, finish_reason=completion.finish_reason, thinking=self.thinking)

    def score(
        self, sample: Sample, completion: Completion | str, evidence: Mapping[str, Any] | None = None
    ) -> RewardRecord:
        """Score a transcription; see `Task.score`. The image's size is not needed."""
        if isinstance(completion, str):
            completion = Completion(completion)
        self.check(sample)
        return score_text(
            self.reward,
            sample,
            completion,
            self.parse(sample, completion),
            answer_format=self.family.answer_format,
            thinking=self.thinking,
        )
