"""Records of PR1, VLM-R1 and their relatives: JSON lists or JSON lines with ``image``, ``problem`` and ``solution``.

The answer stands in ``solution`` (``answer``, ``ground_truth``) or in a conversation's gpt turn, as a value or as the
text of one (``"<answer> [40, 12, 131, 60] </answer>"``, a fenced JSON list): text is read as JSON, never evaluated.
``solution: null`` says that nothing fits the question. Some files give the box twice, in pixels (``solution``) and in
0..1000 (``normalized_solution``): then the two must agree. PR1's own training files give 0..1000 (grounding, counting)
or pixels of the resized image (detection) in ``solution``: say so with the option ``coordinates``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perception_r1 import tasks
from perception_r1.boxes import to_image_box, to_image_point
from perception_r1.data import fields
from perception_r1.data.coco_names import COCO_NAMES
from perception_r1.data.conversation import bare_question, question_and_answer
from perception_r1.data.fields import Where, shown
from perception_r1.data.files import read_records
from perception_r1.data.reading import ImageFinder, Opened, Request, entry_size, parse_options
from perception_r1.errors import DataError
from perception_r1.families import get_family
from perception_r1.tasks import Task, task_class
from perception_r1.types import AnswerTarget, CountTarget, Frame, PointTarget, Size, TextTarget

TASKS = tuple(tasks.TASKS)
NAMES = {"boxes": "solution", "points": "solution", "count": "solution", "text": "solution", "answer": "solution"}
_FRAMES: dict[str, Any] = {"pixels": "original", "norm1000": "norm1000", "unit": "unit", "resized": "resized"}
_BOX_KEYS = ("bbox_2d", "bbox", "box", "box_2d")
_POINT_KEYS = ("point_2d", "point")


@dataclass(frozen=True)
class RecordOptions:
    """Options of the source.

    Attributes:
        coordinates: of ``solution``: pixels of the original image, 0..1000 or 0..1 of either side, or pixels of the
            resized image (then ``family``, ``min_pixels`` and ``max_pixels`` say how it was resized).
        image: name of the image's column, where it is not image, images, image_path or file_name.
        question: name of the question's column, where it is not problem or question.
        answer: name of the answer's column, where it is not solution, answer or ground_truth.
        categories: labels that may be asked for (detection); default those in the prompt, else all labels of the file.
    """

    coordinates: Literal["pixels", "norm1000", "unit", "resized"] = "pixels"
    family: str = "qwen2_5_vl"
    min_pixels: int | None = None
    max_pixels: int | None = None
    image: str | None = None
    question: str | None = None
    answer: str | None = None
    categories: list[str] | None = None


def open_records(request: Request) -> Opened:
    """Opens a file of records."""
    request.no_split("records")
    options = parse_options(RecordOptions, request.options, "records")
    records = read_records(request.path)
    parents = request.path.absolute().parents[:3]  # PR1's own layout is jsons/grounding/….json beside images/
    guesses = (item for parent in parents for item in (parent, parent / "images", parent / "images/coco"))
    finder = ImageFinder.of(request, guesses, subfolders=("coco", "pixmo-count"))
    answer = options.answer or "solution"
    reader = _Reader(request.task, options, finder)
    return Opened(request.path, records, reader.rows, {**dict.fromkeys(NAMES, answer), "question": "problem"})


@dataclass(frozen=True)
class _Reader:
    task: str
    options: RecordOptions
    finder: ImageFinder

    @property
    def kind(self) -> type[Task]:
        return task_class(self.task)

    def rows(self, record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        image = self.finder.find(_image_name(record, self.options.image, where), where)
        question, answer = self._question_and_answer(record, where)
        identity = next((record[key] for key in ("id", "annotation_id") if record.get(key) is not None), None)
        row: dict[str, Any] = {"id": f"{where.line}" if identity is None else identity, "image": image}
        row["question"] = bare_question(question, self.task)
        if self.kind.asks_categories:
            asked = row.pop("question")
            row["categories"] = self.options.categories or (asked.split(", ") if asked != question else None)
        name = {TextTarget: "text", AnswerTarget: "answer"}.get(self.kind.targets[0])
        if name is not None:
            yield {**row, name: _unwrapped(answer) if isinstance(answer, str) else answer, **_facts(record)}
            return
        size = entry_size(record, image, where)
        row["width"], row["height"] = size
        yield {**row, **self._target(_value(answer, where), record, size, where)}

    def _question_and_answer(self, record: Mapping[str, Any], where: Where) -> tuple[str, Any]:
        question, question_key = _first(record, (self.options.question or "problem", "question"))
        has_answer = self.options.answer or next(
            (key for key in ("solution", "answer", "ground_truth") if key in record), None
        )
        if question_key is None or (has_answer is None and "normalized_solution" not in record):
            if record.get("conversations") is not None or record.get("messages") is not None:
                asked, said = question_and_answer(record, where)
                return asked, said
            missing = "question" if question_key is None else "boxes"
            raise where.error(
                f"is missing{fields.did_you_mean(where.names[missing], record)} (expected it in each record)", missing
            )
        if has_answer is not None and has_answer not in record:
            raise DataError(
                "is missing (correct the option 'answer')", path=where.path, line=where.line, field=has_answer
            )
        return fields.text(question, where, "question"), record.get(has_answer) if has_answer else None

    def _target(self, value: Any, record: Mapping[str, Any], size: Size, where: Where) -> dict[str, Any]:
        normalized = _value(record.get("normalized_solution"), where)
        kind = _FRAMES[self.options.coordinates]
        if value is None and normalized is not None:
            value, kind = normalized, "norm1000"
        frame = self._frame(kind, size, where)
        if CountTarget in self.kind.targets and isinstance(value, (int, float)):
            return {"count": value}
        if PointTarget in self.kind.targets and (points := _points(value)) is not None:
            return {"points": [_converted_point(item, frame, where) for item in points]}
        boxes, labels = _boxes_and_labels(value, where)
        found = [_converted_box(item, frame, where) for item in boxes]
        if normalized is not None and kind == "original":
            _check_agreement(found, _boxes_and_labels(normalized, where)[0], size, where)
        row: dict[str, Any] = {"boxes": found}
        if labels:
            row["labels"] = labels
        return row

    def _frame(self, kind: Any, size: Size, where: Where) -> Frame:
        if kind != "resized":
            return Frame(kind, size)
        family = get_family(self.options.family).with_limits(self.options.min_pixels, self.options.max_pixels)
        try:
            return Frame("resized", size, family.seen_size(size, "give the options min_pixels and max_pixels"))
        except DataError as error:
            raise where.error(error.message, "boxes") from None


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Any, str | None]:
    return next(((record[name], name) for name in names if record.get(name) is not None), (None, None))


def _image_name(record: Mapping[str, Any], column: str | None, where: Where) -> str:
    columns = (column,) if column else ("image", "images", "image_path", "file_name")
    value, name = _first(record, columns)
    if fields.is_list(value):
        if len(value) != 1:
            raise where.error(f"{len(value)} images (expected one a record)", name)
        value = value[0]
    if name is None:
        raise where.error(f"is missing{fields.did_you_mean(columns[0], record)} (expected a path)", columns[0])
    return fields.text(value, where, name)


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Visual annotations, as a list or as the "<info1>…</info1>" of the visual perception reward's data."""
    facts = record.get("visual_annotations", record.get("visual_key_info"))
    if isinstance(facts, str):
        facts = [fact.strip() for fact in re.findall(r"<info\d+>(.*?)</info\d+>", facts, re.DOTALL)]
    return {} if facts is None else {"visual_annotations": facts}


def _unwrapped(answer: str) -> str:
    """The text inside <answer> tags, or all of it."""
    found = re.search(r"<answer>(.*?)</answer>", answer, re.DOTALL)
    return found.group(1).strip() if found else answer


def _value(answer: Any, where: Where) -> Any:
    """``answer`` with text read as JSON; empty text and null say "nothing there"."""
    if not isinstance(answer, str):
        return answer
    inner = re.sub(r"^```(?:json)?|```$", "", _unwrapped(answer).strip()).strip()
    if not inner or inner.lower() in {"none", "null"}:
        return None
    # Tuples and single quotes are how Python prints what it once held; in JSON they may be part of a label.
    for text in (inner, inner.replace("(", "[").replace(")", "]").replace("'", '"')):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            continue
    raise where.error(f"{shown(answer)} is not readable (expected [x1, y1, x2, y2], or a JSON list)", "boxes")


def _points(value: Any) -> list[Any] | None:
    """The points of a counting answer, None when it is made of boxes. An empty answer is a list of no points."""
    if value is None:
        return []
    if not isinstance(value, list):
        return None
    points = [
        next((item[key] for key in _POINT_KEYS if key in item), item) if isinstance(item, Mapping) else item
        for item in value
    ]
    is_point = [
        (fields.is_list(item) and len(item) == 2) or (isinstance(item, Mapping) and {"x", "y"} <= item.keys())
        for item in points
    ]
    return points if all(is_point) else None


def _boxes_and_labels(value: Any, where: Where) -> tuple[list[Any], list[Any]]:
    """Boxes and labels of an answer in any of its forms: one box, boxes, objects, PR1's parallel lists, nothing."""
    if value is None:
        return [], []
    if isinstance(value, Mapping) and "target_box" in value:
        boxes, ids = value["target_box"], value.get("target_id", [])
        if not fields.is_list(boxes) or not fields.is_list(ids) or len(boxes) != len(ids):
            raise where.error(f"{shown(value)} does not give one target_id a target_box", "boxes")
        for number in ids:
            if number not in COCO_NAMES:
                raise where.error(f"{shown(number)} is not a COCO category id (expected 1 to 90)", "boxes")
        return list(boxes), [COCO_NAMES[number] for number in ids]
    items = [value] if isinstance(value, Mapping) else value
    if (
        fields.is_list(items)
        and len(items) == 4
        and not any(fields.is_list(item) or isinstance(item, Mapping) for item in items)
    ):
        items = [items]
    if not fields.is_list(items):
        raise where.error(f"{shown(value)} is not a box (expected [x1, y1, x2, y2], or a list)", "boxes")
    boxes, labels = [], []
    for item in items:
        if not isinstance(item, Mapping):
            boxes.append(item)
            continue
        key = next((key for key in _BOX_KEYS if key in item), None)
        if key is None:
            raise where.error(f"{shown(item)} has no box (expected one of {', '.join(_BOX_KEYS)})", "boxes")
        boxes.append(item[key])
        if "label" in item:
            labels.append(item["label"])
    return boxes, labels


def _converted_box(value: Any, frame: Frame, where: Where) -> Any:
    if frame.kind == "original":
        return value
    if not fields.is_list(value) or len(value) != 4:
        raise where.error(f"{shown(value)} is not a box (expected [x1, y1, x2, y2])", "boxes")
    x1, y1, x2, y2 = (fields.number(item, where, "boxes") for item in value)
    return [round(item, 3) for item in to_image_box((x1, y1, x2, y2), frame)]


def _converted_point(value: Any, frame: Frame, where: Where) -> Any:
    if frame.kind == "original":
        return value
    pair = [value["x"], value["y"]] if isinstance(value, Mapping) else value
    x, y = (fields.number(item, where, "points") for item in pair)
    return [round(item, 3) for item in to_image_point((x, y), frame)]


def _check_agreement(boxes: list[Any], normalized: list[Any], size: Size, where: Where) -> None:
    """Both spaces were rounded, so a corner may differ by one unit of 1/1000 and a pixel."""
    if len(boxes) != len(normalized):
        raise where.error(f"{len(boxes)} boxes beside {len(normalized)} in normalized_solution", "boxes")
    for box, other in zip(boxes, normalized, strict=True):
        x1, y1, x2, y2 = fields.box(box, size, where)
        expected = _converted_box(other, Frame("norm1000", size), where)
        for found, side, value in zip((x1, y1, x2, y2), size * 2, expected, strict=True):
            if abs(found - value) > side / 1000 + 1:
                raise where.error(
                    f"{shown(box)} and normalized_solution {shown(other)} are different boxes of a "
                    f"{size[0]} × {size[1]} image (is its size wrong, or 'solution' in other coordinates?)",
                    "boxes",
                )
