from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from perception_r1.cli import main
from perception_r1.data.jsonl import write_jsonl
from perception_r1.models.tiny import build_tiny
from perception_r1.tasks import make_task


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny model's folder, rows of six real scenes, and the gold answers to them."""
    pytest.importorskip("sklearn")
    from perception_r1.data.digits import make_scenes

    folder = tmp_path_factory.mktemp("eval")
    model, processor = build_tiny("qwen3_vl")
    model.save_pretrained(folder / "tiny")
    processor.save_pretrained(folder / "tiny")
    samples = make_scenes("detection", 6, seed=0, split="heldout", out_dir=folder / "images")
    write_jsonl(folder / "rows.jsonl", samples)
    task = make_task("detection", family="qwen3_vl")
    lines = [json.dumps({"id": sample.id, "response": task.gold(sample)}) for sample in samples]
    (folder / "gold.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def pr1(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, args)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def test_a_model_from_its_folder(files, pr1, tmp_path):
    options = ("--task", "detection", "--data", files / "rows.jsonl", "--out", tmp_path / "out", "--quiet")
    code, out, err = pr1("--model", files / "tiny", *options, "--max-new-tokens", 8, "--batch-size", 3, "--json")
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["n"] == 6
    assert metrics["model"] == "tiny"
    assert metrics["metrics"]["f1@0.5"]["value"] == 0.0  # an untrained model of 8 tokens
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["family"] == "qwen3_vl"  # read from the model's own configuration
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 6


def test_replay_of_gold_answers(files, pr1, tmp_path):
    code, out, err = pr1(
        "--backend",
        "replay",
        "--responses",
        files / "gold.jsonl",
        "--task",
        "detection",
        "--family",
        "qwen3_vl",
        "--data",
        files / "rows.jsonl",
        "--out",
        tmp_path / "out",
        "--limit",
        4,
    )
    assert code == 0, err
    assert "4 of 4 samples scored" in out
    assert "f1@0.5" in out
    assert "← primary" in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["metrics"]["f1@0.5"]["value"] == 1.0
    if "AP" in metrics["metrics"]:  # hotcoco is an extra
        assert metrics["metrics"]["AP50"]["value"] == pytest.approx(1.0)


def test_a_recipe_says_the_rest(files, pr1, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: mine\ntask: detection\nmodel: {files / 'tiny'}\n"
        "reward: {preset: released, components: {f1: 1.0}, clamp: [0, 1]}\n"
        f"data: {{eval: [{{source: jsonl, path: {files / 'rows.jsonl'}, count: 4}}]}}\n"
        "eval: {max_new_tokens: 8}\nimage: {max_pixels: 4096}\n"
    )
    gold = ("--backend", "replay", "--responses", files / "gold.jsonl")
    code, out, err = pr1(recipe, *gold, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["n"] == 4
    assert metrics["metrics"]["reward"]["value"] == 1.0  # F1 alone, clamped at 1: the recipe's reward, not a preset's
    row = json.loads((tmp_path / "out" / "samples.jsonl").read_text().splitlines()[0])
    assert row["model_size"] == [64, 64]
    code, out, err = pr1(recipe, *gold, "--out", tmp_path / "robust", "--json", "--preset", "robust")
    assert code == 0, err
    assert json.loads((tmp_path / "robust" / "settings.json").read_text())["preset"] == "robust"


def test_images_are_seen_by_the_models_own_limits(files, pr1, tmp_path):
    """Without a recipe the limits that training stored count; others are taken, and said."""
    from perception_r1.models.limits import set_limits

    model, processor = build_tiny("qwen3_vl")
    set_limits(processor, (1024, 4096))
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    options = ("--model", tmp_path / "small", "--task", "detection", "--data", files / "rows.jsonl", "--quiet")
    options = (*options, "--max-new-tokens", 2, "--limit", 2, "--json")

    def sizes(folder):
        return {tuple(json.loads(line)["model_size"]) for line in (folder / "samples.jsonl").read_text().splitlines()}

    code, out, err = pr1(*options, "--out", tmp_path / "own")
    assert code == 0, err
    assert sizes(tmp_path / "own") == {(64, 64)}
    assert "warning" not in err
    code, out, err = pr1(*options, "--out", tmp_path / "other", "--max-pixels", 1_000_000)
    assert code == 0, err
    assert sizes(tmp_path / "other") == {(96, 96)}
    warning = (
        "2 of 2 images are shown at another size than by the model's own processor (1,024 to 4,096 pixels; here 1,024 "
        "to 1,000,000)"
    )
    assert f"warning: {warning}" in err
    assert warning in json.loads(out)["notes"]
    recipe = tmp_path / "recipe.yaml"  # names no limits: trained by the family's, and so evaluated
    recipe.write_text(f"name: r\ntask: detection\nmodel: {tmp_path / 'small'}\n")
    code, out, err = pr1(recipe, *options, "--out", tmp_path / "recipe")
    assert code == 0, err
    assert sizes(tmp_path / "recipe") == {(96, 96)}
    assert "warning: 2 of 2 images" in err


def test_saved_answers_in_pixels_need_the_limits_of_who_wrote_them(pr1, tmp_path):
    from PIL import Image

    Image.new("RGB", (1920, 1080)).save(tmp_path / "a.png")
    row = {"id": "1", "image": "a.png", "task": "grounding", "question": "cat", "boxes": [[400, 200, 900, 700]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "answers.jsonl").write_text(
        json.dumps({"id": "1", "response": '[{"bbox_2d": [402, 202, 906, 708]}]'}) + "\n"
    )
    options = (
        "--backend",
        "replay",
        "--responses",
        tmp_path / "answers.jsonl",
        "--family",
        "qwen2_5_vl",
        "--task",
        "grounding",
        "--data",
        tmp_path / "rows.jsonl",
        "--out",
        tmp_path / "out",
        "--json",
    )
    code, _, err = pr1(*options)
    assert code == 2
    assert "seen at 1316 × 728 (3,136 to 1,000,000 pixels) or at 1932 × 1092" in err
    assert err.strip().endswith("give --min-pixels and --max-pixels of who answered")
    code, out, err = pr1(*options, "--max-pixels", 12_845_056)
    assert code == 0, err
    assert json.loads(out)["metrics"]["reward"]["value"] == pytest.approx(0.99739, abs=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "say which task"),
        (("--task", "detection"), "say which model"),
        (("--task", "detection", "--backend", "replay"), "--responses FILE.jsonl"),
        (("--task", "detection", "--backend", "tpu"), "expected transformers, vllm, openai or replay"),
        (("--task", "detection", "--model", "{0}/images"), "has no config.json"),
        (("--task", "detection", "--model", "{0}/tiny"), "say what to evaluate on"),
        (("--task", "detection", "--model", "{0}/tiny", "--data", "{0}/none.jsonl"), "no such data file"),
    ],
)
def test_bad_input_is_one_line(files, pr1, args, message):
    code, out, err = pr1(*(arg.format(files) for arg in args))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_rows_that_the_recipe_trains_on_are_named(files, pr1, tmp_path):
    pytest.importorskip("trl")
    rows = {"source": "jsonl", "path": str(files / "rows.jsonl"), "count": 3}
    recipe = {"name": "a", "task": "detection", "model": str(files / "tiny"), "grpo": {}}
    for name, train in (("same", rows), ("other", {"source": "digits", "path": str(tmp_path / "drawn"), "count": 3})):
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps({**recipe, "data": {"train": [train], "eval": [rows]}}))
        answers = ("--backend", "replay", "--responses", files / "gold.jsonl")
        code, _, err = pr1(file, *answers, "--out", tmp_path / name, "--quiet")
        assert code == 0, err
        assert ("is in data.train, too" in err) == (name == "same")
