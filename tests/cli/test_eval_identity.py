"""``pr1 eval`` never shows another model's figures: two runs, a retraining, a server, saved answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from chat_double import ChatDouble, completion
from perception_r1.cli import main
from perception_r1.data.digits import make_scenes
from perception_r1.data.jsonl import write_jsonl
from perception_r1.models.tiny import build_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models of two seeds: what two trainings leave."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        model, processor = build_tiny("qwen3_vl", seed=seed)
        model.save_pretrained(folder / str(seed))
        processor.save_pretrained(folder / str(seed))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, models):
    """A working folder with runs/A/model, runs/B/model and rows of three scenes."""
    monkeypatch.chdir(tmp_path)
    for seed, run in enumerate("AB"):
        shutil.copytree(models / str(seed), tmp_path / "runs" / run / "model")
    write_jsonl(tmp_path / "rows.jsonl", make_scenes("counting", 3, seed=0, split="heldout", out_dir=tmp_path / "i"))
    return tmp_path


@pytest.fixture
def pr1(capsys):
    def call(*args):
        options = ("--task", "counting", "--data", "rows.jsonl", "-q", "--json", "--max-new-tokens", "4")
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, args), *options])
        captured = capsys.readouterr()
        return ended.value.code, json.loads(captured.out) if captured.out else None, captured.err

    return call


def answers(folder):
    return [json.loads(line)["response"] for line in (Path(folder) / "samples.jsonl").read_text().splitlines()]


def test_two_runs_have_folders_and_answers_of_their_own(place, pr1):
    found = {}
    for run in "AB":
        code, metrics, err = pr1("--model", f"runs/{run}/model")
        assert (code, err) == (0, "")
        assert (metrics["model"], metrics["out"]) == (run, f"runs/eval-counting-{run}")
        assert metrics["identity"]["path"] == str(place / f"runs/{run}/model")
        found[run] = answers(metrics["out"])
    assert found["A"] != found["B"]
    code, metrics, err = pr1("--model", place / "runs/A/model/")  # named otherwise: the same
    assert (code, err, metrics["out"]) == (0, "", "runs/eval-counting-A")


def test_retrained_in_the_same_folder(place, pr1, models):
    code, before, _ = pr1("--model", "runs/A/model")
    old = answers(before["out"])
    shutil.rmtree("runs/A/model")
    shutil.copytree(models / "1", "runs/A/model")
    code, after, err = pr1("--model", "runs/A/model")
    assert code == 0
    assert err.startswith("note: runs/eval-counting-A: holds the results of another model, ")
    assert err.count("\n") == 1
    assert after["out"].startswith("runs/eval-counting-A-")
    assert after["out"] in err
    assert answers(after["out"]) != old
    assert answers(before["out"]) == old  # what was paid for is still there
    # the same command goes on in the same folder, and says so again
    code, again, err = pr1("--model", "runs/A/model")
    assert (code, again["out"], again["metrics"]) == (0, after["out"], after["metrics"])
    # with a folder that was named: refused before the model is loaded, replaced if asked for
    code, out, err = pr1("--model", "runs/A/model", "--out", before["out"])
    assert (code, out, err.count("\n")) == (2, None, 1)
    assert "another model" in err
    assert "choose another --out, or --no-resume to replace them" in err
    assert answers(before["out"]) == old
    code, _, err = pr1("--model", "runs/A/model", "--out", before["out"], "--no-resume")
    assert code == 0
    assert answers(before["out"]) == answers(after["out"])


def test_a_folder_of_an_earlier_version_is_not_guessed_at(place, pr1):
    code, before, _ = pr1("--model", "runs/A/model")
    file = Path(before["out"]) / "settings.json"
    settings = json.loads(file.read_text())
    del settings["identity"]
    file.write_text(json.dumps(settings))
    code, after, err = pr1("--model", "runs/A/model")
    assert code == 0
    assert "did not record its model's fingerprint" in err and err.count("\n") == 1
    assert after["out"] != before["out"]
    assert after["metrics"] == before["metrics"]
    code, _, err = pr1("--model", "runs/A/model", "--out", before["out"])
    assert code == 2
    assert "did not record its model's fingerprint" in err and err.count("\n") == 1
    file.unlink()
    code, _, err = pr1("--model", "runs/A/model", "--out", before["out"])
    assert code == 2
    assert "no settings.json says the model of" in err and err.count("\n") == 1


def test_a_killed_evaluation_goes_on_to_the_same_file(place, pr1):
    code, whole, _ = pr1("--model", "runs/A/model", "--out", "whole")
    code, _, _ = pr1("--model", "runs/A/model", "--out", "cut")
    file = place / "cut" / "samples.jsonl"
    (place / "cut" / "metrics.json").unlink()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:1]) + b'{"id": "half')
    code, again, err = pr1("--model", "runs/A/model", "--out", "cut")
    assert (code, err) == (0, "")
    assert file.read_bytes() == (place / "whole" / "samples.jsonl").read_bytes()
    assert again["metrics"] == whole["metrics"]


def test_other_pictures_under_the_same_names_are_another_evaluation(place, pr1):
    from PIL import Image

    pr1("--model", "runs/A/model", "--out", "e")
    for file in (place / "i").rglob("*.png"):
        Image.new("RGB", Image.open(file).size, "gray").save(file)
    code, _, err = pr1("--model", "runs/A/model", "--out", "e")
    assert code == 2
    assert "differs in: data" in err


def test_saved_answers_of_another_file(place, pr1):
    ids = [json.loads(line)["id"] for line in (place / "rows.jsonl").read_text().splitlines()]
    for name, response in (("a", "[]"), ("b", "two")):
        (place / name).mkdir()
        (place / name / "samples.jsonl").write_text(
            "".join(json.dumps({"id": key, "response": response}) + "\n" for key in ids)
        )
    replay = ("--backend", "replay", "--family", "qwen3_vl", "--responses")
    folders = [pr1(*replay, f"{name}/samples.jsonl")[1]["out"] for name in "ab"]
    assert [answers(folder)[0] for folder in folders] == ["[]", "two"]


def test_a_server_with_another_model_behind_the_same_name(place, pr1):
    def behave(body, n):
        made = completion(said)
        pictures = sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        made["usage"]["prompt_tokens"] = 10 + 11 * pictures
        return made

    said = "[]"
    with ChatDouble(behave, models=[{"id": "m", "created": 1, "root": str(place / "runs/A/model")}]) as double:
        server = ("--backend", "openai", "--server", double.url, "--family", "qwen3_vl", "--model", "m")
        code, first, err = pr1(*server)
        assert code == 0, err
        assert first["identity"]["root"] == str(place / "runs/A/model")
        asked = len(double.bodies)
        assert pr1(*server)[1]["metrics"] == first["metrics"] and len(double.bodies) == asked
        double.models[0]["root"], said = str(place / "runs/B/model"), "three"
        code, second, err = pr1(*server)
    assert code == 0 and "holds the results of another model, m at http" in err
    assert [answers(metrics["out"])[0] for metrics in (first, second)] == ["[]", "three"]
