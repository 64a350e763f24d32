"""Saved answers: our own ``samples.jsonl``, any file of ``id`` and ``response``, and what PR1's evaluation writes.

PR1's four scripts write a file each, without ids:

- ``counting_results_….json``: ``{SET: {accuracy, results: [{question, ground_truth, model_output, …}]}, …}``
- ``rec_results_….json`` (grounding): ``{dataset, average_scores, details: [{question, ground_truth, model_output}]}``
- ``…_page_ocr_results_….json``: the benchmark's records, each with ``output``
- ``temp_results_….json`` (detection): COCO results, boxes in pixels of the resized image

The first three keep the order of the benchmark's file, which their questions must agree with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.data.coco_names import COCO_NAMES
from perception_r1.data.fields import shown
from perception_r1.data.files import read_json, read_text
from perception_r1.errors import DataError
from perception_r1.evaluate.generate import read_responses
from perception_r1.types import Completion, Sample


def read_answers(path: str | Path, samples: Sequence[Sample]) -> dict[str, Completion]:
    """Answers to ``samples`` by id.

    Args:
        path: a file of any form above.
        samples: what was asked, in the order of the benchmark's file.

    Raises:
        DataError: the file has another form, or answers other questions.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix == ".jsonl" or (not text.lstrip().startswith("[") and "\n{" in text[:100_000].strip()):
        return read_responses(path)
    document = read_json(path)
    if isinstance(document, dict) and isinstance(document.get("details"), list):
        return _in_order(document["details"], samples, path, "model_output", "details")
    if isinstance(document, dict):
        sets = [value["results"] for value in document.values() if isinstance(value, dict) and "results" in value]
        if sets:
            return _of_sets(sets, samples, path)
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if "category_id" in document[0]:
            return _coco_results(document, samples, path)
        if "output" in document[0]:
            return _in_order(document, samples, path, "output", "output")
    return read_responses(path)


def _of_sets(sets: Sequence[Any], samples: Sequence[Sample], path: Path) -> dict[str, Completion]:
    """The one set (validation or test) whose questions are those of the samples."""
    asked = [sample.question for sample in samples]
    for rows in sets:
        if isinstance(rows, list) and [row.get("question") for row in rows if isinstance(row, dict)] == asked:
            return _in_order(rows, samples, path, "model_output", "results")
    sizes = ", ".join(str(len(rows)) for rows in sets if isinstance(rows, list))
    raise DataError(
        f"holds no set of answers to these {len(samples)} questions (it has sets of {sizes}; is it of this split?)",
        path=path,
        field="results",
    )


def _in_order(
    rows: Sequence[Any], samples: Sequence[Sample], path: Path, key: str, field: str
) -> dict[str, Completion]:
    if len(rows) != len(samples):
        raise DataError(f"{len(rows)} answers to {len(samples)} samples (is it of this split?)", path=path, field=field)
    found = {}
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True), start=1):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise DataError(f"{shown(row)} has no text {key!r}", path=path, line=number, field=key)
        _check(row, sample, path, number)
        found[sample.id] = Completion(row[key])
    return found


def _check(row: Mapping[str, Any], sample: Sample, path: Path, number: int) -> None:
    """The answer is to this sample: the question is the same, or else the picture is."""
    question, image = row.get("question"), row.get("image")
    if isinstance(question, str) and sample.question and question != sample.question:
        raise DataError(
            f"{shown(question)} was asked where the data asks {shown(sample.question)}",
            path=path,
            line=number,
            field="question",
        )
    if isinstance(image, str) and sample.image and Path(image).stem != Path(sample.image).stem:
        raise DataError(
            f"{shown(image)} is not the picture {shown(Path(sample.image).name)}", path=path, line=number, field="image"
        )


def _coco_results(rows: Sequence[Any], samples: Sequence[Sample], path: Path) -> dict[str, Completion]:
    """Boxes of each image written as the answer that they were read from: JSON, in the model's own frame."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            x, y, width, height = map(float, row["bbox"])
            label, image_id = COCO_NAMES[row["category_id"]], int(row["image_id"])
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{shown(row)} is no COCO result (expected image_id, category_id 1 to 90, bbox)", path=path, line=number
            ) from None
        by_image[image_id].append({"bbox_2d": [x, y, x + width, y + height], "label": label})
    numbers = {sample.id: _image_id(sample, path) for sample in samples}
    if not by_image.keys() & set(numbers.values()):  # an image without a row has no boxes; not so all of them
        raise DataError("has no box of any image of the data (is it of this split?)", path=path, field="image_id")
    return {key: Completion(json.dumps(by_image.get(number, [])), "stop") for key, number in numbers.items()}


def _image_id(sample: Sample, path: Path) -> int:
    """COCO's image id from the file's name, of which it is the number."""
    digits = Path(sample.image or sample.id).stem.rsplit("_", 1)[-1]
    if not digits.isdigit():
        raise DataError(f"sample {sample.id!r} has no COCO image id (its file is not named by it)", path=path)
    return int(digits)
