"""Fox page OCR (``en_page_ocr.json``, ``cn_page_ocr.json``): LLaVA-style conversations, one page a record.

The files are those of the benchmark (Liu et al., arXiv 2405.14295): ``image`` is a name in ``en_pdf_png`` or
``cn_pdf_png``, the first human turn asks, the answer after it is the page's text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_r1.data import fields
from perception_r1.data.conversation import bare_question, question_and_answer
from perception_r1.data.fields import Where
from perception_r1.data.files import read_records
from perception_r1.data.reading import ImageFinder, Opened, Request, parse_options

TASKS = ("ocr",)
SPLITS = {"en": "en_page_ocr.json", "zh": "cn_page_ocr.json", "cn": "cn_page_ocr.json"}


@dataclass(frozen=True)
class FoxOptions:
    """The source has no options."""


def open_fox(request: Request) -> Opened:
    """Opens a conversations file, or the benchmark's folder with ``split`` "en" or "zh"."""
    parse_options(FoxOptions, request.options, "fox")
    path = request.path
    if path.is_dir():
        path = path / SPLITS.get(request.split or "en", f"{request.split}_page_ocr.json")
    else:
        request.no_split("fox")
    records = read_records(path)
    folder = f"{path.name.split('_')[0]}_pdf_png"
    above = path.absolute().parents[:3]  # PR1's layout is jsons/ocr/….json beside images/ocr/
    guesses = (
        above[0] / folder,
        *(item / "images" / inner / folder for item in above for inner in ("", "ocr")),
        above[0],
    )
    finder = ImageFinder.of(request, guesses, subfolders=(folder, f"ocr/{folder}"))

    def to_rows(record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        name = fields.text(fields.require(record, "image", where, "a file name"), where, "image")
        question, answer = question_and_answer(record, where)
        identity = record.get("id")
        yield {
            "id": Path(name).stem if identity is None else identity,
            "image": finder.find(name, where),
            "question": bare_question(question, "ocr"),
            "text": answer,
        }

    return Opened(path, records, to_rows, {"text": "conversations", "question": "conversations"})
