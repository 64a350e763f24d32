"""Geometry3K as rows: its own folders (``data.json``, ``logic_form.json``, ``img_diagram.png``) and parquet.

The parquet is the one that the visual perception reward's authors train on: ``images``, ``problem``, ``answer`` and
``visual_key_info``. Answers are values, not letters of a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception_r1.data import fields
from perception_r1.data.fields import Where
from perception_r1.data.files import read_json
from perception_r1.data.hf import read_table, stored_image
from perception_r1.data.logic_forms import facts_of
from perception_r1.data.reading import ImageFinder, Opened, Request, parse_options
from perception_r1.data.visual_info import COLUMN, read_infos
from perception_r1.errors import DataError

TASKS = ("geometry",)
_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Geometry3kOptions:
    """Options of the source.

    Attributes:
        facts: "auto" takes ``visual_key_info`` where there is one, else the diagram's logic forms; "none" leaves the
            rows without visual facts.
        picture: which of a folder's pictures: the plain one, or the one with all points named.
        cache: folder for images that are stored inside the table.
    """

    facts: Literal["auto", "none"] = "auto"
    picture: Literal["diagram", "points"] = "diagram"
    cache: str | None = None


def open_geometry3k(request: Request) -> Opened:
    """Opens a folder of problems (``train/0/data.json``, …; ``split`` chooses), a parquet file, or a saved data set."""
    options = parse_options(Geometry3kOptions, request.options, "geometry3k")
    path = request.path
    if path.is_dir():
        folder = path / request.split if request.split is not None and (path / request.split).is_dir() else path
        problems = sorted(folder.rglob("data.json"), key=_number)
        if problems:
            return _folders(path, problems, request, options)
    return _table(request, options)


def _folders(path: Path, problems: list[Path], request: Request, options: Geometry3kOptions) -> Opened:
    if request.split is not None and not (path / request.split).is_dir():
        problems = [item for item in problems if read_json(item).get("data_type") == request.split]
        if not problems:
            raise DataError(f"has no problems of split {request.split!r}", path=path)
    finder = ImageFinder.of(request, (path,))

    def to_rows(file: Path, where: Where) -> Iterator[dict[str, Any]]:
        where = Where(file, None, where.names)
        record = read_json(file)
        question = record.get("problem_text") or record.get("compact_text")
        row: dict[str, Any] = {"id": str(record.get("id", file.parent.name)), "question": question}
        row["answer"] = _chosen(record, where)
        name = "img_diagram.png" if options.picture == "diagram" else "img_diagram_point.png"
        row["image"] = finder.find(str((file.parent / name).absolute()), where)
        forms = file.parent / "logic_form.json"
        if options.facts == "auto" and forms.is_file():
            row["visual_annotations"] = list(facts_of(read_json(forms).get("diagram_logic_form") or ()))
        yield row

    return Opened(path, list(enumerate(problems, start=1)), to_rows, {"question": "problem_text"})


def _chosen(record: dict[str, Any], where: Where) -> str:
    """The value of the right choice."""
    letter, choices = record.get("answer"), record.get("choices")
    if isinstance(letter, str) and len(letter) == 1 and fields.is_list(choices):
        index = _LETTERS.find(letter.upper())
        if 0 <= index < len(choices):
            return fields.text(choices[index], where, "choices")
    raise where.error(f"{letter!r} is not one of its choices (expected A, B, C or D)", "answer")


def _table(request: Request, options: Geometry3kOptions) -> Opened:
    entries = read_table(request)
    folder = request.path if request.path.is_dir() else request.path.parent
    finder = ImageFinder.of(request, (folder, folder / "images"))

    def to_rows(record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        images = record.get("images") if record.get("images") is not None else record.get("image")
        if fields.is_list(images):
            if len(images) != 1:
                raise where.error(f"{len(images)} images (expected one a problem)", "images")
            images = images[0]
        problem = fields.text(fields.require(record, "problem", where, "the problem"), where, "problem")
        identity = record.get("id")
        row: dict[str, Any] = {
            "id": str(where.line if identity is None else identity),
            "question": problem.replace("<image>", "").strip(),
            "answer": fields.require(record, "answer", where, "the final answer"),
            "image": stored_image(images, where, finder, options.cache),
        }
        if options.facts == "auto" and record.get(COLUMN):
            row["visual_annotations"] = list(read_infos(fields.text(record[COLUMN], where, COLUMN)))
        yield row

    return Opened(request.path, entries, to_rows, {"question": "problem", "visual_annotations": COLUMN})


def _number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else 0, str(path))
