from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from perception_r1.cli import main

GOOD = {
    "id": "a",
    "response": '[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]',
    "boxes": [[0, 0, 320, 480]],
    "width": 640,
    "height": 480,
    "mine": "kept",
}


class Run(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def pr1(capsys, monkeypatch):
    def call(*args, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        return Run(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def score(pr1):
    return lambda *args, task="grounding", **more: pr1("score", "--task", task, "--family", "qwen3_vl", *args, **more)


def test_a_line_in_a_line_out(tmp_path, score):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "response": "no idea", "id": "b"}) + "\n")
    run = score(str(path))
    assert run.returncode == 0, run.stderr
    first, second = map(json.loads, run.stdout.splitlines())
    assert first["record"]["reward"] == 0.5  # (0, 0, 320, 240) against (0, 0, 320, 480): half of it
    assert first["mine"] == "kept"
    assert first["record"]["pred_xyxy"] == [[0.0, 0.0, 320.0, 240.0]]
    assert second["record"]["reward"] == 0.0
    assert second["record"]["status"] == "malformed"
    assert second["record"]["reason"]


def test_half_a_surrogate_pair_survives(score):
    run = score("-", stdin=json.dumps({**GOOD, "response": "\ud800 ä"}))
    assert run.returncode == 0
    assert json.loads(run.stdout)["response"] == "\ud800 ä"


def test_stdin_and_presets(score):
    robust, paper = (score("-", "--preset", p, stdin=json.dumps(GOOD)) for p in ("robust", "released"))
    records = [json.loads(run.stdout)["record"] for run in (robust, paper)]
    assert records[0]["reward"] != records[1]["reward"]  # paper: format + IoU²


@pytest.mark.parametrize(
    ("task", "target", "response"),
    [
        ("counting", {"points": [[100, 100], [500, 400]]}, '[{"point_2d": [156, 208]}, {"point_2d": [781, 833]}]'),
        ("counting", {"boxes": [[0, 0, 64, 48]]}, '[{"bbox_2d": [0, 0, 100, 100]}]'),
        ("counting", {"count": 1}, '[{"bbox_2d": [0, 0, 100, 100]}]'),
        ("detection", {"boxes": [[0, 0, 64, 48]], "labels": ["a"]}, '[{"bbox_2d": [0, 0, 100, 100], "label": "a"}]'),
        ("ocr", {"text": "hello"}, "hello"),
    ],
)
def test_every_task(score, task, target, response):
    row = {"response": response, "width": 640, "height": 480, **target}
    run = score("-", stdin=json.dumps(row), task=task)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["record"]["reward"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"response": "[]", "boxes": [[40, 12, 31, 60]], "width": 99, "height": 99}',
            ":2: field 'boxes': [40, 12, 31, 60] has x2 < x1",
        ),
        ('{"boxes": [], "width": 9, "height": 9}', ":2: field 'response': is missing"),
        ('{"response": 3, "boxes": [], "width": 9, "height": 9}', ":2: field 'response': is int"),
        ('{"response": "[]", "boxes": []}', ":2: field 'width'"),
        ('{"response": "[]", "boxes": [', ":2: the JSON is cut off"),
        ("[]", ":2: is not an object"),
        ('{"response": "[]", "boxes": [], "width": 9, "height": 9, "finish_reason": "x"}', ":2: field 'finish_reason'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, score, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    run = score(str(path))
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert len(run.stdout.splitlines()) == 1  # what came before is out already


def test_pixels_of_a_resized_image_need_its_size_or_the_processors_limits(pr1):
    row = {
        "response": '[{"bbox_2d": [402, 202, 906, 708]}]',
        "boxes": [[400, 200, 900, 700]],
        "width": 1920,
        "height": 1080,
    }
    score = ("score", "-", "--task", "grounding", "--family", "qwen2_5_vl")
    run = pr1(*score, stdin=json.dumps(row))
    assert run.returncode == 2
    assert run.stderr.startswith("error: <stdin>:1: an image of 1920 × 1080 pixels is seen at 1316 × 728")
    assert run.stderr.count("\n") == 1
    for options, sizes in ((("--max-pixels", "12845056"), {}), ((), {"model_width": 1932, "model_height": 1092})):
        run = pr1(*score, *options, stdin=json.dumps({**row, **sizes}))
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["record"]["reward"] == pytest.approx(0.99739, abs=1e-5)


def test_empty_and_missing(tmp_path, score, pr1):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    assert (run := score(str(path))).returncode == 2
    assert "the file is empty" in run.stderr
    assert (run := score(str(tmp_path / "none.jsonl"))).returncode == 2
    assert "no such data file" in run.stderr
    assert (run := pr1("score", "--task", "grounding", "--family", "qwen9", str(path))).returncode == 2
    assert "unknown family 'qwen9'" in run.stderr


def test_no_heavy_import(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    code = (
        "import sys\nfrom perception_r1.cli import main\n"
        f"try: main(['score', '-t', 'grounding', '-f', 'qwen3_vl', {str(path)!r}])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
