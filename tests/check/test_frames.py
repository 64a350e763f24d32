"""Which frame do real answers fit? Answers are written in a frame that is known, and read in another."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from perception_r1.check import fit_frames, read_answers
from perception_r1.data.images import prepare
from perception_r1.errors import DataError
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, PointTarget, Sample, Target


def answers(written_by: str, read_as: str, target_of: type = BoxTarget) -> list[tuple[Sample, Completion]]:
    """Gold answers of family ``written_by`` on 30 random rows that are prepared for ``read_as``."""
    draw = random.Random(0)
    found = []
    for number in range(30):
        size = (draw.randint(300, 900), draw.randint(300, 900))
        x, y = draw.uniform(0, size[0] * 0.6), draw.uniform(0, size[1] * 0.6)
        box = (x, y, x + size[0] * 0.3, y + size[1] * 0.3)
        target: Target = BoxTarget((box,)) if target_of is BoxTarget else PointTarget(((x, y),))
        row = Sample(str(number), "counting", "cat", target, image_size=size)
        text = make_task("counting", family=written_by).gold(prepare(row, written_by))
        found.append((prepare(row, read_as), Completion(text, "stop")))
    return found


@pytest.mark.parametrize("target_of", [BoxTarget, PointTarget])
def test_the_declared_frame_fits(target_of: type) -> None:
    fit = fit_frames(make_task("counting", family="qwen3_vl"), answers("qwen3_vl", "qwen3_vl", target_of))
    assert (fit.n, fit.best, fit.findings) == (30, "norm1000", ())
    assert fit.agreement["norm1000"] > 0.95
    assert fit.agreement["original"] < fit.agreement["norm1000"] - 0.2


@pytest.mark.parametrize("target_of", [BoxTarget, PointTarget])
@pytest.mark.parametrize(("written_by", "frame"), [("qwen3_vl", "norm1000"), ("pixel", "original"), ("unit", "unit")])
def test_another_frame_that_fits_better_is_named(written_by: str, frame: str, target_of: type) -> None:
    read_as = "qwen2_5_vl" if written_by != "pixel" else "qwen3_vl"
    fit = fit_frames(make_task("counting", family=read_as), answers(written_by, read_as, target_of))
    assert fit.best == frame
    (finding,) = fit.findings
    assert finding.severity == "error"
    assert f"fit frame '{frame}' better" in finding.message
    assert f"family: {{base: {read_as}, frame: {frame}}}" in finding.message


def test_frames_that_hardly_differ_are_told_apart_where_the_answers_are_sharp() -> None:
    """Images of under a million pixels are hardly resized: pixels of the original read as the resized lose 0.07."""
    fit = fit_frames(make_task("counting", family="qwen2_5_vl"), answers("pixel", "qwen2_5_vl"))
    assert 0.02 < fit.agreement["original"] - fit.agreement["resized"] < 0.1
    assert [finding.severity for finding in fit.findings] == ["warning"]


def test_a_few_loose_answers_say_nothing() -> None:
    """Each frame fits one of two answers by accident: the difference is no more than its error."""
    task = make_task("grounding", family="qwen3_vl")
    row = prepare(
        Sample("1", "grounding", "cat", BoxTarget(((100, 100, 300, 300),)), image_size=(640, 480)), "qwen3_vl"
    )
    found = ['[{"bbox_2d": [156, 208, 469, 625]}]', '[{"bbox_2d": [100, 100, 300, 300]}]'] * 2
    fit = fit_frames(task, [(row, Completion(text)) for text in [*found, '[{"bbox_2d": [110, 100, 290, 300]}]']])
    assert fit.best == "resized"  # which is the original here: 640 × 480 lies on the grid
    assert fit.findings == ()


def test_answers_that_fit_nowhere_or_cannot_be_read_are_told() -> None:
    task = make_task("grounding", family="qwen3_vl")
    row = prepare(Sample("1", "grounding", "cat", BoxTarget(((0, 0, 30, 30),)), image_size=(640, 480)), "qwen3_vl")
    wrong = fit_frames(task, [(row, Completion('[{"bbox_2d": [900, 900, 990, 990]}]'))])
    assert "under no frame" in wrong.findings[0].message
    silent = fit_frames(task, [(row, Completion("I cannot see a cat."))])
    assert silent.n == 0
    assert "no answer has a readable box" in silent.findings[0].message


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_are_read_by_id_or_with_their_own_target(tmp_path: Path) -> None:
    task = make_task("grounding", family="qwen2_5_vl")
    row = Sample("7", "grounding", "cat", BoxTarget(((0, 0, 30, 30),)), image_size=(640, 480))
    path = write(
        tmp_path / "a.jsonl",
        {"id": 7, "response": "one"},
        {"response": "two", "boxes": [[1, 2, 3, 4]], "width": 64, "height": 48, "finish_reason": "length"},
        {"id": "x", "response": "three", "target": {"boxes": [[1, 2, 3, 4]]}, "image_size": [640, 480], "record": {}},
    )
    first, second, third = read_answers(path, task, [row])
    assert first == (row, Completion("one"))
    assert second[0].target == BoxTarget(((1, 2, 3, 4),))
    assert second[1] == Completion("two", "length")
    assert third[0].image_size == (640, 480)
    assert third[0].model_size == (644, 476)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"response": 3}', "a.jsonl:1: field 'response': expected the model's answer as text"),
        ('{"response": "x"}', "a.jsonl:1: field 'id': is missing, and the line has no target"),
        ('{"id": "q", "response": "x"}', "a.jsonl:1: field 'id': is not a row of the data, and the line has no target"),
        ('{"response": "x"', "a.jsonl:1: "),
        ("", "the file is empty"),
    ],
)
def test_bad_answers_name_their_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=r".") as caught:
        read_answers(path, make_task("grounding", family="pixel"))
    assert says in str(caught.value)
