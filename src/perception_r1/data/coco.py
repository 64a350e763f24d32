"""COCO annotation files ("instances" JSON): detection, counting and grounding rows.

Boxes are [x, y, width, height] in the file. Crowd annotations (``iscrowd``: one box around many objects) cannot be
answered object by object: they are left out of detection, and a category that has one in an image gives no counting
or grounding row there, since neither "how many" nor "the only one" is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception_r1.data import fields
from perception_r1.data.fields import Where, shown
from perception_r1.data.files import existing_file, read_json
from perception_r1.data.reading import ImageFinder, Opened, Request, entry_size, parse_options
from perception_r1.errors import DataError
from perception_r1.tasks import task_class
from perception_r1.types import XYXY, Size

TASKS = ("detection", "counting", "grounding")


@dataclass(frozen=True)
class CocoOptions:
    """Options of the source.

    Attributes:
        empty: images without annotations become detection rows without objects (the right answer is an empty list).
        crowd: "skip" leaves crowd boxes out; "drop" leaves out every image that has one; "keep" is "skip" with a
            detection row for images that hold only crowds, too (an evaluation against the file itself wants them all).
        sizes: "file": images have the sizes that the file says; "image": the file is about resized copies (as PR1's
            evaluation has it), and boxes are scaled to the image's own size.
        categories: only these names; default all that the file defines.
        min_count: counting and detection rows have at least this many objects.
        max_count: and at most this many.
    """

    empty: bool = True
    crowd: Literal["skip", "drop", "keep"] = "skip"
    sizes: Literal["file", "image"] = "file"
    categories: list[str] | None = None
    min_count: int = 0
    max_count: int | None = None


@dataclass(frozen=True)
class _Annotation:
    row: int
    label: str
    box: list[float] | None  # None: a crowd
    error: DataError | None = None  # what is wrong with it, where bad entries are left out or collected


def open_coco(request: Request) -> Opened:
    """Opens ``request.path``, an annotation file, or a data set's folder with ``split`` ("val2017")."""
    options = parse_options(CocoOptions, request.options, "coco")
    path = _annotation_file(request)
    document = read_json(path)
    if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= document.keys():
        raise DataError("is not a COCO file (expected an object with images, annotations and categories)", path=path)
    categories = _categories(document["categories"], path)
    if options.categories is not None:
        for name in options.categories:
            if name not in categories.values():
                hint = fields.did_you_mean(name, categories.values())
                raise DataError(f"has no category {name!r}{hint} (correct the option 'categories')", path=path)
    wanted = list(dict.fromkeys(options.categories or categories.values()))
    is_wanted = set(wanted)
    annotations = _annotations(document["annotations"], categories, path, request)
    images = _images(document["images"], path)
    unknown = annotations.keys() - images.keys()
    if unknown:
        image_id = min(unknown, key=str)
        raise DataError(
            f"{shown(image_id)} is not an image of this file",
            path=path,
            line=annotations[image_id][0].row,
            field="annotations.image_id",
        )
    folder = path.stem.removeprefix("instances_").removeprefix("coco_")
    finder = ImageFinder.of(request, _guesses(path, folder), subfolders=(folder, f"coco/{folder}"))

    kind = task_class(request.task)

    def to_rows(image: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        found = annotations.get(image["id"], [])
        for item in found:
            if item.error is not None:
                raise item.error
        crowds = {item.label for item in found if item.box is None}
        if crowds and options.crowd == "drop":
            return
        file, size = finder.find(image["file_name"], where), (image["width"], image["height"])
        own = entry_size({}, file, where) if options.sizes == "image" else size
        base = {"image": file, "width": own[0], "height": own[1]}
        objects = [
            (item.label, _scaled(_inside(item.box, size, Where(path, item.row)), size, own))
            for item in found
            if item.box is not None and item.label in is_wanted
        ]
        stem = Path(image["file_name"]).stem
        if kind.asks_categories:
            nothing = options.empty and (not found or options.crowd == "keep")
            if (objects or nothing) and _within(len(objects), options):
                boxes, labels = [box for _, box in objects], [label for label, _ in objects]
                yield {**base, "id": stem, "boxes": boxes, "labels": labels, "categories": wanted}
            return
        by_label: dict[str, list[list[float]]] = defaultdict(list)
        for label, box in objects:
            by_label[label].append(box)
        for label in (name for name in wanted if name in by_label and name not in crowds):
            boxes = by_label[label]
            row = {**base, "id": f"{stem}-{label}", "boxes": boxes, "labels": [label] * len(boxes)}
            if kind.matches_many and _within(len(boxes), options):
                yield {**row, "question": label}
            elif not kind.matches_many and len(boxes) == 1:
                yield {**row, "question": f"the {label}"}

    names = {"image": "images.file_name", "width": "images.width", "height": "images.height"}
    return Opened(path, [(image["_row"], image) for image in images.values()], to_rows, names)


def _inside(corners: list[float], size: Size, where: Where) -> XYXY:
    """The box, clipped; an error shows it as the file writes it."""
    try:
        return fields.box(corners, size, where)
    except DataError:
        x1, y1, x2, y2 = corners
        bbox = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
        corner_form = bbox[2] <= size[0] + 1 and bbox[3] <= size[1] + 1 and bbox[0] < bbox[2] and bbox[1] < bbox[3]
        hint = "are these corners x1, y1, x2, y2?" if corner_form else "is it normalised, or of a resized image?"
        raise where.error(
            f"{shown(bbox)} lies outside its image of {size[0]} × {size[1]} pixels (expected [x, y, width, height] in "
            f"pixels of the original image; {hint})",
            "annotations.bbox",
        ) from None


def _scaled(box: XYXY, size: Size, own: Size) -> list[float]:
    if own == size:
        return list(box)
    return [round(value * new / old, 3) for value, old, new in zip(box, size * 2, own * 2, strict=True)]


def _within(n_objects: int, options: CocoOptions) -> bool:
    return options.min_count <= n_objects and (options.max_count is None or n_objects <= options.max_count)


def _annotation_file(request: Request) -> Path:
    path = request.path
    if not path.is_dir():
        request.no_split("coco")
        return existing_file(path, "COCO file")
    files = sorted(item for folder in (path, path / "annotations") for item in folder.glob("instances_*.json"))
    if request.split is not None:
        files = [item for item in files if item.stem.removeprefix("instances_").startswith(request.split)]
    if len(files) != 1:
        found = ", ".join(item.name for item in files) or "none"
        raise DataError(
            f"expected one instances_….json (split: {request.split}) in this folder, found {found}", path=path
        )
    return files[0]


def _guesses(path: Path, folder: str) -> Iterator[Path]:
    for parent in path.absolute().parents[:3]:  # PR1's layout is jsons/detection/….json beside images/coco/
        for name in (folder, f"images/{folder}", f"images/coco/{folder}", "images"):
            yield parent / name
    yield path.parent


def _rows(value: Any, path: Path, name: str) -> Iterator[tuple[int, Where, Mapping[str, Any]]]:
    if not isinstance(value, list):
        raise DataError(f"{shown(value)} is not a list", path=path, field=name)
    for row, item in enumerate(value, start=1):
        where = Where(path, row)
        if not isinstance(item, dict):
            raise where.error(f"{shown(item)} is not an object", name)
        yield row, where, item


def _named(where: Where, section: str) -> Where:
    """``where`` for a section: its fields are shown as "annotations.bbox"."""
    keys = ("id", "name", "image_id", "category_id", "bbox", "width", "height", "file_name")
    return Where(where.path, where.line, {key: f"{section}.{key}" for key in keys})


def _categories(value: Any, path: Path) -> dict[Any, str]:
    found = {}
    for _, where, item in _rows(value, path, "categories"):
        where = _named(where, "categories")
        identity = fields.require(item, "id", where, "a number")
        found[identity] = fields.text(fields.require(item, "name", where, "a label"), where, "name").strip()
    return found


def _images(value: Any, path: Path) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for row, where, item in _rows(value, path, "images"):
        where = _named(where, "images")
        identity = fields.require(item, "id", where, "a number")
        if identity in found:
            raise where.error(f"{shown(identity)} is already the id of row {found[identity]['_row']}", "id")
        name = fields.text(fields.require(item, "file_name", where, "a file name"), where, "file_name")
        size = {
            side: fields.integer(fields.require(item, side, where, "pixels"), where, side, minimum=1)
            for side in ("width", "height")
        }
        found[identity] = {"id": identity, "file_name": name, **size, "_row": row}
    return found


def _annotations(value: Any, categories: dict[Any, str], path: Path, request: Request) -> dict[Any, list[_Annotation]]:
    found: dict[Any, list[_Annotation]] = defaultdict(list)
    n_crowds = n_flat = 0
    for row, where, item in _rows(value, path, "annotations"):
        where = _named(where, "annotations")
        image_id = fields.require(item, "image_id", where, "the id of an image")
        try:
            annotation = _annotation(item, row, where, categories)
        except DataError as error:
            if request.on_error == "raise" and request.on_bad is None:
                raise
            annotation = _Annotation(row, "", None, error)  # its image is left out: what else it shows is not known
        box = annotation.box
        n_crowds += box is None and annotation.error is None
        if box is not None and (box[0] == box[2] or box[1] == box[3]):
            n_flat += 1  # the official train2017 file has such boxes; nothing can match them
            continue
        found[image_id].append(annotation)
    if n_crowds:
        request.note(f"crowd boxes are not objects: {n_crowds} left out, with their image's rows for that category")
    if n_flat:
        request.note(f"{n_flat} boxes without area left out")
    return found


def _annotation(item: Mapping[str, Any], row: int, where: Where, categories: dict[Any, str]) -> _Annotation:
    category_id = fields.require(item, "category_id", where, "the id of a category")
    if category_id not in categories:
        raise where.error(f"{shown(category_id)} is not a category of this file", "category_id")
    label = categories[category_id]
    if item.get("iscrowd"):
        return _Annotation(row, label, None)
    bbox = fields.require(item, "bbox", where, "[x, y, width, height]")
    if not fields.is_list(bbox) or len(bbox) != 4:
        raise where.error(f"{shown(bbox)} is not a box (expected [x, y, width, height] in pixels)", "bbox")
    x, y, width, height = (fields.number(number, where, "bbox", "[x, y, width, height]") for number in bbox)
    if width < 0 or height < 0:
        raise where.error(f"{shown(bbox)} has a negative side (expected [x, y, width, height] in pixels)", "bbox")
    # sums of decimals such as 31.02 + 324.12 leave 355.14000000000004; a thousandth of a pixel is plenty
    return _Annotation(row, label, [round(x, 3), round(y, 3), round(x + width, 3), round(y + height, 3)])
