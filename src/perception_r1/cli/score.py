"""``pr1 score``: the reward of each line, without a model and without torch."""

from __future__ import annotations

from typing import Annotated

import typer


def score(
    file: Annotated[str, typer.Argument(help="JSON lines with 'response' and the target; - reads standard input.")],
    task: Annotated[str, typer.Option("--task", "-t", help="grounding, counting, detection, ocr.")],
    family: Annotated[
        str, typer.Option("--family", "-f", help="The model's family: which coordinates and answer form it uses.")
    ],
    preset: Annotated[str, typer.Option("--preset", "-p", help="robust, or released (PR1's formula).")] = "robust",
    thinking: Annotated[bool, typer.Option("--thinking", help="Answers have <think> and <answer> blocks.")] = False,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", min=1, help="Of the model's processor.")] = None,
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", min=1, help="Of the model's processor.")] = None,
) -> None:
    """Score responses in a JSONL file, one record a line.

    A line has "response", the target ("boxes" + "labels", "points", "count" or "text"), "width" and "height" of the
    original image and, where the family answers in pixels of the resized image, "model_width" and "model_height" (or
    give the processor's --max-pixels). It comes out with "record" added: reward, components, status, reason.
    """
    import sys
    from pathlib import Path

    from perception_r1.data.files import existing_file
    from perception_r1.errors import DataError
    from perception_r1.evaluate.results import json_line
    from perception_r1.families import get_family
    from perception_r1.tasks import make_task

    known = get_family(family).with_limits(min_pixels, max_pixels)
    scorer = make_task(task, family=known, reward=preset, thinking=thinking)
    name = "<stdin>" if file == "-" else file
    stream = sys.stdin.buffer if file == "-" else existing_file(Path(file)).open("rb")
    n_rows = 0
    with stream:
        for line, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            row, sample, completion = _read(raw, name, line, task)
            try:
                row["record"] = scorer.score(sample, completion).to_dict()
            except DataError as error:  # the sizes do not say in which frame the answer is
                raise DataError(error.message, path=name, line=line) from None
            sys.stdout.write(json_line(row))
            sys.stdout.flush()  # so that a pipe that feeds lines one by one gets answers one by one
            n_rows += 1
    if not n_rows:
        raise DataError("the file is empty (expected one JSON object a line)", path=name)


def _read(raw: bytes, name: str, line: int, task: str):  # type: ignore[no-untyped-def]  # types would import heavily
    """The row as written, its sample and its completion."""
    import json

    from perception_r1.data.files import broken_json
    from perception_r1.data.row import sample_from_row
    from perception_r1.errors import DataError
    from perception_r1.evaluate.generate import finish_reason
    from perception_r1.tasks import TASKS
    from perception_r1.types import Completion

    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start} (save it as UTF-8)", path=name, line=line) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{broken_json(error)} (expected one JSON object a line)", path=name, line=line) from None
    if not isinstance(row, dict):
        raise DataError('is not an object (expected {"response": …})', path=name, line=line)
    response = row.get("response")
    if not isinstance(response, str):
        what = "is missing" if "response" not in row else f"is {type(response).__name__}"
        raise DataError(f"{what} (expected the model's answer as text)", path=name, line=line, field="response")
    defaults = {"id": str(line), **({"question": "the object"} if TASKS[task].question_says else {})}
    fields = {key: value for key, value in row.items() if key != "image"}  # nothing here looks at pixels
    sample = sample_from_row(
        {**defaults, **fields}, path=name, line=line, task=task, check_image=False, image_required=False
    )
    return row, sample, Completion(response, finish_reason(row, name, line))
