"""``pr1 check`` as it is called: recipes and data, exit codes, what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from perception_r1.cli import app
from perception_r1.data.digits import make_scenes
from perception_r1.data.jsonl import write_jsonl


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, args)])


def found(*args: object) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code in (0, 1), result.stderr
    return json.loads(result.stdout)


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    """Grounding rows on one picture of 640 × 480."""
    Image.new("RGB", (640, 480)).save(folder / "a.png")
    path = folder / "rows.jsonl"
    full = [
        {"id": str(n), "image": "a.png", "task": "grounding", "question": "cat", **row} for n, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in full), encoding="utf-8")
    return path


GOOD = {"boxes": [[10, 20, 200, 220]]}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe on digit scenes, whose model is nowhere (and need not be)."""
    path = tmp_path / "digits.yaml"
    path.write_text(
        f"""
name: digits
task: counting
model: nobody/nothing
family: qwen3_vl
data:
  train: [{{source: digits, path: {tmp_path}, options: {{n: 12}}}}]
  eval: [{{source: digits, path: {tmp_path}, split: heldout, options: {{n: 4}}}}]
grpo: {{max_completion_length: 256}}
"""
    )
    return path


def test_good_data_passes(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, GOOD, {"boxes": [[300, 20, 600, 400]]})
    result = run(rows, "--family", "qwen2_5_vl")
    assert result.exit_code == 0, result.output
    assert "rows: 2 good, 0 bad" in result.stdout
    assert result.stdout.strip().endswith("ok: 0 to fix, 0 to know")


@pytest.mark.parametrize("task", ["counting", "grounding", "detection", "ocr"])
def test_digit_scenes_pass(tmp_path: Path, task: str) -> None:
    write_jsonl(tmp_path / "rows.jsonl", make_scenes(task, 8, seed=1, out_dir=tmp_path))  # type: ignore[arg-type]
    report = found(tmp_path / "rows.jsonl", "-f", "qwen3_vl")
    assert report["ok"], report["findings"]
    assert report["gold"]["n"] == 8
    assert report["gold"]["least"] > 0.8


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path,
        GOOD,
        {"boxes": [[200, 20, 10, 220]]},
        {"boxes": [[10, 20, 900, 220]]},
        {"boxes": [[10, 20, 200, 220]], "image": "b.png"},
        {},
    )
    with rows.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "9", "image": "a.p')
    result = run(rows, "-f", "qwen3_vl")
    assert result.exit_code == 1
    assert "rows: 1 good, 5 bad" in result.stdout
    for line, field in ((2, "boxes"), (3, "boxes"), (4, "image"), (5, "boxes")):
        assert f"rows.jsonl:{line}: field '{field}': " in result.stdout
    assert "rows.jsonl:6: " in result.stdout
    assert "not ok: 5 to fix" in result.stdout


def test_an_image_that_no_model_takes_is_a_bad_row(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, GOOD, {"image": "long.png", "boxes": [[0, 0, 100, 2]]})
    Image.new("RGB", (1000, 3)).save(tmp_path / "long.png")
    result = run(rows, "-f", "qwen3_vl")
    assert result.exit_code == 1
    assert "row '1': an image of 1000 × 3 pixels is too long" in result.stdout


def test_a_recipe_is_checked_as_it_would_train(recipe: Path) -> None:
    report = found(recipe)
    assert report["ok"], report["findings"]
    assert (report["n_rows"], report["task"], report["family"]) == (12, "counting", "qwen3_vl")
    assert report["hack_rows"] == 12
    assert len(report["hacks"]) > 8
    assert report["lengths"]["exact"] is False


def test_a_reward_that_can_be_cheated_fails(recipe: Path) -> None:
    result = run(recipe, "--set", "reward.components={count: 1}")
    assert result.exit_code == 1
    assert "right number, random places" in result.stdout


def test_the_papers_reward_is_known_to_be_and_passes(recipe: Path) -> None:
    report = found(recipe, "--preset", "released")
    assert report["ok"]
    assert {finding["part"] for finding in report["findings"]} == {"hacks"}


def test_answers_longer_than_the_limit_are_told(recipe: Path) -> None:
    report = found(recipe, "--set", "grpo.max_completion_length=8", "--set", "grpo.vllm_max_model_length=20")
    assert not report["ok"]
    assert {finding["part"] for finding in report["findings"]} == {"lengths"}


def test_answers_of_another_frame_fail(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, *[{"boxes": [[10 + n, 20, 200 + n, 220]]} for n in range(6)])
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "".join(
            json.dumps({"id": str(n), "response": json.dumps([{"bbox_2d": [10 + n, 20, 200 + n, 220]}])}) + "\n"
            for n in range(6)
        )
    )
    report = found(rows, "-f", "qwen3_vl", "--responses", answers)
    assert not report["ok"]
    assert report["frame"]["best"] in ("original", "resized")  # 640 × 480 lies on the grid: the same
    assert report["frame"]["n"] == 6
    assert found(rows, "-f", "pixel", "--responses", answers)["ok"]


def test_shared_images_are_listed(tmp_path: Path, recipe: Path) -> None:
    rows = write_rows(tmp_path, GOOD)
    result = run(rows, "-f", "qwen3_vl", "--against", rows)
    assert result.exit_code == 1
    assert "1 image of the evaluation set in training: a.png" in result.stdout
    assert "(by path)" in result.stdout
    assert found(recipe, "--against", recipe)["shared"] == []  # train and held-out scenes differ


def test_a_recipe_is_warned_of_images_that_its_own_evaluation_shares(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, GOOD)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "name: own\ntask: grounding\nmodel: nobody/nothing\nfamily: qwen3_vl\n"
        f"data: {{train: [{{source: jsonl, path: {rows}}}], eval: [{{source: jsonl, path: {rows}}}]}}\ngrpo: {{}}\n"
    )
    report = found(recipe)
    assert report["ok"]
    assert [(finding["part"], finding["severity"]) for finding in report["findings"]] == [("overlap", "warning")]
    recipe.write_text(recipe.read_text().replace("}], eval", ", count: 7}], eval"))
    result = run(recipe)
    assert result.exit_code == 2
    assert f"{recipe}: data.train.0 ({rows}) has 1 rows but 7 are asked of it" in result.stderr


def test_no_good_row_is_no_bad_row(tmp_path: Path) -> None:
    result = run(write_rows(tmp_path, GOOD), "-f", "qwen3_vl", "-t", "counting")
    assert result.exit_code == 1
    assert "rows: 0 good, 1 bad" in result.stdout
    assert "no good row is left" in result.stdout


def test_limit_draws_rows(recipe: Path) -> None:
    assert found(recipe, "--limit", 5)["gold"]["n"] == 5
    assert found(recipe, "--limit", 50)["gold"]["n"] == 12


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["missing.yaml"], "missing.yaml: no such recipe"),
        (["missing.jsonl", "-f", "qwen3_vl"], "missing.jsonl: "),
        (["rows.jsonl"], "which model's coordinates? add --family"),
        (["rows.jsonl", "-f", "qwen9_vl"], "unknown family 'qwen9_vl'"),
        (["rows.jsonl", "-f", "qwen3_vl", "--task", "counting"], None),
        (["empty.jsonl", "-f", "qwen3_vl"], "empty.jsonl: the file is empty"),
        (["rows.txt", "-f", "qwen3_vl", "--task", "ocr"], "rows.txt: its name does not tell the format"),
        (["rows.jsonl", "-f", "qwen3_vl", "--model", "nowhere/at/all"], "nowhere/at/all: "),
        (["mixed.jsonl", "-f", "qwen3_vl"], "rows of several tasks (grounding, ocr): name one with --task"),
        (["digits.yaml", "--set", "grpo.x"], "--set 'grpo.x': expected key.sub=value"),
        (["bad.yaml"], "unknown key 'modle' (did you mean 'model'?)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str | None
) -> None:
    rows = write_rows(tmp_path, GOOD)
    (tmp_path / "rows.txt").write_text(rows.read_text())
    (tmp_path / "empty.jsonl").write_text("")
    mixed = '{"image": "a.png", "task": "ocr", "text": "b"}\n'
    (tmp_path / "mixed.jsonl").write_text(rows.read_text() + mixed)
    (tmp_path / "bad.yaml").write_text("name: x\ntask: ocr\nmodle: y\n")
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    if says is None:  # rows of another task are bad rows, each named
        assert result.exit_code == 1
        assert "rows.jsonl:1: field 'task': " in result.stdout
        return
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_real_coco_passes(shared_data: Path) -> None:
    coco = shared_data / "coco"
    for task in ("detection", "counting", "grounding"):
        report = found(
            coco / "instances_val2017.json",
            "--task",
            task,
            "-f",
            "qwen2_5_vl",
            "--images",
            coco / "val2017",
            "--against",
            coco / "instances_train2017.json",
        )
        assert report["ok"], report["findings"]
        assert report["gold"]["n"] >= 15
        assert report["shared"] == []


def test_a_picture_that_is_cut_off_is_a_row_error(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, GOOD, {**GOOD, "image": "cut.jpg"}, {**GOOD, "image": "empty.jpg"}, GOOD)
    Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    result = run(rows, "-f", "qwen3_vl")
    assert result.exit_code == 1
    assert "rows: 2 good, 2 bad" in result.stdout
    assert f"rows.jsonl:2: field 'image': \"{tmp_path}/cut.jpg\": the image cannot be decoded: " in result.stdout
    assert "rows.jsonl:3: field 'image': " in result.stdout
    assert "is not an image that Pillow can read" in result.stdout
    quick = run(rows, "-f", "qwen3_vl", "--quick")
    assert "rows: 3 good, 1 bad" in quick.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from perception_r1.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("model")
    tiny, processor = build_tiny("qwen3_vl")
    tiny.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_recipes_own_tokenizer_and_template_are_used(recipe: Path, model: Path, tmp_path: Path) -> None:
    import shutil

    result = run(recipe, "--set", f"model={model}")
    assert result.exit_code == 0, result.output
    assert f"✓ tokenizer and chat template of {model}" in result.stdout
    assert "an estimate" not in result.stdout
    assert "context 8,192" in result.stdout
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").write_text(template.replace("{% if add_generation_prompt %}", "{% if 0 %}"))
    result = run(recipe, "--set", f"model={broken}")
    assert result.exit_code == 1
    assert "the chat template writes no generation prompt" in result.stdout
    result = run(recipe, "--set", f"model={tmp_path / 'gone'}")  # its data are checked all the same
    assert result.exit_code == 1
    assert "gone: no such model folder" in result.stdout
    assert "rows: 12 good, 0 bad" in result.stdout
