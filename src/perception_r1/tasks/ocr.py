"""OCR: read the text of a page.

Reward: 1 − character edit distance / longer length; ``robust`` normalises white space, ``released`` (PR1) does not.
Metrics: edit distance, F1, precision, recall, BLEU, METEOR.
"""

from __future__ import annotations

from collections.abc import Sequence

from perception_r1.answers.reader import parse_text
from perception_r1.rewards.base import Context, RewardSpec
from perception_r1.rewards.text import WHITESPACE, edit, text_format, text_reason
from perception_r1.stats import Column, column
from perception_r1.tasks.base import Hack, Scored, Task
from perception_r1.text import edit_similarity
from perception_r1.types import Completion, Parsed, RewardRecord, Sample, TextTarget

COMPONENTS = {"edit": edit, "format": text_format}
# The released OCR evaluation of PR1's Qwen2-VL has these words in its text, beside the image itself.
_LITERAL_IMAGE = "<image>\n"


class OcrTask(Task):
    """Write down the text that the image shows."""

    name = "ocr"
    targets = (TextTarget,)
    questions = {"training": "OCR this image.", "evaluation": "OCR this image: "}
    options = {"whitespace": WHITESPACE}
    presets = {
        "robust": RewardSpec("ocr", "robust", {"edit": 1.0}, COMPONENTS, options={"whitespace": True}),
        "released": RewardSpec("ocr", "released", {"edit": 1.0}, COMPONENTS, options={"whitespace": False}),
    }
    known_prompts = (r"ocr this image()\s*:?",)
    nothing = TextTarget("")
    grade_name = "edit similarity"
    headline = ("edit_distance", "f1", "precision", "recall", "bleu", "meteor")
    metric_notes = ("METEOR without the synonym stage (exact words, then Porter stems)",)
    primary = "edit_similarity"
    metric_names = {
        "edit_similarity": "Edit similarity",
        "edit_distance": "Edit distance",
        "exact_match": "Exact match",
        "f1": "F1 of token sets",
        "precision": "Precision of token sets",
        "recall": "Recall of token sets",
        "bleu": "BLEU",
        "meteor": "METEOR",
    }

    def question(self, sample: Sample) -> str:
        """The same for every image unless the sample has a question of its own."""
        if question := sample.question.strip():
            return question
        literal = self.prompt_preset == "evaluation" and self.family.answer_format == "qwen_ref_box"
        return (_LITERAL_IMAGE if literal else "") + self.questions[self.prompt_preset]

    def answer(self, sample: Sample) -> str:
        """The text."""
        return sample.target.describe()

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """The text without end tokens and blocks; never raises."""
        return parse_text(completion.text, finish_reason=completion.finish_reason, thinking=self.thinking)

    def record(self, ctx: Context, reward: float | None, components: dict[str, float], why: str) -> RewardRecord:
        """The record of a transcription."""
        reason = f"not scored: {why}" if why else text_reason(ctx, components)
        return RewardRecord(reward, components, ctx.parsed.status, reason, answer=ctx.parsed.answer)

    def hacks(self, sample: Sample) -> list[Hack]:
        """Transcriptions of nothing; the limits are what the edit distance leaves to letters there by chance."""
        text = sample.target.describe()
        if not text:
            return [Hack("invented text", "Lorem ipsum dolor sit amet")]
        length = max(40, len(text))
        soup = "etaoin shrdlu " * (length // 14 + 1)
        return [
            Hack("alphabet soup", soup[:length], 0.45),
            Hack("one letter", "e" * length, 0.35),
            Hack("text ten times", " ".join([text] * 10), 0.11),
            Hack("runs on for ever", text + soup * 10, 0.2, cut=True),
        ]

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """The figures of `text_metrics`, each averaged over pages."""
        from perception_r1.text_metrics import text_scores

        rows = [text_scores(record.answer, sample.target.describe()) for sample, record in scored]
        return {name: column([row[name] for row in rows]) for name in rows[0]} if rows else {}

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """Edit similarity without outer blanks."""
        return edit_similarity(record.answer.strip(), sample.target.describe().strip())

    @classmethod
    def asked(cls, sample: Sample) -> str:
        """Always the same."""
        return "Read the text"

    @classmethod
    def outcome(cls, sample: Sample, record: RewardRecord) -> str:
        """Edit similarity."""
        return f"similarity {cls.quality(sample, record):.2f}"
