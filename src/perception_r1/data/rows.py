"""The canonical row: one JSON object a line, the form in which every other format becomes samples.

Keys: ``id``, ``image`` (path relative to a root folder), ``task``, ``question``, ``width`` and ``height`` (of the image
after EXIF rotation; read from its header when absent), ``model_width`` and ``model_height`` (optional), ``categories``
(detection), and the target: ``boxes`` (+ ``labels``), ``points``, ``count``, ``text``, or ``answer`` +
``visual_annotations``; ``response`` may hold a whole answer to imitate (a chain of thought). Other keys are the user's
own and ignored.

    {"id": "7", "image": "dogs/7.jpg", "task": "grounding", "question": "the brown dog", "boxes": [[40, 12, 131, 60]]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from perception_r1.data import fields
from perception_r1.data.fields import MissingImageError, Where, shown
from perception_r1.data.files import atomic_write, broken_json, existing_file, track
from perception_r1.data.images import image_size
from perception_r1.errors import DataError
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

TASKS: tuple[str, ...] = get_args(TaskName)
NEEDS_QUESTION = {"grounding", "counting", "geometry"}
OnError = Literal["raise"] | Callable[[DataError], None]

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
    if size is None and row_task in {"grounding", "counting", "detection"} and ("boxes" in row or "points" in row):
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
        target=_TARGETS[row_task](row, size or _NO_SIZE, categories, where),
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
        return {"points": [[_plain(value) for value in point] for point in target.points_xy]}
    if isinstance(target, CountTarget):
        return {"count": target.count}
    if isinstance(target, TextTarget):
        return {"text": target.text}
    return {"answer": target.answer, "visual_annotations": list(target.visual_annotations)}


def read_jsonl(
    path: str | os.PathLike[str],
    task: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    check_images: bool = True,
) -> list[Sample]:
    """Samples of a file of canonical rows.

    A detection row without ``categories`` gets all labels of the file, sorted: asking only for the labels that its own
    image has would give the answer away.

    Args:
        path: the file; blank lines are skipped.
        task: as in ``sample_from_row``.
        images: root folder of image paths; default the file's own folder.
        on_error: "raise" stops at the first bad row; a function is called with each error and the row is left out.
        check_images: whether images must exist and have the size that the row says.

    Raises:
        DataError: no such file, an empty file, or (with "raise") the first bad row.
    """
    path = existing_file(path)
    samples: list[Sample] = []
    first_line: dict[str, int] = {}
    seen_rows = False
    n_bytes = path.stat().st_size
    with path.open("rb") as stream:
        for line, raw in track(enumerate(stream, start=1), total=None, label=f"reading {path.name}"):
            if not raw.strip():
                continue
            seen_rows = True
            try:
                row = _row_of_line(raw, path, line, whole_file=len(raw) == n_bytes)
                sample = sample_from_row(
                    row if "id" in row else {**row, "id": f"{path.stem}-{line}"},
                    path=path, line=line, task=task, images=images, check_image=check_images,
                )  # fmt: skip
                if sample.id in first_line:
                    raise Where(path, line).error(
                        f"{shown(sample.id)} is already the id of line {first_line[sample.id]} (ids must be unique)",
                        "id",
                    )
            except DataError as error:
                if on_error == "raise":
                    raise
                on_error(error)
                continue
            first_line[sample.id] = line
            samples.append(sample)
    if not seen_rows:
        raise DataError("the file is empty (expected one JSON object a line)", path=path)
    return with_categories(samples)


def write_jsonl(path: str | os.PathLike[str], samples: Iterable[Sample]) -> int:
    """Writes canonical rows, atomically; image paths inside the file's folder become relative. Returns their number."""
    path = Path(path)
    n_rows = 0
    with atomic_write(path) as stream:
        for sample in samples:
            stream.write(
                json.dumps(row_from_sample(sample, root=path.parent), ensure_ascii=False, allow_nan=False) + "\n"
            )
            n_rows += 1
    return n_rows


def with_categories(samples: list[Sample]) -> list[Sample]:
    """``samples`` with the categories of detection filled in where absent, and equal lists shared in memory."""
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    lacking = [sample for sample in samples if sample.task == "detection" and not sample.categories]
    everything: tuple[str, ...] = ()
    if lacking:
        labels = {label for sample in samples if isinstance(sample.target, BoxTarget) for label in sample.target.labels}
        everything = tuple(sorted(labels.union(*(sample.categories for sample in samples))))
    done = []
    for sample in samples:
        categories = sample.categories or (everything if sample.task == "detection" else ())
        categories = shared.setdefault(categories, categories)
        done.append(sample if categories is sample.categories else replace(sample, categories=categories))
    return done


def _row_of_line(raw: bytes, path: Path, line: int, *, whole_file: bool) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start} (save it as UTF-8)", path=path, line=line) from None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "a JSON document over many lines? name its format with --from" if line == 1 else "a truncated download?"
        raise DataError(
            f"{broken_json(error)} (expected one whole JSON object a line; {hint})", path=path, line=line
        ) from None
    if not isinstance(row, dict):
        hint = "; a list of records is read with --from records" if isinstance(row, list) else ""
        raise DataError(f'{shown(row)} is not an object (expected {{"image": …}}{hint})', path=path, line=line)
    if whole_file and "annotations" in row and "images" in row:
        raise DataError("this is a COCO file (read it with --from coco)", path=path, line=line)
    return row


def _task(row: Mapping[str, Any], where: Where, wanted: str | None) -> TaskName:
    known = ", ".join(TASKS)
    if wanted is not None and wanted not in TASKS:
        raise DataError(f"unknown task {wanted!r}{fields.did_you_mean(wanted, TASKS)} (expected one of {known})")
    found = row.get("task")
    if found is None:
        if wanted is None:
            raise where.error(f"is missing (expected one of {known}; or name one with --task)", "task")
        return wanted  # type: ignore[return-value]
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
    if task in NEEDS_QUESTION:
        expected = {"grounding": "what to find", "counting": "what to count"}.get(task, "the problem")
        question = fields.text(fields.require(row, "question", where, expected), where, "question")
        return question if task == "geometry" else fields.words(question, where, "question")
    value = row.get("question")
    return "" if value is None else fields.text(value, where, "question", empty=True)


def _boxes(row: Mapping[str, Any], size: Size, where: Where) -> BoxTarget:
    value = fields.require(row, "boxes", where, "a list of [x1, y1, x2, y2]")
    if not fields.is_list(value):
        raise where.error(f"{shown(value)} is not a list (expected [[x1, y1, x2, y2], …])", "boxes")
    boxes = tuple(fields.box(item, size, where) for item in value)
    labels = fields.text_list(row["labels"], where, "labels") if row.get("labels") is not None else ()
    for label in labels:
        fields.words(label, where, "labels")
    if labels and len(labels) != len(boxes):
        raise where.error(f"expected one a box ({len(boxes)}), got {len(labels)}", "labels")
    return BoxTarget(boxes, labels)


def _grounding(row: Mapping[str, Any], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    return _boxes(row, size, where)


def _detection(row: Mapping[str, Any], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    target = _boxes(row, size, where)
    if target.boxes_xyxy and not target.labels:
        fields.require(row, "labels", where, "one label a box")
        raise where.error(f"is empty for {len(target.boxes_xyxy)} boxes (expected one a box)", "labels")
    for label in target.labels:
        if categories and label not in categories:
            hint = fields.did_you_mean(label, categories)
            raise where.error(f"{shown(label)} is not one of the row's {len(categories)} categories{hint}", "labels")
    return target


def _counting(row: Mapping[str, Any], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    target: Target | None = None
    n_objects, name = 0, ""
    if row.get("boxes") is not None:
        target = _boxes(row, size, where)
        n_objects, name = len(target.boxes_xyxy), "boxes"
    elif row.get("points") is not None:
        if not fields.is_list(row["points"]):
            raise where.error(f"{shown(row['points'])} is not a list (expected [[x, y], …])", "points")
        target = PointTarget(tuple(fields.point(item, size, where) for item in row["points"]))
        n_objects, name = len(target.points_xy), "points"
    if row.get("count") is None and target is not None:
        return target
    value = fields.require(row, "count", where, "a count, or boxes, or points")
    count = fields.integer(value, where, "count", maximum=MAX_COUNT)
    if target is not None and count != n_objects:
        raise where.error(f"is {count} beside {n_objects} {name} (correct either)", "count")
    return target or CountTarget(count)


def _ocr(row: Mapping[str, Any], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    return TextTarget(fields.text(fields.require(row, "text", where, "the page's text"), where, "text", empty=True))


def _geometry(row: Mapping[str, Any], size: Size, categories: tuple[str, ...], where: Where) -> Target:
    answer = fields.text(fields.require(row, "answer", where, "the final answer"), where, "answer")
    facts = row.get("visual_annotations")
    return AnswerTarget(answer, () if facts is None else fields.text_list(facts, where, "visual_annotations"))


_TARGETS: dict[str, Callable[[Mapping[str, Any], Size, tuple[str, ...], Where], Target]] = {
    "grounding": _grounding,
    "counting": _counting,
    "detection": _detection,
    "ocr": _ocr,
    "geometry": _geometry,
}


def _relative(image: str, root: str | os.PathLike[str] | None) -> str:
    if root is None:
        return image
    absolute_root = os.path.abspath(root)  # noqa: PTH100  # as in _image
    inside = Path(image).is_relative_to(absolute_root)
    return Path(image).relative_to(absolute_root).as_posix() if inside else image


def _plain(value: float) -> float | int:
    """40.0 is written as 40; reading gives the same float back."""
    return int(value) if value == int(value) else value
