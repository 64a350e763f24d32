"""The vocabulary of the system: read this file first.

A ``Sample`` is asked as a ``Prompt``; a policy answers with a ``Completion``; the parser reads it into ``Parsed``
(objects in the model's own coordinate frame); coordinates are converted to original-image pixels; predictions are
paired with the ``Target`` once (``Match``); components of the reward are computed from the pairs (``RewardRecord``).

All coordinates outside ``Parsed`` are pixels of the original image (after EXIF rotation), x to the right, y down,
boxes as (x1, y1, x2, y2). Sizes are (width, height).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

XYXY: TypeAlias = tuple[float, float, float, float]
XY: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[int, int]

TaskName: TypeAlias = str
"""Name of a task in `perception_r1.tasks.TASKS`."""
FrameKind: TypeAlias = Literal["norm1000", "resized", "original", "unit"]
ParseStatus: TypeAlias = Literal["ok", "empty", "malformed", "truncated"]
FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class BoxTarget:
    """Boxes to find, in original-image pixels; ``labels`` is parallel to ``boxes_xyxy`` (or empty when unlabelled)."""

    boxes_xyxy: tuple[XYXY, ...]
    labels: tuple[str, ...] = ()

    @property
    def n_objects(self) -> int:
        """The number of objects to find."""
        return len(self.boxes_xyxy)

    def describe(self) -> str:
        """Say in a few words what the right answer is."""
        count = len(self.boxes_xyxy)
        return f"{count} box{'' if count == 1 else 'es'}" if count else "nothing"


@dataclass(frozen=True, slots=True)
class PointTarget:
    """One click an object, anywhere on it, in original-image pixels; ``labels`` as in `BoxTarget`."""

    points_xy: tuple[XY, ...]
    labels: tuple[str, ...] = ()

    @property
    def n_objects(self) -> int:
        """The number of objects to find."""
        return len(self.points_xy)

    def describe(self) -> str:
        """Say in a few words what the right answer is."""
        return str(len(self.points_xy))


@dataclass(frozen=True, slots=True)
class CountTarget:
    """Only the number of objects is known."""

    count: int

    @property
    def n_objects(self) -> int:
        """The number of objects to find."""
        return self.count

    def describe(self) -> str:
        """Say in a few words what the right answer is."""
        return str(self.count)


@dataclass(frozen=True, slots=True)
class TextTarget:
    """Text to read."""

    text: str

    @property
    def n_objects(self) -> int:
        """Text has no objects to find."""
        return 0

    def describe(self) -> str:
        """The text."""
        return self.text


@dataclass(frozen=True, slots=True)
class AnswerTarget:
    """A final answer to a reasoning problem and the visual facts its picture shows."""

    answer: str
    visual_annotations: tuple[str, ...] = ()

    @property
    def n_objects(self) -> int:
        """An answer has no objects to find."""
        return 0

    def describe(self) -> str:
        """The answer."""
        return self.answer


Target: TypeAlias = BoxTarget | PointTarget | CountTarget | TextTarget | AnswerTarget


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image.

    ``image_size`` is the original image's size after EXIF rotation; ``model_size`` the size the model sees (the image
    resized to its grid), None until known. ``image`` is a path, opened late. ``categories`` are the labels that may be
    asked for (detection). ``response`` is a whole answer to imitate (SFT on chains of thought), where there is one.
    ``origin`` is the file and line (or record) that the sample was read from, for messages.
    """

    id: str
    task: TaskName
    question: str
    target: Target
    image: str | None = None
    image_size: Size | None = None
    model_size: Size | None = None
    categories: tuple[str, ...] = ()
    response: str = ""
    origin: tuple[str, int] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """A coordinate space together with the sizes needed to convert.

    ``norm1000``: 0..1000 of either side. ``resized``: pixels of the image as the model sees it (``model_size``).
    ``original``: pixels of the original image. ``unit``: 0..1 of either side.
    """

    kind: FrameKind
    image_size: Size
    model_size: Size | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: one user turn with the image first, and an optional system turn."""

    user: str
    system: str | None = None
    has_image: bool = True

    def messages(self) -> list[dict[str, Any]]:
        """Chat messages in the content-list form that every processor of transformers and TRL accepts."""
        content: list[dict[str, str]] = [{"type": "image"}] if self.has_image else []
        content.append({"type": "text", "text": self.user})
        head = [] if self.system is None else [{"role": "system", "content": [{"type": "text", "text": self.system}]}]
        return [*head, {"role": "user", "content": content}]


@dataclass(frozen=True, slots=True)
class Completion:
    """A policy's answer: text with its special tokens kept; ``length`` means that it was cut at the token limit."""

    text: str
    finish_reason: FinishReason | None = None
    token_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """One entry of an answer, in the model's frame, as written.

    An entry that cannot be used (inverted corners, missing numbers, run-away digits) has ``issue`` set and neither box
    nor point; it still counts as a prediction. ``span`` is its place in ``Completion.text``.
    """

    box_xyxy: XYXY | None = None
    point_xy: XY | None = None
    label: str | None = None
    span: tuple[int, int] = (0, 0)
    issue: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was read from a completion. Parsing never raises and never invents a box.

    ``ok``: at least one entry (possibly with issues), or text. ``empty``: an explicit "nothing there" such as ``[]``.
    ``malformed``: nothing readable. ``truncated``: cut off at the token limit; the entries before the cut are kept.
    ``answer`` is the text that was parsed (the answer block when thinking). ``format_ok`` says whether the whole
    completion keeps to the asked form (blocks, brackets) to the letter.
    """

    status: ParseStatus
    objects: tuple[ParsedObject, ...] = ()
    answer: str = ""
    format_ok: bool = False
    issues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Which prediction goes with which target; computed once, read by every component.

    ``pairs`` are (prediction index, target index) with φ > 0, by prediction index; ``ious`` and ``phi`` are parallel to
    them. Indices of predictions are those of ``Parsed.objects``. ``n_pred`` and ``n_target`` are the sizes that a score
    divides by: a truncated answer counts one prediction more than it lists, a preset may leave entries out.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    ious: tuple[float, ...] = ()
    phi: tuple[float, ...] = ()
    unmatched_pred: tuple[int, ...] = ()
    unmatched_target: tuple[int, ...] = ()
    n_pred: int = 0
    n_target: int = 0


@dataclass(frozen=True, slots=True)
class RewardRecord:
    """A score and everything needed to see why.

    ``reward`` None means *not scored* (never 0 in disguise). ``pred_xyxy`` and ``pred_points`` are in original-image
    pixels, one entry a prediction, None where unusable. ``n_pred`` counts every entry, ``n_valid`` the usable ones.
    """

    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict)
    status: ParseStatus = "ok"
    reason: str = ""
    n_pred: int = 0
    n_valid: int = 0
    n_target: int = 0
    pairs: tuple[tuple[int, int], ...] = ()
    ious: tuple[float, ...] = ()
    pred_xyxy: tuple[XYXY | None, ...] = ()
    pred_points: tuple[XY | None, ...] = ()
    pred_labels: tuple[str | None, ...] = ()
    answer: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
