"""Hugging Face data sets: folders that ``Dataset.save_to_disk`` wrote, and parquet files.

Columns with our own names are taken as they are; others are mapped by the option ``columns``. Images that are stored
inside the table are written to a folder once, under their content's hash, since samples hold paths.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception_r1 import tasks
from perception_r1.data import fields
from perception_r1.data.fields import Where, shown
from perception_r1.data.files import atomic_write, read_parquet
from perception_r1.data.reading import Entry, ImageFinder, Opened, Request, entry_size, parse_options
from perception_r1.errors import DataError
from perception_r1.tasks import task_class

TASKS = tuple(tasks.TASKS)
ROW_FIELDS = (
    "id",
    "image",
    "question",
    "width",
    "height",
    "categories",
    "boxes",
    "labels",
    "points",
    "count",
    "text",
    "answer",
    "visual_annotations",
)
_SUFFIXES = {  # by the first two bytes
    b"\xff\xd8": ".jpg",
    b"\x89P": ".png",
    b"RI": ".webp",
    b"GI": ".gif",
    b"II": ".tif",
    b"MM": ".tif",
    b"BM": ".bmp",
}


@dataclass(frozen=True)
class HfOptions:
    """Options of the source.

    Attributes:
        columns: our field → the table's column; a dot goes inside a struct ("objects.bbox").
        box_format: "xyxy" or COCO's "xywh".
        coordinates: pixels of the image, or 0..1000 or 0..1 of either side.
        label_names: names of labels that are stored as numbers, by number.
        categories: labels that may be asked for (detection); default ``label_names``, else all labels of the file.
        cache: folder for images that are stored inside the table.
    """

    columns: dict[str, str] | None = None
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    coordinates: Literal["pixels", "norm1000", "unit"] = "pixels"
    label_names: list[str] | None = None
    categories: list[str] | None = None
    cache: str | None = None


def open_hf(request: Request) -> Opened:
    """Opens a saved data set, a parquet file, or a folder of parquet files (``split`` chooses among either)."""
    options = parse_options(HfOptions, request.options, "hf")
    columns = {name: name for name in ROW_FIELDS} | (options.columns or {})
    for name in options.columns or {}:
        if name not in ROW_FIELDS:
            known = ", ".join(ROW_FIELDS)
            raise DataError(
                f"option 'columns': we have no field {name!r}{fields.did_you_mean(name, ROW_FIELDS)} (known: {known})"
            )
    entries = read_table(request)
    first = entries[0][1]
    for name, column in (options.columns or {}).items():
        if column.split(".")[0] not in first:
            hint = fields.did_you_mean(column, first)
            raise DataError(
                f"has no column {column!r}{hint} (it has: {', '.join(first)})", path=request.path, field=name
            )
    folder = request.path if request.path.is_dir() else request.path.parent
    finder = ImageFinder.of(request, (folder, folder / "images"))

    def to_rows(record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        row = {name: value for name, column in columns.items() if (value := _inside(record, column)) is not None}
        if isinstance(row.get("id"), float) or "id" not in row:
            row["id"] = str(where.line)
        row["image"] = stored_image(row.get("image"), where, finder, options.cache)
        if options.label_names and fields.is_list(row.get("labels")):
            row["labels"] = [_label(item, options.label_names, where) for item in row["labels"]]
        if task_class(request.task).asks_categories and (options.categories or options.label_names):
            row["categories"] = options.categories or options.label_names
        if fields.is_list(row.get("boxes")) and row["boxes"] and not fields.is_list(row["boxes"][0]):
            row["boxes"] = [row["boxes"]]  # one box a row, as grounding sets store it
        for name in ("boxes", "points"):
            if fields.is_list(row.get(name)) and (options.coordinates != "pixels" or options.box_format != "xyxy"):
                size = entry_size(row, row["image"], where)
                row[name] = [_pixels(item, size, options, where, name) for item in row[name]]
        yield row

    return Opened(request.path, entries, to_rows, columns)


def read_table(request: Request) -> Sequence[Entry]:
    """Rows of a saved data set or of parquet, numbered from 1; images inside stay undecoded.

    Raises:
        DataError: nothing readable there, or no such split.
    """
    path, split = request.path, request.split
    if path.is_dir() and any(
        (path / name).exists() for name in ("dataset_dict.json", "state.json", "dataset_info.json")
    ):
        return _Saved(path, split)
    if path.is_file():
        request.no_split("hf")
        return list(enumerate(read_parquet(path), start=1))
    files = sorted(item for item in path.rglob("*.parquet") if split is None or _split_of(item) == split)
    if not files:
        splits = ", ".join(sorted({_split_of(item) for item in path.rglob("*.parquet")})) or "nothing"
        wanted = "parquet files" if split is None else f"parquet files of split {split!r}"
        raise DataError(f"found no {wanted} and no saved data set (found: {splits})", path=path)
    return list(enumerate((row for item in files for row in read_parquet(item)), start=1))


def stored_image(value: Any, where: Where, finder: ImageFinder, cache: str | None = None) -> str:
    """Path of an image: the one named, or, for bytes, a file in the cache folder that is written when absent."""
    if isinstance(value, Mapping):
        content, name = value.get("bytes"), value.get("path")
    else:
        content, name = (value, None) if isinstance(value, (bytes, bytearray)) else (None, value)
    if content is None:
        return finder.find(fields.text(name, where, "image"), where) if name is not None else _no_image(where)
    content = bytes(content)
    suffix = _SUFFIXES.get(content[:2])
    if suffix is None:
        raise where.error("holds bytes that are no image of a known kind (JPEG, PNG, WebP, GIF, TIFF, BMP)", "image")
    folder = Path(cache) if cache else default_cache()
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.exists():
        with atomic_write(path, "wb") as stream:
            stream.write(content)
    return os.path.abspath(path)  # noqa: PTH100  # as everywhere: links are not followed


def default_cache() -> Path:
    """Where images from inside tables go unless told otherwise: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception-r1" / "images"


class _Saved(Sequence[Entry]):
    """A data set saved by ``datasets``, read row by row: its images may not fit into memory together."""

    def __init__(self, path: Path, split: str | None) -> None:
        try:
            import datasets
        except ModuleNotFoundError:
            raise DataError("needs the datasets library (pip install 'perception-r1[train]')", path=path) from None
        try:
            table = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"is not a saved data set: {' '.join(str(error).split())}", path=path) from None
        if isinstance(table, datasets.DatasetDict):
            known = ", ".join(f"{name} ({len(part)})" for name, part in table.items())
            if split is None and len(table) > 1:
                raise DataError(f"has several splits (choose one with split: {known})", path=path)
            if split is not None and split not in table:
                raise DataError(f"has no split {split!r} (it has: {known})", path=path)
            table = table[split or next(iter(table))]
        elif split is not None:
            raise DataError(f"has no splits (remove 'split: {split}')", path=path)
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
        if not len(table):
            raise DataError("the data set has no rows", path=path)
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return index + 1, dict(self._table[index])


def _split_of(path: Path) -> str:
    """The "validation" of Hugging Face's "data/validation-00000-of-00001.parquet"."""
    return path.stem.split("-")[0]


def _inside(record: Mapping[str, Any], column: str) -> Any:
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _no_image(where: Where) -> str:
    raise where.error("is missing (map the column with the option 'columns')", "image")


def _label(value: Any, names: Sequence[str], where: Where) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if not 0 <= value < len(names):
        raise where.error(f"{value} has no name (label_names has {len(names)})", "labels")
    return names[value]


def _pixels(item: Any, size: tuple[int, int], options: HfOptions, where: Where, name: str) -> Any:
    if isinstance(item, Mapping) and {"x", "y"} <= item.keys():
        item = [item["x"], item["y"]]
    if not fields.is_list(item) or len(item) not in {2, 4}:
        raise where.error(f"{shown(item)} is neither a box nor a point", name)
    numbers = [fields.number(value, where, name) for value in item]
    if len(numbers) == 4 and options.box_format == "xywh":
        numbers = [numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]]
    per = {"pixels": None, "norm1000": 1000.0, "unit": 1.0}[options.coordinates]
    if per is None:
        return [round(value, 3) for value in numbers]
    return [round(value * side / per, 3) for value, side in zip(numbers, size * 2, strict=False)]
