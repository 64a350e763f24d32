"""What the tasks of boxes and points share: gold answers in the model's frame, conversion to pixels, the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from perception_r1.answers.reader import parse_objects
from perception_r1.boxes import scales
from perception_r1.rewards.base import Context
from perception_r1.rewards.objects import FLOOR, hits, objects_reason
from perception_r1.stats import Floats, array, ratio
from perception_r1.tasks.base import Hack, Scored, Task, joined
from perception_r1.tasks.gold import gold_entries
from perception_r1.tasks.object_hacks import object_hacks
from perception_r1.types import XY, XYXY, Completion, Frame, Parsed, PointTarget, RewardRecord, Sample

_FRAME_WORDS = {
    "norm1000": "as integers from 0 to 1000 of either side",
    "resized": "in pixels",
    "original": "in pixels of the image",
    "unit": "as fractions of either side from 0 to 1",
}


class ObjectTask(Task):
    """A task whose answers list boxes or points."""

    asks_json: ClassVar[bool] = True
    """Whether the question needs a sentence that asks for JSON where that is the family's form."""
    options = {"floor": FLOOR}

    def question(self, sample: Sample) -> str:
        """The question in the family's words: the phrase in its form, and the form where it must be named."""
        form = self.family.form
        phrase = sample.question.strip()
        categories = ", ".join(sample.categories) or phrase or "all objects"
        text = self.questions[self.prompt_preset].format(question=form.phrase(phrase), categories=categories)
        return joined(text, self._form_words())

    def answer(self, sample: Sample) -> str:
        """The target in the family's form and frame; an image with nothing to find gives ``[]``."""
        return self.family.write(gold_entries(sample, self.family), sample.question.strip() or "object")

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """Read an answer; never raises."""
        return parse_objects(completion.text, finish_reason=completion.finish_reason, thinking=self.thinking)

    def frame(self, sample: Sample) -> Frame:
        """The frame that the model answers in.

        Raises:
            DataError: the sample has no image size.
        """
        return self.family.frame_of(sample)

    def to_pixels(self, parsed: Parsed, frame: Frame | None) -> tuple[tuple[XYXY | None, ...], tuple[XY | None, ...]]:
        """Boxes and points in original-image pixels, one an entry, None where it has none that is usable."""
        assert frame is not None
        x, y = scales(frame)
        entries = parsed.objects
        pred_xyxy = tuple(
            [
                None
                if (box := entry.box_xyxy) is None or entry.issue is not None
                else (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
                for entry in entries
            ]
        )
        pred_points = tuple(
            [
                None if (point := entry.point_xy) is None or entry.issue is not None else (point[0] * x, point[1] * y)
                for entry in entries
            ]
        )
        return pred_xyxy, pred_points

    def record(self, ctx: Context, reward: float | None, components: dict[str, float], why: str) -> RewardRecord:
        """The record of an answer, with every entry and every pair."""
        pred_xyxy, pred_points, match = ctx.pred_xyxy, ctx.pred_points, ctx.match
        n_entries = len(pred_xyxy)
        n_boxes, n_points = n_entries - pred_xyxy.count(None), n_entries - pred_points.count(None)
        if n_boxes and n_points:  # an entry may have both
            n_points = sum(point is not None and box is None for box, point in zip(pred_xyxy, pred_points, strict=True))
        return RewardRecord(
            reward,
            components,
            ctx.parsed.status,
            f"not scored: {why}" if why else objects_reason(ctx),
            match.n_pred,
            n_boxes + n_points,
            match.n_target,
            match.pairs,
            () if isinstance(ctx.sample.target, PointTarget) else match.ious,
            pred_xyxy,
            pred_points,
            tuple([entry.label for entry in ctx.parsed.objects]),
            ctx.parsed.answer,
        )

    def hacks(self, sample: Sample) -> list[Hack]:
        """Known ways to earn without looking, in the family's form."""
        return object_hacks(sample, self)

    @classmethod
    def hits(cls, sample: Sample, record: RewardRecord, threshold: float = 0.5) -> tuple[tuple[int, int], ...]:
        """The pairs (prediction, target) that metrics count and pictures draw; see `rewards.objects.hits`."""
        return hits(sample, record, threshold, labelled=cls.labelled)

    def _form_words(self) -> str:
        family = self.family
        if not family.form.is_json:
            return ""
        if family.explain_form:
            keys = f'"{family.box_key}": [x1, y1, x2, y2], "label": name'
            return f"Answer with a JSON list of {{{keys}}}, coordinates {_FRAME_WORDS[family.frame]}."
        return "Output the coordinates in JSON format." if self.asks_json else ""


def box_sums(task: type[ObjectTask], scored: Sequence[Scored]) -> Floats:
    """(n, 3): hits at IoU 0.5, predictions and targets of each sample."""
    return array([[len(task.hits(*pair)), pair[1].n_pred, pair[0].target.n_objects] for pair in scored])


def f1(means: Floats) -> Floats:
    """2·TP / (predictions + targets); nothing asked and nothing given is 1."""
    return ratio(2 * means[..., 0], means[..., 1] + means[..., 2])
