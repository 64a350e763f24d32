"""MathVista (Lu et al., arXiv 2310.02255): its ``testmini.json``, a table of problems by id, or its parquet.

Problems with choices are asked with them, and the answer is the choice's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perception_r1.data import fields
from perception_r1.data.fields import Where
from perception_r1.data.files import read_json
from perception_r1.data.hf import read_table, stored_image
from perception_r1.data.reading import ImageFinder, Opened, Request, parse_options
from perception_r1.errors import DataError

TASKS = ("geometry",)


@dataclass(frozen=True)
class MathvistaOptions:
    """Options of the source.

    Attributes:
        task: only problems of this task, such as "geometry problem solving".
        cache: folder for images that are stored inside the table.
    """

    task: str | None = None
    cache: str | None = None


def open_mathvista(request: Request) -> Opened:
    """Opens ``testmini.json`` (or ``test.json``), a parquet file, or a saved data set."""
    options = parse_options(MathvistaOptions, request.options, "mathvista")
    records: Any
    if request.path.suffix == ".json":
        request.no_split("mathvista")
        document = read_json(request.path)
        if not isinstance(document, dict):
            raise DataError('is not a table of problems by id (expected {"1": {"question": …}, …})', path=request.path)
        records = list(enumerate(document.values(), start=1))
    else:
        records = read_table(request)
    records = [(line, record) for line, record in records if _wanted(record, options.task)]
    if not records:
        raise DataError(f"has no problems of task {options.task!r}", path=request.path)
    parent = request.path.absolute().parent
    finder = ImageFinder.of(request, (parent, parent.parent))

    def to_rows(record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        image = record.get("decoded_image") if isinstance(record.get("decoded_image"), Mapping) else record.get("image")
        question = fields.text(fields.require(record, "question", where, "the problem"), where, "question")
        if fields.is_list(record.get("choices")) and record["choices"]:
            listed = "\n".join(f"({chr(65 + i)}) {choice}" for i, choice in enumerate(record["choices"]))
            question = f"{question}\nChoices:\n{listed}"
        yield {
            "id": str(record.get("pid", where.line)),
            "question": question,
            "answer": fields.require(record, "answer", where, "the final answer"),
            "image": stored_image(image, where, finder, options.cache),
        }

    return Opened(request.path, records, to_rows)


def _wanted(record: Any, task: str | None) -> bool:
    metadata = record.get("metadata") if isinstance(record, Mapping) else None
    return task is None or (isinstance(metadata, Mapping) and metadata.get("task") == task)
