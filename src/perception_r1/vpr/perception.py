"""The perception study of the paper: did each of two models read the picture rightly? Labelled blind, by a person.

``write_sheet`` makes one HTML file that opens from disk: picture, question and both responses, in random order and
without names. Its labels are saved as JSON and read back by ``read_labels``; ``study`` gives discordant pairs, the
exact two-sided p and the kinds of error.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write, read_json
from perception_r1.data.images import open_image
from perception_r1.errors import DataError
from perception_r1.stats import mcnemar_exact, mcnemar_midp
from perception_r1.vpr.steps import Row, read_rows

ERRORS = ("label or number misread", "wrong relation", "something missed", "something made up", "other")
"""Kinds of perception error to choose from."""

_MAX_SIDE = 900


@dataclass(frozen=True, slots=True)
class Study:
    """What the labels say. ``only_a``: pairs where only A read the picture rightly."""

    n: int
    a_right: int
    b_right: int
    both: int
    neither: int
    only_a: int
    only_b: int
    p: float
    p_mid: float
    errors_a: Mapping[str, int]
    errors_b: Mapping[str, int]
    unlabelled: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return asdict(self)


def pick(a: Sequence[Row], b: Sequence[Row], n: int, seed: int) -> list[tuple[Row, Row]]:
    """``n`` pairs of responses to the same sample (by ``id``), drawn at random.

    Raises:
        DataError: no sample is in both.
    """
    by_id = {str(row["id"]): row for row in b}
    shared = [(row, by_id[str(row["id"])]) for row in a if str(row["id"]) in by_id]
    if not shared:
        raise DataError("the two files have no id in common")
    random.Random(seed).shuffle(shared)
    return shared[:n]


def read_responses(path: Path) -> list[Row]:
    """Rows with ``id``, ``response``, and ``question`` and ``image`` where known (``samples.jsonl`` has them).

    Raises:
        DataError: naming file, line and field.
    """
    file = path / "samples.jsonl" if path.is_dir() else path
    rows = read_rows(file, needs=("id", "response"))
    for row in rows:
        image = row.get("image")
        if isinstance(image, str) and image and not Path(image).is_absolute():
            row["image"] = str(file.parent / image)
    return rows


def write_sheet(
    pairs: Sequence[tuple[Row, Row]], out: Path, *, seed: int, title: str = "What does the picture show?"
) -> str:
    """Write the sheet and return its key: which side is A is decided by the seed and never written into the page.

    Raises:
        DataError: a picture cannot be read.
    """
    items: list[dict[str, Any]] = []
    for index, (a, b) in enumerate(pairs):
        sides = [a, b] if not swapped(seed, str(a["id"])) else [b, a]
        items.append(
            {
                "number": index + 1,
                "id": str(a["id"]),
                "image": _data_address(a.get("image") or b.get("image")),
                "question": str(a.get("question") or b.get("question") or ""),
                "responses": [str(side["response"]) for side in sides],
            }
        )
    template = (files("perception_r1") / "assets" / "vpr" / "sheet.html").read_text(encoding="utf-8")
    key = sheet_key(pairs, seed)
    page = (
        template.replace("@TITLE@", html.escape(title))
        .replace("@KEY@", key)
        .replace("@ERRORS@", _script_json(ERRORS))
        .replace("@ITEMS@", _script_json(items))
    )
    with atomic_write(out) as stream:
        stream.write(page)
    return key


def read_labels(path: Path, pairs: Sequence[tuple[Row, Row]], *, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Labels by sample and model: ``{"id": {"a": {"right": true, "error": ""}, "b": …}}``.

    Raises:
        DataError: the file is of another sheet, or no labels.
    """
    document = read_json(path)
    labels = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(labels, dict):
        raise DataError("holds no labels (press 'Save labels' on the sheet)", path=path)
    if document.get("key") != sheet_key(pairs, seed):
        raise DataError("belongs to another sheet (other responses or their order, --n or --seed)", path=path)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for a, _ in pairs:
        name = str(a["id"])
        given = labels.get(name) or {}
        order = ("b", "a") if swapped(seed, name) else ("a", "b")
        sides = {}
        for side, model in zip(("left", "right"), order, strict=True):
            label = given.get(side) or {}
            if label.get("right") in (True, False):
                sides[model] = {"right": label["right"], "error": str(label.get("error") or "")}
        if len(sides) == 2:
            found[name] = sides
    return found


def study(labels: Mapping[str, Mapping[str, Mapping[str, Any]]], n_pairs: int) -> Study:
    """Discordant pairs, exact p and kinds of errors of labelled pairs."""
    pairs = [(bool(one["a"]["right"]), bool(one["b"]["right"])) for one in labels.values()]
    only_a, only_b = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    errors = {
        model: dict(Counter(one[model]["error"] or "not said" for one in labels.values() if not one[model]["right"]))
        for model in ("a", "b")
    }
    return Study(
        len(pairs),
        sum(a for a, _ in pairs),
        sum(b for _, b in pairs),
        sum(a and b for a, b in pairs),
        sum(not a and not b for a, b in pairs),
        only_a,
        only_b,
        mcnemar_exact(only_a, only_b),
        mcnemar_midp(only_a, only_b),
        errors["a"],
        errors["b"],
        n_pairs - len(pairs),
    )


def swapped(seed: int, name: str) -> bool:
    """Whether B stands on the left for this sample: a coin that the page does not show."""
    return hashlib.sha256(f"{seed} side {name}".encode()).digest()[0] % 2 == 1


def sheet_key(pairs: Sequence[tuple[Row, Row]], seed: int) -> str:
    """Tells sheets apart: by samples, responses, which model is A, and seed."""
    said = [[str(a["id"]), str(a["response"]), str(b["response"])] for a, b in pairs]
    return hashlib.sha256(json.dumps([said, seed]).encode()).hexdigest()[:12]


def _data_address(image: Any) -> str:
    if not isinstance(image, str) or not image:
        return ""
    picture = open_image(image)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _script_json(value: Any) -> str:
    """JSON that may stand inside a script element: model text cannot end it."""
    text = json.dumps(value, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
