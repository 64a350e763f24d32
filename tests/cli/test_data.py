"""``pr1 data`` as a user runs it: a process, its exit code, its output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from perception_r1.data.jsonl import read_jsonl


def pr1(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perception_r1", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (100, 80), "white").save(tmp_path / "images" / name)
    document = {
        "images": [
            {"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(("a.png", "b.png"))
        ],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 20, 30, 40]}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_convert_then_show(coco, tmp_path):
    done = pr1("convert", coco, "rows.jsonl", "--task", "detection", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 rows, 2 images, 1 box, 1 category → rows.jsonl\n"
    samples = read_jsonl(tmp_path / "rows.jsonl")
    assert [(sample.id, len(sample.target.boxes_xyxy)) for sample in samples] == [("a", 1), ("b", 0)]
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])["image"] == "images/a.png"
    done = pr1("show", "rows.jsonl", "rows.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 of 2 rows → rows.png\n")
    with Image.open(tmp_path / "rows.png") as img:
        assert img.format == "PNG"


def test_options_count_and_json(coco, tmp_path):
    arguments = ("convert", coco, tmp_path / "rows.jsonl", "--from", "coco", "--task", "detection", "--json")
    done = pr1(*arguments, "-o", "empty=false")
    assert json.loads(done.stdout) == {
        "out": str(tmp_path / "rows.jsonl"),
        "rows": 1,
        "images": 1,
        "boxes": 1,
        "categories": 1,
        "notes": [],
    }
    assert json.loads(pr1(*arguments, "--count", 1).stdout)["rows"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", "none.json", "x.jsonl", "--task", "detection"), "none.json: no such file or folder"),
        (
            ("convert", "instances.json", "x.jsonl", "--task", "detect"),
            "unknown task 'detect', did you mean 'detection'",
        ),
        (("convert", "instances.json", "x.jsonl", "--task", "ocr"), "source 'coco' has no rows for task 'ocr'"),
        (("convert", "instances.json", "x.jsonl", "--task", "detection", "--from", "coc"), "did you mean 'coco'"),
        (("convert", "instances.json", "x.jsonl", "--task", "detection", "-o", "empty"), "is not KEY=VALUE"),
        (("convert", "instances.json", "x.jsonl", "--task", "detection", "-o", "emtpy=1"), "did you mean 'empty'"),
        (
            ("convert", "instances.json", "x.jsonl", "--task", "detection", "--images", "photos"),
            "no such folder of images",
        ),
        (("convert", "instances.json", "x.jsonl", "--task", "detection", "--count", "3"), "has 2 rows but 3 are asked"),
        (("convert", "instances.json", "x.jsonl"), "Missing option"),
        (
            ("convert", "broken.json", "x.jsonl", "--task", "detection", "--from", "coco"),
            "broken.json:1: field 'annotations.bbox'",
        ),
        (("convert", "odd.json", "x.jsonl", "--task", "detection"), "add --from"),
        (("show", "instances.json", "x.png"), "add --task"),
        (("show", "instances.json", "x.jpg", "--task", "detection"), "x.jpg: the sheet is a PNG"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(coco, arguments, message):
    document = json.loads(coco.read_text())
    document["annotations"][0]["bbox"] = [10, 20, 300, 40]
    (coco.parent / "broken.json").write_text(json.dumps(document))
    (coco.parent / "odd.json").write_text("{}")
    done = pr1(*arguments, cwd=coco.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (coco.parent / "x.jsonl").exists()
    assert not (coco.parent / "x.png").exists()


def test_bad_entries_may_be_left_out(coco):
    document = json.loads(coco.read_text())
    document["annotations"][0]["bbox"] = [10, 20, 300, 40]
    coco.write_text(json.dumps(document))
    arguments = ("convert", coco, coco.parent / "x.jsonl", "--task", "detection", "--skip-bad")
    done = pr1(*arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("note: bad entries left out: 1; the first: ")
    (coco.parent / "images" / "b.png").unlink()
    done = pr1(*arguments, "--skip-missing")
    assert done.returncode == 2
    assert "(1 images are missing, 1 entries are bad)" in done.stderr


def test_real_data(shared_data, tmp_path):
    for task, n_rows in (("detection", 27), ("counting", 74), ("grounding", 40)):
        out = tmp_path / f"{task}.jsonl"
        assert pr1("convert", shared_data / "coco" / "instances_val2017.json", out, "--task", task).returncode == 0
        assert len(read_jsonl(out, task)) == n_rows
    sheet = tmp_path / "sheet.png"
    done = pr1("show", shared_data / "coco" / "instances_train2017.json", sheet, "--task", "detection", "-n", 4)
    assert done.stdout == f"4 of 26 rows → {sheet}\n"
    with Image.open(sheet) as img:
        assert img.width > 800


def test_help_needs_no_heavy_import():
    code = "import sys; from perception_r1.cli import main\ntry: main(['data', '--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'transformers', 'pyarrow', 'PIL', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_data_that_is_read_is_never_overwritten(coco, tmp_path):
    before = coco.read_text()
    (tmp_path / "link.json").symlink_to(coco)
    for out in (coco, "link.json"):
        done = pr1("convert", coco, out, "--from", "coco", "--task", "detection", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "is the data to read" in done.stderr
    assert coco.read_text() == before
