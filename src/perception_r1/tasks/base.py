"""A task: what is asked, what would be right, how an answer is read and scored. One path for every use.

Training, evaluation, rescoring, checks and every adapter call `Task.score`; nothing else computes a reward. A new task
is one file beside this one, and one line in `perception_r1.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from perception_r1.errors import DataError
from perception_r1.families import Family
from perception_r1.rewards.base import Context, Option, RewardSpec, combine
from perception_r1.stats import Column
from perception_r1.types import XY, XYXY, Completion, Frame, Parsed, Prompt, RewardRecord, Sample, Target

PromptPreset: TypeAlias = Literal["training", "evaluation", "bare"]
"""``training`` asks as PR1 trained, ``evaluation`` as its released evaluation asks; ``bare`` asks the question and says
nothing of the answer's form (reasoning only): for models trained to it."""

SYSTEM = "You are a helpful assistant. "
"""PR1's system turn in training, with its trailing space."""
THINKING = "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."

Scored: TypeAlias = tuple[Sample, RewardRecord]


@dataclass(frozen=True, slots=True)
class Hack:
    """A hack for one sample: what is answered, and the share of the gold answer's reward that it may reach."""

    name: str
    text: str
    limit: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Task:
    """One task for one family with one reward; made by `make_task`. Immutable, pure, and safe to share and to pickle.

    Attributes:
        family: whose frame and form of answer are used.
        reward: how answers are scored.
        thinking: whether ``<think>`` and ``<answer>`` blocks are asked for, and required.
        prompt_preset: how the question is put; see `PromptPreset`.
    """

    family: Family
    reward: RewardSpec
    thinking: bool = False
    prompt_preset: PromptPreset = "training"

    has_own_blocks: ClassVar[bool] = False
    """Whether answers have blocks of their own whatever ``thinking`` says."""
    name: ClassVar[str]
    targets: ClassVar[tuple[type, ...]]
    """Kinds of target that the task can be scored against."""
    questions: ClassVar[Mapping[str, str]]
    """The question by prompt preset."""
    presets: ClassVar[Mapping[str, RewardSpec]]
    """Rewards by name, each with its matcher and every component that a recipe may list."""
    options: ClassVar[Mapping[str, Option]] = {}
    question_says: ClassVar[str] = ""
    """What a row's question must say, such as "what to find"; empty where a row needs none."""
    example_question: ClassVar[str] = "the red car"
    known_prompts: ClassVar[tuple[str, ...]] = ()
    """Prompts of published data sets, as patterns whose group is the bare question."""
    nothing: ClassVar[Target]
    """An empty target, for questions whose answer is not known."""
    asks_categories: ClassVar[bool] = False
    """Whether the question lists categories, which then every row has."""
    labelled: ClassVar[bool] = False
    """Whether labels must agree for a box to count."""
    matches_many: ClassVar[bool] = False
    """Whether an answer may list several objects, so that matching is part of the task (perceptual perplexity)."""
    metric_notes: ClassVar[tuple[str, ...]] = ()
    """What a reader of the metrics must know."""
    has_coco_figures: ClassVar[bool] = False
    right_from: ClassVar[float] = 1.0
    """The `grade` from which an answer is right, for McNemar's test."""
    grade_name: ClassVar[str] = ""
    """What the grade is called where it is a number of its own."""
    headline: ClassVar[tuple[str, ...]] = ()
    """Metrics that other evaluation programs are given."""
    primary: ClassVar[str]
    """The metric that sums up an evaluation."""
    metric_names: ClassVar[Mapping[str, str]] = {}
    """What reports call the metrics."""

    def prompt(self, sample: Sample) -> Prompt:
        """The question as the model is asked it."""
        text = self.question(sample)
        if self.thinking:
            text = joined(text, THINKING)
        return Prompt(text, system=SYSTEM if self.prompt_preset == "training" else None)

    def question(self, sample: Sample) -> str:
        """The question without what is said about thinking."""
        raise NotImplementedError

    def gold(self, sample: Sample) -> str:
        """The right answer in the model's own form and coordinates."""
        self.check(sample)
        answer = self.answer(sample)
        if not self.thinking:
            return answer
        return f"<think>I look at the whole image before I answer.</think><answer>{answer}</answer>"

    def answer(self, sample: Sample) -> str:
        """The right answer without blocks."""
        raise NotImplementedError

    def parse(self, sample: Sample, completion: Completion) -> Parsed:
        """Read an answer, in the model's frame; never raises."""
        raise NotImplementedError

    def frame(self, sample: Sample) -> Frame | None:
        """The frame that the model answers in; None for tasks without coordinates."""
        return None

    def to_pixels(self, parsed: Parsed, frame: Frame | None) -> tuple[tuple[XYXY | None, ...], tuple[XY | None, ...]]:
        """Boxes and points in original-image pixels, P entries each: the only conversion of predictions."""
        return (), ()

    def score(
        self, sample: Sample, completion: Completion | str, evidence: Mapping[str, Any] | None = None
    ) -> RewardRecord:
        """Score an answer. Pure and synchronous; a bad answer is never an error.

        Args:
            sample: with a target that the task knows, and the size of its image where there are coordinates.
            completion: the answer; bare text stands for one whose end is not known.
            evidence: what had to be fetched from outside (a judge's verdicts); perception tasks need none.

        Raises:
            DataError: the sample cannot be scored (wrong kind of target, no image size).
        """
        if isinstance(completion, str):
            completion = Completion(completion)
        self.check(sample)
        parsed = self.parse(sample, completion)
        frame = self.frame(sample)
        pred_xyxy, pred_points = self.to_pixels(parsed, frame)
        ctx = Context(
            self.reward,
            sample,
            completion,
            parsed,
            frame,
            pred_xyxy,
            pred_points,
            answer_format=self.family.answer_format,
            thinking=self.thinking,
            evidence=evidence,
        )
        ctx = ctx.with_match(self.reward.match(ctx))
        reward, components, why = combine(ctx)
        return self.record(ctx, reward, components, why)

    def record(self, ctx: Context, reward: float | None, components: dict[str, float], why: str) -> RewardRecord:
        """The record of a scored answer, with the reason; ``why`` it was not scored, where it was not."""
        raise NotImplementedError

    def check(self, sample: Sample) -> None:
        """Raise a DataError if the sample's target is not one of this task's."""
        if not isinstance(sample.target, self.targets):
            kinds = " or ".join(kind.__name__ for kind in self.targets)
            raise DataError(
                f"sample {sample.id!r}: {self.name} is scored against {kinds}, not {type(sample.target).__name__}"
            )

    def counted_facts(self, sample: Sample) -> tuple[int, ...]:
        """Indices of the visual facts that the reward counts; none but for reasoning."""
        return ()

    def hacks(self, sample: Sample) -> list[Hack]:
        """Known ways to earn without looking, of this task's own; see `perception_r1.tasks.hacks`."""
        return []

    @classmethod
    def hits(cls, sample: Sample, record: RewardRecord, threshold: float = 0.5) -> tuple[tuple[int, int], ...]:
        """The pairs (prediction, target) of boxes that metrics count and pictures draw."""
        return ()

    @classmethod
    def metrics(cls, scored: Sequence[Scored]) -> dict[str, Column]:
        """Every metric as per-sample columns, over samples that were scored."""
        raise NotImplementedError

    @classmethod
    def quality(cls, sample: Sample, record: RewardRecord) -> float:
        """How good one answer is, 0 to 1, by the primary metric."""
        raise NotImplementedError

    @classmethod
    def grade(cls, sample: Sample, record: RewardRecord) -> float:
        """How good one answer is, 0 to 1, before any threshold."""
        return cls.quality(sample, record)

    @classmethod
    def least_reward(cls, places: float) -> float:
        """The least that ``robust`` gives a right answer whose places earn ``places`` after rounding."""
        return places

    @classmethod
    def tag(cls, number: int, label: str | None) -> str | None:
        """What is drawn beside the ``number``-th box."""
        return label if cls.labelled else None

    @classmethod
    def asked(cls, sample: Sample) -> str:
        """The question in a few words, for reports."""
        return sample.question

    @classmethod
    def describe(cls, sample: Sample) -> str:
        """The target in a few words, for reports."""
        return sample.target.describe()

    @classmethod
    def outcome(cls, sample: Sample, record: RewardRecord) -> str:
        """How right an answer is, in a word, for reports."""
        return f"{cls.quality(sample, record):.2f}"


def joined(text: str, more: str) -> str:
    """Two sentences, the first closed by a full stop where it has no ending of its own."""
    if not more:
        return text
    text = text.rstrip()
    return f"{text if text.endswith(('.', '?', '!', ':')) else text + '.'} {more}"
