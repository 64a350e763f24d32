"""Files of canonical rows: one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from perception_r1.data.fields import Where, shown
from perception_r1.data.files import atomic_write, broken_json, existing_file, track
from perception_r1.data.row import row_from_sample, sample_from_row
from perception_r1.errors import DataError
from perception_r1.tasks import TASKS
from perception_r1.types import Sample

OnError = Literal["raise"] | Callable[[DataError], None]


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
                    path=path,
                    line=line,
                    task=task,
                    images=images,
                    check_image=check_images,
                )
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
    lacking = [sample for sample in samples if TASKS[sample.task].asks_categories and not sample.categories]
    everything: tuple[str, ...] = ()
    if lacking:
        labels = {label for sample in samples for label in getattr(sample.target, "labels", ())}
        everything = tuple(sorted(labels.union(*(sample.categories for sample in samples))))
    done = []
    for sample in samples:
        categories = sample.categories or (everything if TASKS[sample.task].asks_categories else ())
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
