"""The folder of an evaluation: ``samples.jsonl`` (each answer with its record), ``settings.json``, ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from perception_r1.data.files import atomic_write, existing_file
from perception_r1.data.row import sample_from_row, target_fields
from perception_r1.errors import DataError
from perception_r1.types import Completion, RewardRecord, Sample

SAMPLES, METRICS, SETTINGS = "samples.jsonl", "metrics.json", "settings.json"


class Result(NamedTuple):
    """One answered sample."""

    sample: Sample
    completion: Completion
    record: RewardRecord
    scores: tuple[float, ...] | None = None
    """Of the predicted boxes, by their tokens' log-probability; parallel to ``record.pred_xyxy``."""


def result_row(
    sample: Sample, completion: Completion, record: RewardRecord, scores: Sequence[float] | None = None
) -> dict[str, Any]:
    """A line of ``samples.jsonl``."""
    row = {
        "id": sample.id,
        "task": sample.task,
        "image": sample.image,
        "image_size": sample.image_size,
        "model_size": sample.model_size,
        "question": sample.question,
        "target": target_fields(sample.target),
        "categories": list(sample.categories),
        "response": completion.text,
        "finish_reason": completion.finish_reason,
        "record": record.to_dict(),
    }
    return row if scores is None else {**row, "box_scores": [round(score, 6) for score in scores]}


def result_from_row(row: Mapping[str, Any], *, path: object, line: int | None = None) -> Result:
    """The inverse of ``result_row``; images need not exist any more."""
    flat = {key: row[key] for key in ("id", "task", "image", "question") if row.get(key) is not None}
    for key, prefix in (("image_size", ""), ("model_size", "model_")):
        if row.get(key):
            flat[f"{prefix}width"], flat[f"{prefix}height"] = row[key]
    flat |= row.get("target") or {}
    if row.get("categories"):
        flat["categories"] = row["categories"]
    sample = sample_from_row(flat, path=path, line=line, check_image=False, image_required=False)
    try:
        record = record_from_dict(row["record"])
        scores = row.get("box_scores")
        completion = Completion(row["response"], row.get("finish_reason"))
        return Result(sample, completion, record, None if scores is None else tuple(map(float, scores)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"is not a line of {SAMPLES}: {error!r}", path=path, line=line) from None


def record_from_dict(values: Mapping[str, Any]) -> RewardRecord:
    """The inverse of ``RewardRecord.to_dict``; keys of other versions are ignored."""
    names = {field.name for field in fields(RewardRecord)}
    return RewardRecord(
        **{name: value if name == "components" else _tuples(value) for name, value in values.items() if name in names}
    )


def read_results(folder: str | Path) -> list[Result]:
    """Every answered sample of an evaluation's folder, in the file's order.

    Raises:
        DataError: no ``samples.jsonl``, or a line that is not JSON.
    """
    path = existing_file(Path(folder) / SAMPLES, "result of an evaluation")
    rows = read_lines(path)
    return [result_from_row(row, path=path, line=line) for line, row in enumerate(rows, start=1)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file that may have been cut off by a kill: an unfinished last line is left out.

    Raises:
        DataError: a broken line that is not the last.
    """
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            rows.append(json.loads(raw.decode("utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # a cut may go through a character
            if number == len(lines):
                break
            what = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not valid JSON"
            place = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else f"column {error.colno}"
            raise DataError(f"{what} at {place}", path=path, line=number) from None
    return rows


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """All rows at once; a reader sees the old file or the whole new one."""
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json_line(row))


def json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON: readable UTF-8, escaped where it cannot be encoded (half a surrogate pair in an answer)."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(row)
    return text + "\n"


def read_json_file(path: Path) -> Any:
    """A JSON file of ours, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_json_file(path: Path, value: Any) -> None:
    """Indented JSON, atomically."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
