"""What the readers of foreign formats share.

A reader turns its file into an ``Opened``: raw entries with their row numbers, and a function from one entry to
canonical rows. ``collect`` then validates every row in the one place where rows are validated (``rows``), names
duplicates apart, and applies the two options that every format takes: ``missing`` (what to do about images that are
not there) and ``on_error`` (what to do about bad rows).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from perception_r1.data.fields import MissingImageError, Where, did_you_mean, shown
from perception_r1.data.files import track
from perception_r1.data.images import image_size
from perception_r1.data.jsonl import with_categories
from perception_r1.data.row import sample_from_row
from perception_r1.errors import DataError
from perception_r1.types import Sample, Size

MISSING = ("error", "skip", "keep")
ON_ERROR = ("raise", "skip")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}

OptionsT = TypeVar("OptionsT")
Entry = tuple[int, Any]


@dataclass(frozen=True)
class Request:
    """What is asked of a reader.

    ``images`` is the root folder given by the user (None: the reader's own guess). ``note`` is told, in a sentence,
    what was left out or assumed. ``on_bad`` is told every bad row and missing image (a check names them all), instead
    of what ``missing`` and ``on_error`` say.
    """

    path: Path
    task: str
    images: Path | None = None
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: str = "error"
    on_error: str = "raise"
    note: Callable[[str], None] = lambda sentence: None
    on_bad: Callable[[DataError], None] | None = None

    def no_split(self, source: str) -> None:
        """Refuses a split where the format has none."""
        if self.split is not None:
            raise DataError(f"source {source!r} has no splits (remove 'split: {self.split}')", path=self.path)


@dataclass(frozen=True)
class Opened:
    """An opened source; ``names`` maps our field names to the format's own, for messages."""

    path: Path
    entries: Sequence[Entry]
    to_rows: Callable[[Any, Where], Iterable[dict[str, Any]]]
    names: Mapping[str, str] = field(default_factory=dict)


def collect(opened: Opened, request: Request) -> list[Sample]:
    """All samples of an opened source.

    Raises:
        DataError: a bad row (unless ``on_error`` is "skip"), a missing image (unless ``missing`` allows it), or
            nothing left.
    """
    samples: list[Sample] = []
    skipped: list[DataError] = []
    n_missing = 0
    for line, raw in track(opened.entries, total=len(opened.entries), label=f"reading {opened.path.name}"):
        where = Where(opened.path, line, opened.names)
        try:
            found = [
                sample_from_row(
                    row,
                    path=opened.path,
                    line=line,
                    task=request.task,
                    check_image=request.missing != "keep" or os.path.exists(row["image"]),  # noqa: PTH110
                    names=opened.names,
                )
                for row in opened.to_rows(raw, where)
            ]
        except DataError as error:
            if request.on_bad is not None:
                request.on_bad(error)
                continue
            if isinstance(error, MissingImageError):
                if request.missing == "error":
                    raise
                n_missing += 1
                continue
            if request.on_error == "raise":
                raise
            skipped.append(error)
        else:
            samples.extend(found)
    if n_missing:
        request.note(f"entries left out because their image is missing: {n_missing}")
    if skipped:
        request.note(f"bad entries left out: {len(skipped)}; the first: {skipped[0]}")
    if not samples and request.on_bad is None:
        reason = (
            f"{n_missing} images are missing, {len(skipped)} entries are bad" if n_missing or skipped else "none fit"
        )
        raise DataError(f"no rows for task {request.task!r} ({reason})", path=opened.path)
    return with_categories(unique_ids(samples))


def unique_ids(samples: list[Sample]) -> list[Sample]:
    """``samples`` where a repeated id gets "~2", "~3", … appended: foreign formats do not promise unique ids."""
    taken = Counter(sample.id for sample in samples)
    if len(taken) == len(samples):
        return samples
    seen: Counter[str] = Counter()
    done = []
    for sample in samples:
        seen[sample.id] += 1
        if seen[sample.id] > 1:
            number = seen[sample.id]
            while f"{sample.id}~{number}" in taken:
                number += 1
            taken[f"{sample.id}~{number}"] += 1
            sample = replace(sample, id=f"{sample.id}~{number}")
        done.append(sample)
    return done


def parse_options(kind: type[OptionsT], options: Mapping[str, Any], source: str) -> OptionsT:
    """``options`` as the frozen dataclass ``kind``; an unknown option or a value of the wrong kind is an error."""
    hints = get_type_hints(kind)
    hints = {item.name: hints[item.name] for item in dataclass_fields(kind)}  # type: ignore[arg-type]
    for name, value in options.items():
        if name not in hints:
            known = ", ".join(hints) or "none"
            raise DataError(f"source {source!r} has no option {name!r}{did_you_mean(name, hints)} (it has: {known})")
        allowed = _alternatives(hints[name])
        choices = [item for item in allowed if isinstance(item, str)]
        kinds = tuple(item for item in allowed if isinstance(item, type))
        is_kind = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
        good = (isinstance(value, str) and value in choices) or is_kind
        if not good:
            names = [item.__name__ for item in kinds if item is not type(None)]
            expected = " or ".join(choices + names)
            raise DataError(f"option {name!r} of source {source!r} is {shown(value)} (expected {expected})")
    return kind(**options)


def _alternatives(hint: Any) -> list[Any]:
    """The types and literal strings that a type hint allows: ``Literal["a", "b"] | None`` → "a", "b", NoneType."""
    origin = get_origin(hint)
    if origin is None:
        return [hint]
    if origin in {Literal, Union, UnionType}:
        return [found for item in get_args(hint) for found in _alternatives(item)]
    return [origin]


@dataclass(frozen=True)
class ImageFinder:
    """Finds the files of images under one of several root folders.

    A name is tried as it stands, then by its last part, then without COCO's "COCO_train2014_" prefix (the images of
    the 2014 and 2017 releases are the same files under two names), then with the endings of images.
    """

    roots: tuple[Path, ...]
    keep_missing: bool = False

    PREFIXES: ClassVar[tuple[str, ...]] = ("COCO_train2014_", "COCO_val2014_", "COCO_test2014_", "COCO_test2015_")

    @classmethod
    def of(cls, request: Request, guesses: Iterable[Path], subfolders: Iterable[str] = ()) -> ImageFinder:
        """The user's root (with those of ``subfolders`` that it has), or else those of ``guesses`` that exist."""
        if request.images is not None:
            if not request.images.is_dir():
                raise DataError("no such folder of images (correct --images)", path=request.images)
            inner = (request.images / name for name in subfolders)
            roots: tuple[Path, ...] = (request.images, *(folder for folder in inner if folder.is_dir()))
        else:
            roots = tuple(dict.fromkeys(guess for guess in guesses if guess.is_dir())) or (request.path.parent,)
        return cls(roots, keep_missing=request.missing == "keep")

    def find(self, name: str, where: Where, *others: str) -> str:
        """Absolute path of the image ``name`` (or of one of ``others``, further names of the same image).

        Raises:
            MissingImageError: it is nowhere (with ``keep_missing`` the first place is returned instead).
        """
        for candidate in (name, *others):
            tail = os.path.basename(candidate)  # noqa: PTH119  # here and below: Path is ten times slower
            short = next((tail.removeprefix(prefix) for prefix in self.PREFIXES if tail.startswith(prefix)), tail)
            for root in self.roots:
                for spelling in dict.fromkeys((candidate, tail, short)):
                    path = os.path.join(root, spelling)  # noqa: PTH118
                    if os.path.isfile(path):  # noqa: PTH113
                        return os.path.abspath(path)  # noqa: PTH100
            found = self._by_stem.get(os.path.splitext(tail)[0])  # noqa: PTH122
            if found is not None:
                return found
        if self.keep_missing:
            return os.path.abspath(self.roots[0] / name)  # noqa: PTH100
        roots = ", ".join(str(root) for root in self.roots[:3])
        raise where.error(
            f"{shown(name)} is not in {roots} (name the images' folder with --images)", "image", MissingImageError
        )

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        """Images of the root folders by their name without its ending; made at the first miss."""
        found: dict[str, str] = {}
        for root in self.roots:
            for entry in sorted(os.scandir(root), key=lambda entry: entry.name) if root.is_dir() else ():
                stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
                if suffix.lower() in _IMAGE_SUFFIXES:
                    found.setdefault(stem, os.path.abspath(entry.path))  # noqa: PTH100
        return found


def entry_size(row: Mapping[str, Any], image: str, where: Where) -> Size:
    """(width, height) that coordinates of a foreign row refer to: the row's own, else that of the image's header."""
    width, height = row.get("width"), row.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    try:
        return image_size(image)
    except DataError as error:
        raise where.error(f"{shown(image)}: {error.message}", "image") from None
