"""What is asked, and the answer that would be right, in the words and coordinates of each family.

Presets: ``paper`` asks as PR1 trained, ``released`` as its released evaluation asks. The sentences were written for
Qwen-VL; to families whose models would not know the form of the answer from them, it is named in a further sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from perception_r1.core.coords import from_image_box, from_image_point, limits, round_box, round_point
from perception_r1.errors import RecipeError
from perception_r1.families import Family
from perception_r1.types import XY, XYXY, BoxTarget, CountTarget, Frame, PointTarget, Prompt, Sample, TextTarget

PromptPreset: TypeAlias = Literal["paper", "released", "bare"]
"""``bare`` asks the question and says nothing of the answer's form (geometry only): for models trained to it."""

SYSTEM = "You are a helpful assistant. "
"""PR1's system turn in training, with its trailing space."""

THINKING = "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."

_OCR = "OCR this image."
_PAPER = {
    "grounding": "Output the bounding box of the {question} in the image.",
    "counting": "Output all the bounding boxes of the {question}",
    "detection": "Please output bbox coordinates and names of {categories}.",
    "ocr": _OCR,
}
_RELEASED = {
    **_PAPER,
    "detection": (
        "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes {categories}."
    ),
    "ocr": "OCR this image: ",
}
# The released OCR evaluation of PR1's Qwen2-VL has these words in its text, beside the image itself.
_LITERAL_IMAGE = "<image>\n"
_FRAME_WORDS = {
    "norm1000": "as integers from 0 to 1000 of either side",
    "resized": "in pixels",
    "original": "in pixels of the image",
    "unit": "as fractions of either side from 0 to 1",
}


def render_prompt(sample: Sample, family: Family, *, thinking: bool = False, preset: PromptPreset = "paper") -> Prompt:
    """The question as the model is asked it.

    Args:
        sample: grounding asks for ``question`` (a phrase), counting for ``question`` (a noun), detection for
            ``categories``; OCR asks the same of every image unless ``question`` is set.
        family: decides what is said about the form of the answer.
        thinking: ask for ``<think>`` and ``<answer>`` blocks.
        preset: ``paper`` (training) or ``released`` (the released evaluation; no system turn of its own).

    Raises:
        RecipeError: unknown preset, or a task without a prompt here.
    """
    if preset not in ("paper", "released"):
        raise RecipeError(f"unknown prompt preset {preset!r} (known: paper, released)")
    templates = _PAPER if preset == "paper" else _RELEASED
    if sample.task not in templates:
        raise RecipeError(f"task {sample.task!r} has no perception prompt (known: {', '.join(templates)})")
    question = sample.question.strip()
    if sample.task == "ocr":
        text = question or templates["ocr"]
        if preset == "released" and not question and family.answer_format == "qwen_ref_box":
            text = _LITERAL_IMAGE + text
    else:
        phrase = f"<ref>{question}</ref>" if family.answer_format == "internvl" else question
        categories = ", ".join(sample.categories) or question or "all objects"
        text = templates[sample.task].format(question=phrase, categories=categories)
        text = _joined(text, _form_words(sample.task, family))
    if thinking:
        text = _joined(text, THINKING)
    return Prompt(text, system=SYSTEM if preset == "paper" else None)


def render_answer(sample: Sample, family: Family, *, thinking: bool = False) -> str:
    """The right answer, written as a model of the family writes it, in its coordinates.

    Boxes are rounded to the frame's units. Where a family only writes boxes, a point becomes a small box centred on it.
    Of a count-only target only the number is known: the boxes then lie on a grid, places made up, good for checking a
    reward and never for training. An image with nothing to find gives ``[]``.
    """
    if isinstance(sample.target, TextTarget):
        answer = sample.target.text
    else:
        answer = render_objects(gold_objects(sample, family), family, phrase=sample.question.strip() or "object")
    if not thinking:
        return answer
    return f"<think>I look at the whole image before I answer.</think><answer>{answer}</answer>"


Entry: TypeAlias = tuple[XYXY | XY, str | None]
"""A box or a point in the frame's coordinates, and its label (None: the phrase that was asked for)."""


def gold_objects(sample: Sample, family: Family) -> list[Entry]:
    """The target's objects in the family's frame, rounded as they are written."""
    frame = family.frame_of(sample)
    target = sample.target
    if isinstance(target, BoxTarget):
        labels: Sequence[str | None] = target.labels or (None,) * len(target.boxes_xyxy)
        return [
            (round_box(from_image_box(box, frame), frame), label)
            for box, label in zip(target.boxes_xyxy, labels, strict=True)
        ]
    if isinstance(target, PointTarget):
        points = [round_point(from_image_point(point, frame), frame) for point in target.points_xy]
        if family.answer_format == "json":
            return [(point, None) for point in points]
        return [(_box_round_point(point, frame), None) for point in points]
    if isinstance(target, CountTarget):
        return [(box, None) for box in _grid_boxes(target.count, frame)]
    raise RecipeError(f"task {sample.task!r}: a target of type {type(target).__name__} has no boxes to write")


def render_objects(entries: Iterable[Entry], family: Family, *, phrase: str = "object") -> str:
    """Entries in the family's own form; ``phrase`` labels those without a label of their own.

    Example:
        >>> from perception_r1.families import FAMILIES
        >>> render_objects([((1, 2, 3, 4), None)], FAMILIES["qwen2_vl"], phrase="cat")
        '<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>'
        >>> render_objects([((1, 2, 3, 4), "cat")], FAMILIES["qwen3_vl"])
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
    """
    listed = [(place, phrase if label is None else label) for place, label in entries]
    if not listed:
        return "[]"
    if family.answer_format == "json":
        return json.dumps(
            [
                {family.box_key if len(place) == 4 else family.point_key: list(place), "label": label}
                for place, label in listed
            ],
            ensure_ascii=False,
        )
    groups: list[tuple[str, list[XYXY | XY]]] = []
    for place, label in listed:
        if groups and groups[-1][0] == label:
            groups[-1][1].append(place)
        else:
            groups.append((label, [place]))
    if family.answer_format == "internvl":
        return "".join(
            f"<ref>{label}</ref><box>[{', '.join(str(list(place)) for place in places)}]</box>"
            for label, places in groups
        )
    return "".join(
        f"<|object_ref_start|>{label}<|object_ref_end|>" + "".join(_qwen_box(place) for place in places)
        for label, places in groups
    )


def _qwen_box(place: XYXY | XY) -> str:
    if len(place) == 4:
        return f"<|box_start|>({place[0]},{place[1]}),({place[2]},{place[3]})<|box_end|>"
    return f"<|box_start|>({place[0]},{place[1]})<|box_end|>"


def _joined(text: str, more: str) -> str:
    """Two sentences, the first closed by a full stop where it has no ending of its own."""
    if not more:
        return text
    text = text.rstrip()
    return f"{text if text.endswith(('.', '?', '!', ':')) else text + '.'} {more}"


def _form_words(task: str, family: Family) -> str:
    if family.answer_format != "json":
        return ""
    if family.name in ("pixel", "unit"):  # models without a habit of their own: say everything
        keys = f'"{family.box_key}": [x1, y1, x2, y2], "label": name'
        return f"Answer with a JSON list of {{{keys}}}, coordinates {_FRAME_WORDS[family.frame]}."
    return "" if task == "detection" else "Output the coordinates in JSON format."


def _box_round_point(point: XY, frame: Frame) -> XYXY:
    """A small box whose centre is the point; half a unit off only where the point lies on the image's edge."""
    spans = []
    for value, limit in zip(point, limits(frame), strict=True):
        unit, reach = (1e-4, 0.005) if frame.kind == "unit" else (1, 5)
        reach = min(reach, value, limit - value)
        if reach <= 0:
            spans.append((0, unit) if value <= 0 else (value - unit, value))
        else:
            spans.append((value - reach, value + reach))
    (x1, x2), (y1, y2) = spans
    return round_box((x1, y1, x2, y2), frame)


def _grid_boxes(count: int, frame: Frame) -> list[XYXY]:
    """``count`` boxes, all different, on a square grid over the image, in the frame."""
    width, height = frame.image_size
    side = max(1, math.ceil(math.sqrt(count)))
    cells = [divmod(index, side) for index in range(count)]
    return [
        round_box(
            from_image_box(
                (
                    width * column / side,
                    height * row / side,
                    width * (column + 0.8) / side,
                    height * (row + 0.8) / side,
                ),
                frame,
            ),
            frame,
        )
        for row, column in cells
    ]
