"""The three examples of docs/extend.md, run from the page itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_r1.answers import formats
from perception_r1.data import sources
from perception_r1.data.jsonl import read_jsonl
from perception_r1.errors import DataError, RecipeError
from perception_r1.evaluate.metrics import quality, summarise
from perception_r1.tasks import TASKS, make_task
from perception_r1.tasks.hacks import audit
from perception_r1.types import BoxTarget, Completion, Sample

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The code block under ``<!-- example: name -->``."""
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, name
    return found[1]


def run(name: str) -> dict[str, Any]:
    """The names that an example defines."""
    names: dict[str, Any] = {"__name__": f"extend_{name}"}
    exec(compile(example(name), f"docs/extend.md ({name})", "exec"), names)  # our own page
    return names


def test_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown task 'pointing'"):
        make_task("pointing", family="qwen3_vl")
    task_class = run("task")["PointingTask"]
    monkeypatch.setitem(TASKS, "pointing", task_class)
    row = json.loads(example("rows"))
    file = tmp_path / "points.jsonl"
    file.write_text(json.dumps({**row, "image": "1.png"}) + "\n", encoding="utf-8")
    Image.new("RGB", (640, 480)).save(tmp_path / "1.png")
    (sample,) = read_jsonl(file)
    task = make_task("pointing", family="qwen3_vl")
    assert task.prompt(sample).user == "Point to every cat, dog. Output the coordinates in JSON format."
    gold = task.gold(sample)
    assert gold == '[{"point_2d": [156, 250], "label": "cat"}, {"point_2d": [625, 625], "label": "dog"}]'
    assert task.score(sample, gold).reward == 1.0
    swapped = gold.replace("cat", "x").replace("dog", "cat").replace("x", "dog")
    assert task.score(sample, swapped).reward == 0.0
    half = task.score(sample, '[{"point_2d": [156, 250], "label": "Cat"}]')
    assert half.reward == pytest.approx(2 / 3)  # 2 · 1 / (1 + 2)
    assert quality(sample, half) == 0.5
    metrics = summarise("pointing", [(sample, half)], resamples=10)
    assert (metrics["primary"], metrics["metrics"]["recall"]["value"], metrics["metrics"]["exact"]["value"]) == (
        "recall",
        0.5,
        0.0,
    )
    assert all(finding.ok for finding in audit(task, [sample]))


def test_a_form_of_answer() -> None:
    names = run("form")
    try:
        task = make_task("detection", family=names["MY_VL"])
        target = BoxTarget(((64, 48, 320, 240), (0, 0, 32, 24)), ("cat", "dog"))
        sample = Sample("1", "detection", "", target, image_size=(640, 480), categories=("cat", "dog"))
        gold = task.gold(sample)
        assert gold.startswith('<box label="cat" x1="100" y1="100" x2="500" y2="500"/><box label="dog"')
        parsed = task.parse(sample, Completion(gold + "<|im_end|>", "stop"))
        assert (parsed.format_ok, [entry.label for entry in parsed.objects]) == (True, ["cat", "dog"])
        assert [gold[slice(*entry.span)] for entry in parsed.objects] == [
            part + "/>" for part in gold.split("/>") if part
        ]
        assert task.score(sample, gold).reward == 1.0
        inverted = task.score(sample, gold.replace('x1="100"', 'x1="900"'))
        assert (inverted.n_pred, inverted.n_valid, inverted.reward) == (2, 1, pytest.approx(0.5))
        assert task.score(sample, "Sure! " + gold).status == "malformed"
        assert all(finding.ok for finding in audit(task, [sample]))
    finally:
        formats.FORMS.pop("xml_box", None)


def test_a_source(tmp_path: Path) -> None:
    run("source")
    try:
        Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
        file = tmp_path / "boxes.csv"
        file.write_text("image,phrase,x1,y1,x2,y2\na.jpg,the dog,10,20,300,400\n", encoding="utf-8")
        (sample,) = sources.load_source({"source": "csv", "path": str(file)}, task="grounding")
        assert (sample.question, sample.target) == ("the dog", BoxTarget(((10.0, 20.0, 300.0, 400.0),)))
        file.write_text("image,phrase,x1,y1,x2,y2\na.jpg,the dog,ten,20,300,400\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"boxes\.csv:2: field 'x1': \"ten\" is not a number"):
            sources.load_source({"source": "csv", "path": str(file)}, task="grounding")
    finally:
        sources.SOURCES.pop("csv", None)
