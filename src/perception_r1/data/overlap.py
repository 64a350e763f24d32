"""Images that a training set shares with an evaluation set.

RefCOCO, RefCOCO+ and RefCOCOg are drawn from the same images of COCO, and the validation images of one are training
images of another; COCO's 2014 and 2017 releases hold the same images under other names and in other splits.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perception_r1.data.images import image_size
from perception_r1.errors import DataError
from perception_r1.types import Sample

# COCO_train2014_000000581857.jpg, 000000581857.jpg, and the refs files' COCO_train2014_000000581857_16.jpg
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")


@dataclass(frozen=True)
class SharedImage:
    """One image in both sets: its paths, the ids of the samples that use it, and how it was recognised.

    ``by``: "path" the same file; "coco id" the number in a COCO file name; "content" equal bytes; "name" the same file
    name with pixels of the same size (files that can be read), or merely the same name (files that are not there).
    """

    image_a: str
    image_b: str
    ids_a: tuple[str, ...]
    ids_b: tuple[str, ...]
    by: Literal["path", "coco id", "content", "name"]


def overlap(a: Iterable[Sample], b: Iterable[Sample]) -> list[SharedImage]:
    """Images shared between ``a`` (training) and ``b`` (evaluation), each pair of files once, in the order of ``a``."""
    images_a, images_b = _by_image(a), _by_image(b)
    coco_b: dict[int, str] = {}
    stem_b: dict[str, str] = {}
    for image in images_b:
        number = coco_id(image)
        if number is not None:
            coco_b.setdefault(number, image)
        stem_b.setdefault(Path(image).stem.lower(), image)
    contents = _Contents(images_b)
    shared = []
    for image, ids in images_a.items():
        number, stem = coco_id(image), Path(image).stem.lower()
        found: tuple[str, Literal["path", "coco id", "content", "name"]] | None = None
        if image in images_b:
            found = image, "path"
        elif number is not None and number in coco_b:
            found = coco_b[number], "coco id"
        elif (same := contents.find(image)) is not None:
            found = same, "content"
        elif number is None and stem in stem_b and _may_be_same(image, stem_b[stem]):
            found = stem_b[stem], "name"
        if found is not None:
            shared.append(SharedImage(image, found[0], tuple(ids), tuple(images_b[found[0]]), found[1]))
    return shared


def coco_id(image: str) -> int | None:
    """The COCO image id in a file name, None where there is none.

    Example:
        >>> coco_id("train2014/COCO_train2014_000000123456.jpg"), coco_id("val/000000123456.jpg"), coco_id("dog.jpg")
        (123456, 123456, None)
    """
    found = _COCO.fullmatch(Path(image).stem)
    return int(found.group(1)) if found else None


def _by_image(samples: Iterable[Sample]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.image is not None:
            found[sample.image].append(sample.id)
    return found


class _Contents:
    """Finds a file of equal bytes among many, hashing only those of equal length."""

    def __init__(self, images: Iterable[str]) -> None:
        self._by_length: dict[int, list[str]] = defaultdict(list)
        self._hashes: dict[str, str] = {}
        for image in images:
            length = _length(image)
            if length is not None:
                self._by_length[length].append(image)

    def find(self, image: str) -> str | None:
        length = _length(image)
        candidates = self._by_length.get(length, []) if length is not None else []
        return next((item for item in candidates if self._hash(item) == self._hash(image)), None)

    def _hash(self, image: str) -> str:
        if image not in self._hashes:
            with Path(image).open("rb") as stream:
                self._hashes[image] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._hashes[image]


def _length(image: str) -> int | None:
    try:
        return Path(image).stat().st_size
    except OSError:
        return None


def _may_be_same(image: str, other: str) -> bool:
    """Two names that agree may still be a coincidence ("1.jpg"): sizes that differ say so. Unreadable: maybe."""
    try:
        return image_size(image) == image_size(other)
    except DataError:
        return True
