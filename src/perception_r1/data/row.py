"""The canonical row: one JSON object a line, the form in which every other format becomes samples.

Keys: ``id``, ``image`` (path relative to a root folder), ``task``, ``question``, ``width`` and ``height`` (of the image
after EXIF rotation; read from its header when absent), ``model_width`` and ``model_height`` (optional), ``categories``
(detection), and the target: ``boxes`` (+ ``labels``), ``points``, ``count``, ``text``, or ``answer`` +
``visual_annotations``; ``response`` may hold a whole answer to imitate (a chain of thought). Other keys are the user's
own and ignored.

    {"id": "7", "image": "dogs/7.jpg", "task": "grounding", "question": "the brown dog", "boxes": [[40, 12, 131, 60]]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_r1.data import fields
from perception_r1.data.fields import MissingImageError, Where, shown
from perception_r1.data.images import image_size
from perception_r1.errors import DataError
from perception_r1.tasks import TASKS, Task
from perception_r1.types import (
    AnswerTarget,
    BoxTarget,
    CountTarget,
    PointTarget,
    Sample,
    Size,
    Target,
    TaskName,
    TextTarget,
)

MAX_COUNT = 10_000
"""The right answer to a count names every object, so a mistaken 1e20 would fill the memory."""

_NO_SIZE = (2**31, 2**31)


def sample_from_row(
    row: Mapping[str, Any],
    *,
    path: object,
    line: int | None = None,
    task: str | None = None,
    images: str | os.PathLike[str] | None = None,
    check_image: bool = True,
    image_required: bool = True,
    names: Mapping[str, str] | None = None,
) -> Sample:
    """The sample that a canonical row describes.

    Args:
        row: the row.
        path: file that the row comes from, for messages; its folder is the root of image paths.
        line: 1-based line in it.
        task: the task wanted; a row that names another is an error, a row that names none gets it.
        images: root folder of the image paths, instead of the file's own folder.
        check_image: whether the image must exist and have the size that the row says (its header is read).
        image_required: whether a row must name an image.
        names: our field names → those of the file's own format, for messages.

    Returns:
        A sample whose ``image`` is an absolute path. Boxes and points that stick out of the image by at most a pixel
        are clipped.

    Raises:
        DataError: naming file, line and field; ``MissingImageError`` when the image is not there.
    """
    where = Where(path, line, names or {})
    if not isinstance(row, Mapping):
        raise where.error(f'{shown(row)} is not an object (expected {{"image": …, "question": …}})')
    row_task = _task(row, where, task)
    image = _image(row, where, images, required=image_required)
    size = _size(row, "width", "height", where)
    if image is not None and check_image:
        size = _checked_size(image, size, where)
    kind = TASKS[row_task]
    places = {BoxTarget, PointTarget} & set(kind.targets) and ("boxes" in row or "points" in row)
    if size is None and places:
        raise where.error("is missing, and there is no image to read it from (write width and height)", "width")
    categories = fields.text_list(row["categories"], where, "categories") if row.get("categories") is not None else ()
    for name in categories:
        fields.words(name, where, "categories")
    if len(set(categories)) != len(categories):
        twice = next(name for name in categories if categories.count(name) > 1)
        raise where.error(f"{shown(twice)} is there twice (remove one)", "categories")
    return Sample(
        id=_id(row, where),
        task=row_task,
        question=_question(row, row_task, where),
        target=_target(row, kind, size or _NO_SIZE, categories, where),
        image=image,
        image_size=size,
        model_size=_size(row, "model_width", "model_height", where),
        categories=categories,
        response=fields.text(row["response"], where, "response") if row.get("response") is not None else "",
        origin=None if line is None else (str(path), line),
    )


def row_from_sample(sample: Sample, *, root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The canonical row of ``sample``; ``sample_from_row`` gives the same sample back.

    The image's path is relative to ``root`` where it lies inside that folder, else as it is in the sample.
    """
    row: dict[str, Any] = {"id": sample.id}
    if sample.image is not None:
        row["image"] = _relative(sample.image, root)
    row["task"] = sample.task
    row["question"] = sample.question
    if sample.image_size is not None:
        row["width"], row["height"] = sample.image_size
    if sample.model_size is not None:
        row["model_width"], row["model_height"] = sample.model_size
    row.update(target_fields(sample.target))
    if sample.response:
        row["response"] = sample.response
    if sample.categories:
        row["categories"] = list(sample.categories)
    return row


def target_fields(target: Target) -> dict[str, Any]:
    """The target as the row's fields: boxes and labels, points, count, text, or answer and visual annotations."""
    if isinstance(target, BoxTarget):
        found: dict[str, Any] = {"boxes": [[_plain(value) for value in box] for box in target.boxes_xyxy]}
        if target.labels:
            found["labels"] = list(target.labels)
        return found
    if isinstance(target, PointTarget):
        clicks: dict[str, Any] = {"points": [[_plain(value) for value in point] for point in target.points_xy]}
        return {**clicks, "labels": list(target.labels)} if target.labels else clicks
    if isinstance(target, CountTarget):
        return {"count": target.count}
    if isinstance(target, TextTarget):
        return {"text": target.text}
    return {"answer": target.answer, "visual_annotations": list(target.visual_annotations)}


def _task(row: Mapping[str, Any], where: Where, wanted: str | None) -> TaskName:
    known = ", ".join(TASKS)
    if wanted is not None and wanted not in TASKS:
        raise DataError(f"unknown task {wanted!r}{fields.did_you_mean(wanted, TASKS)} (expected one of {known})")
    found = row.get("task")
    if found is None:
        if wanted is None:
            raise where.error(f"is missing (expected one of {known}; or name one with --task)", "task")
        return wanted
    if found not in TASKS:
        hint = fields.did_you_mean(str(found), TASKS)
        raise where.error(f"unknown task {shown(found)}{hint} (expected one of {known})", "task")
    if wanted is not None and found != wanted:
        raise where.error(f"is {shown(found)}, but rows for {wanted!r} are wanted", "task")
    return found  # type: ignore[no-any-return]


def _id(row: Mapping[str, Any], where: Where) -> str:
    value = require_id = fields.require(row, "id", where, "a string or a number")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or (isinstance(value, str) and not value.strip()):
        raise where.error(f"{shown(require_id)} is not an id (expected a string or a whole number)", "id")
    return str(value)


def _image(
    row: Mapping[str, Any], where: Where, images: str | os.PathLike[str] | None, *, required: bool
) -> str | None:
    if row.get("image") is None and not required:
        return None
    name = fields.text(fields.require(row, "image", where, "a path relative to the images' folder"), where, "image")
    # os.path: Path is ten times slower and this runs once a row; resolve() would follow links
    root = os.fspath(images) if images is not None else os.path.dirname(str(where.path))  # noqa: PTH120
    return os.path.abspath(os.path.join(root, name))  # noqa: PTH100, PTH118


def _checked_size(image: str, size: Size | None, where: Where) -> Size:
    try:
        found = image_size(image)
    except DataError as error:
        if not Path(image).exists():
            raise where.error(
                f"{shown(image)} does not exist (correct the path, or name the images' folder with --images)",
                "image",
                MissingImageError,
            ) from None
        raise where.error(f"{shown(image)} {error.message}", "image") from None
    if size is not None and size != found:
        raise where.error(
            f"is {size[0]} × {size[1]} with height, but {shown(image)} is {found[0]} × {found[1]} pixels after EXIF "
            "rotation (write that size, and boxes that refer to it)",
            "width",
        )
    return found


def _size(row: Mapping[str, Any], width: str, height: str, where: Where) -> Size | None:
    if row.get(width) is None and row.get(height) is None:
        return None
    for name, other in ((width, height), (height, width)):
        if row.get(name) is None:
            raise where.error(f"is missing beside {other!r} (write both or neither)", name)
    return fields.integer(row[width], where, width, minimum=1), fields.integer(row[height], where, height, minimum=1)


def _question(row: Mapping[str, Any], task: str, where: Where) -> str:
    kind = TASKS[task]
    if kind.question_says:
        question = fields.text(fields.require(row, "question", where, kind.question_says), where, "question")
        return question if AnswerTarget in kind.targets else fields.words(question, where, "question")
    value = row.get("question")
    return "" if value is None else fields.text(value, where, "question", empty=True)


def _boxes(row: Mapping[str, Any], size: Size, where: Where) -> BoxTarget:
    value = fields.require(row, "boxes", where, "a list of [x1, y1, x2, y2]")
    if not fields.is_list(value):
        raise where.error(f"{shown(value)} is not a list (expected [[x1, y1, x2, y2], …])", "boxes")
    boxes = tuple(fields.box(item, size, where) for item in value)
    labels = _labels(row, len(boxes), where) if row.get("labels") is not None else ()
    return BoxTarget(boxes, labels)


def _points(row: Mapping[str, Any], size: Size, where: Where) -> PointTarget:
    value = fields.require(row, "points", where, "a list of [x, y]")
    if not fields.is_list(value):
        raise where.error(f"{shown(value)} is not a list (expected [[x, y], …])", "points")
    points = tuple(fields.point(item, size, where) for item in value)
    return PointTarget(points, _labels(row, len(points), where) if row.get("labels") is not None else ())


def _labels(row: Mapping[str, Any], count: int, where: Where) -> tuple[str, ...]:
    labels = fields.text_list(row["labels"], where, "labels")
    for label in labels:
        fields.words(label, where, "labels")
    if labels and len(labels) != count:
        raise where.error(f"expected one a box ({count}), got {len(labels)}", "labels")
    return labels


def _text(row: Mapping[str, Any], where: Where) -> TextTarget:
    return TextTarget(fields.text(fields.require(row, "text", where, "the page's text"), where, "text", empty=True))


def _answer(row: Mapping[str, Any], where: Where) -> AnswerTarget:
    answer = fields.text(fields.require(row, "answer", where, "the final answer"), where, "answer")
    facts = row.get("visual_annotations")
    return AnswerTarget(answer, () if facts is None else fields.text_list(facts, where, "visual_annotations"))


def _target(row: Mapping[str, Any], kind: type[Task], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    """The target from those fields that the task can be scored against, boxes before points before the number."""
    if TextTarget in kind.targets:
        return _text(row, where)
    if AnswerTarget in kind.targets:
        return _answer(row, where)
    has_boxes, has_points = row.get("boxes") is not None, row.get("points") is not None
    target: BoxTarget | PointTarget | None = None
    if BoxTarget in kind.targets and (has_boxes or kind.targets == (BoxTarget,)):
        target = _boxes(row, size, where)
    elif PointTarget in kind.targets and (has_points or CountTarget not in kind.targets):
        target = _points(row, size, where)
    if kind.labelled and target is not None:
        _check_labels(row, target, categories, where)
    return _counted(row, target, where) if CountTarget in kind.targets else target  # type: ignore[return-value]


def _check_labels(
    row: Mapping[str, Any], target: BoxTarget | PointTarget, categories: tuple[str, ...], where: Where
) -> None:
    if target.n_objects and not target.labels:
        fields.require(row, "labels", where, "one label a box")
        raise where.error(f"is empty for {target.n_objects} boxes (expected one a box)", "labels")
    for label in target.labels:
        if categories and label not in categories:
            hint = fields.did_you_mean(label, categories)
            raise where.error(f"{shown(label)} is not one of the row's {len(categories)} categories{hint}", "labels")


def _counted(row: Mapping[str, Any], target: BoxTarget | PointTarget | None, where: Where) -> Target:
    """The target where a number may stand for it, or beside it."""
    if row.get("count") is None and target is not None:
        return target
    value = fields.require(row, "count", where, "a count, or boxes, or points")
    count = fields.integer(value, where, "count", maximum=MAX_COUNT)
    if target is not None and count != target.n_objects:
        name = "boxes" if isinstance(target, BoxTarget) else "points"
        raise where.error(f"is {count} beside {target.n_objects} {name} (correct either)", "count")
    return target or CountTarget(count)


def _relative(image: str, root: str | os.PathLike[str] | None) -> str:
    if root is None:
        return image
    absolute_root = os.path.abspath(root)  # noqa: PTH100  # as in _image
    inside = Path(image).is_relative_to(absolute_root)
    return Path(image).relative_to(absolute_root).as_posix() if inside else image


def _plain(value: float) -> float | int:
    """40.0 is written as 40; reading gives the same float back."""
    return int(value) if value == int(value) else value
