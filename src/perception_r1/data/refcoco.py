"""RefCOCO, RefCOCO+ and RefCOCOg in their official form: ``refs(unc|google|umd).p`` beside ``instances.json``.

A refs file is a Python pickle, which can run any program when it is loaded. It is read by an unpickler that knows no
names at all, so that only lists, dictionaries, strings and numbers can come out; anything else is refused unread.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from perception_r1.data import fields
from perception_r1.data.fields import Where, shown
from perception_r1.data.files import existing_file, read_json
from perception_r1.data.reading import ImageFinder, Opened, Request, parse_options
from perception_r1.errors import DataError

TASKS = ("grounding",)
NAMES = {"image": "image_id", "question": "sentences.sent", "boxes": "ann_id"}

_FOLDERS = ("train2014", "coco/train2014", "images/train2014", "images/mscoco/images/train2014", "train2017")


@dataclass(frozen=True)
class RefCocoOptions:
    """Options of the source.

    Attributes:
        split_by: which refs file of a folder, where there are several.
        sentences: "all" gives a row a sentence, as the benchmark counts them; "first" a row an object.
        instances: path of the instances file, where it is not beside the refs file.
    """

    split_by: Literal["unc", "google", "umd"] | None = None
    sentences: Literal["all", "first"] = "all"
    instances: str | None = None


def open_refcoco(request: Request) -> Opened:
    """Opens a refs file, or the folder of one; ``split`` is train, val, test, testA or testB (default: everything)."""
    options = parse_options(RefCocoOptions, request.options, "refcoco")
    path = _refs_file(request.path, options.split_by)
    refs = plain_unpickle(path)
    if not isinstance(refs, list) or not refs:
        raise DataError("holds no list of references (expected the official refs file)", path=path)
    boxes, images = _instances(Path(options.instances) if options.instances else path.parent / "instances.json")
    entries = [(row, ref) for row, ref in enumerate(refs, start=1)]
    for row, ref in entries:
        if not isinstance(ref, dict):
            raise DataError(f"{shown(ref)} is not a reference (expected a dictionary)", path=path, line=row)
    if request.split is not None:
        splits = Counter(str(ref.get("split")) for _, ref in entries)
        if request.split not in splits:
            known = ", ".join(f"{name} ({number})" for name, number in sorted(splits.items()))
            raise DataError(f"has no split {request.split!r} (it has: {known})", path=path)
        entries = [(row, ref) for row, ref in entries if ref.get("split") == request.split]
    finder = ImageFinder.of(request, _guesses(path), subfolders=_FOLDERS)

    def to_rows(ref: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        ann_id = fields.require(ref, "ann_id", where, "the id of an annotation")
        image_id = fields.require(ref, "image_id", where, "the id of an image")
        if ann_id not in boxes:
            raise where.error(f"{shown(ann_id)} is not an annotation of instances.json", "ann_id")
        if image_id not in images:
            raise where.error(f"{shown(image_id)} is not an image of instances.json", "image_id")
        image = images[image_id]
        found = finder.find(str(image["file_name"]), where)
        sentences = fields.require(ref, "sentences", where, "a list of sentences")
        if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
            raise where.error(f"{shown(sentences)} is not a list of sentences", "sentences")
        for number, sentence in enumerate(sentences[: 1 if options.sentences == "first" else None]):
            yield {
                "id": f"{ref.get('ref_id', ann_id)}-{sentence.get('sent_id', number)}",
                "image": found,
                "width": image.get("width"),
                "height": image.get("height"),
                "question": sentence.get("sent"),
                "boxes": [boxes[ann_id]],
            }

    return Opened(path, entries, to_rows, NAMES)


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain containers only: every name that a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for an object outside the file")


def plain_unpickle(path: Path) -> Any:
    """What a pickle of plain containers holds; nothing in it is ever imported or called.

    Raises:
        DataError: the pickle asks for anything but lists, dictionaries, strings and numbers, or is broken.
    """
    content = existing_file(path, "refs file").read_bytes()
    try:
        # the official files were written by Python 2, whose byte strings hold latin-1 text
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"refused, {reason} (a refs file holds plain lists, dictionaries, strings, numbers; get the official one)",
            path=path,
        ) from None
    except Exception as error:  # a broken pickle may raise anything, and none of it is our own
        raise DataError(f"is not a readable pickle ({type(error).__name__}: {error})", path=path) from None


def _refs_file(path: Path, split_by: str | None) -> Path:
    if not path.is_dir():
        return existing_file(path, "refs file")
    pattern = f"refs({split_by}).p" if split_by else "refs(*).p"
    files = sorted(path.glob(pattern))
    if len(files) != 1:
        found = ", ".join(item.name for item in files) or "none"
        raise DataError(
            f"expected one {pattern} in this folder, found {found} (choose with the option 'split_by')", path=path
        )
    return files[0]


def _instances(path: Path) -> tuple[dict[Any, list[float]], dict[Any, dict[str, Any]]]:
    document = read_json(existing_file(path, "instances file"))
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise DataError("is not a COCO file (expected an object with images and annotations)", path=path)
    boxes: dict[Any, list[float]] = {}
    for row, item in enumerate(document["annotations"], start=1):
        where = Where(path, row, {"bbox": "annotations.bbox", "id": "annotations.id"})
        bbox = fields.require(item, "bbox", where, "[x, y, width, height]")
        if not fields.is_list(bbox) or len(bbox) != 4:
            raise where.error(f"{shown(bbox)} is not a box (expected [x, y, width, height] in pixels)", "bbox")
        x, y, width, height = (fields.number(number, where, "bbox", "[x, y, width, height]") for number in bbox)
        boxes[fields.require(item, "id", where, "a number")] = [
            round(x, 3),
            round(y, 3),
            round(x + width, 3),
            round(y + height, 3),
        ]
    images = {}
    for row, item in enumerate(document["images"], start=1):
        where = Where(path, row, {"file_name": "images.file_name", "id": "images.id"})
        fields.text(fields.require(item, "file_name", where, "a file name"), where, "file_name")
        images[fields.require(item, "id", where, "a number")] = item
    return boxes, images


def _guesses(path: Path) -> Iterator[Path]:
    for parent in (path.parent, path.parent.parent, path.parent.parent.parent):
        for name in (*_FOLDERS, "images"):
            yield parent / name
    yield path.parent
