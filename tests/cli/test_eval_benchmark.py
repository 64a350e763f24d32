"""pr1 eval --benchmark, pr1 compare, pr1 predict and pr1 report --paper as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from perception_r1.cli import main
from perception_r1.evaluate.benchmarks import expand
from perception_r1.evaluate.checkpoints import CHECKPOINTS
from pr1_folder import write_pr1_folder

GOOD = "<|object_ref_start|>left dog<|object_ref_end|><|box_start|>(62,125),(375,333)<|box_end|>"


@pytest.fixture
def pr1(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, args)))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def data(tmp_path):
    """Two splits of RefCOCO+ in PR1's own folder, and its result files."""
    folder = tmp_path / "eval"
    images = folder / "images/coco/train2014"
    images.mkdir(parents=True)
    Image.new("RGB", (64, 48), "white").save(images / "a.jpg")
    record = {"image": "train2014/a.jpg", "problem": "left dog", "solution": [4, 6, 24, 16]}
    (folder / "jsons/grounding").mkdir(parents=True)
    for split, n in (("testA", 2), ("testB", 1), ("val", 3)):
        (folder / f"jsons/grounding/refcocop_{split}.json").write_text(json.dumps([record] * n))
        details = [{"question": "left dog", "model_output": GOOD if i else "none"} for i in range(n)]
        (folder / f"rec_results_{split}.json").write_text(json.dumps({"details": details}))
    return folder


def test_a_benchmark_from_pr1_result_file(pr1, data, tmp_path):
    base = ("eval", "--backend", "replay", "--data", data, "--family", "qwen2_vl", "-q")
    saved = ("--benchmark", "refcoco+-testA", "--responses", data / "rec_results_testA.json")
    for name in ("first", "second"):
        code, out, err = pr1(*base, *saved, "--model", name, "--out", tmp_path / name)
        assert code == 0, err
    assert "second · refcoco+-testA · 2 of 2 samples scored" in out
    assert "--paper pr1" in out
    metrics = json.loads((tmp_path / "first/metrics.json").read_text())
    assert metrics["benchmark"] == "refcoco+-testA"
    assert metrics["metrics"]["acc@0.5"]["value"] == 0.5
    assert {"acc@0.1", "acc@0.3", "acc@0.95", "avg", "mean_iou", "center_acc"} <= metrics["metrics"].keys()
    assert metrics["notes"][-1] == f"RefCOCO+ testA from {data}/jsons/grounding/refcocop_testA.json"

    code, out, err = pr1("compare", tmp_path / "first", tmp_path / "second")
    assert code == 0, err
    assert "A: first   B: second   2 samples of both" in out
    assert "McNemar (IoU ≥ 0.5): only A 0, only B 0, both 1, neither 1; exact p = 1, mid-p = 1" in out

    pytest.importorskip("jinja2")
    code, out, err = pr1(
        "report", tmp_path / "first", tmp_path / "second", "--paper", "pr1", "--out", tmp_path / "p.html"
    )
    assert code == 0, err
    assert "**first** (ours)" in (tmp_path / "p.md").read_text()


def test_a_published_checkpoint_brings_its_settings_and_benchmarks(pr1, data, tmp_path):
    """Only the folder of the data is named; the answers are replayed."""
    folder = data / "jsons/grounding"
    for dataset in ("refcoco_val", "refcoco_testA", "refcoco_testB", "refcocog_val", "refcocog_test"):
        (folder / f"{dataset}.json").write_text((folder / "refcocop_testB.json").read_text())
    lines = [json.dumps({"id": str(number), "response": GOOD}) for number in range(1, 4)]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    code, out, err = pr1(
        "eval",
        "--model",
        "Kangheng/PR1-Qwen2-VL-2B-Grounding",
        "--data",
        data,
        "--backend",
        "replay",
        "--responses",
        tmp_path / "all.jsonl",
        "--out",
        tmp_path / "out",
        "--json",
        "-q",
    )
    assert code == 0, err
    found = json.loads(out)
    assert [metrics["benchmark"] for metrics in found] == [
        "refcoco-val",
        "refcoco-testA",
        "refcoco-testB",
        "refcoco+-val",
        "refcoco+-testA",
        "refcoco+-testB",
        "refcocog-val",
        "refcocog-test",
    ]
    settings = json.loads((tmp_path / "out/refcoco-val/settings.json").read_text())
    assert (settings["family"], settings["prompt"]) == ("qwen2_vl", "evaluation")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--benchmark", "refcoco,coco2017", "--model", "m/x"), "one task at a time (detection, grounding)"),
        (("--benchmark", "refcoco-val", "--model", "m/x", "-f", "qwen2_vl"), "say where the benchmark's files are"),
        (("--benchmark", "nothing", "--model", "m/x"), "unknown benchmark 'nothing'"),
        (("--like", "x", "--model", "m/x"), "is no published checkpoint"),
        (("--model", "tongxiao2002/Perception-R1-7B", "--data", "."), "make bench-general"),
        (("--task", "ocr", "--model", "m", "--backend", "openai", "--data", "x"), "give --family"),
        (("--task", "ocr", "--model", "m", "--box-scores", "x"), "expected one or logprob"),
        (
            ("--benchmark", "refcoco-val", "--model", "m/x", "-f", "qwen2_vl", "--data", "{0}", "-b", "openai"),
            "holds no file of RefCOCO val",
        ),
        (
            (
                "--benchmark",
                "refcoco+-val",
                "--model",
                "m/x",
                "--family",
                "qwen2_vl",
                "--data",
                "{0}",
                "--backend",
                "openai",
            ),
            "--server http://HOST:PORT/v1",
        ),
        (
            (
                "--benchmark",
                "refcoco+-val",
                "--model",
                "m/x",
                "--family",
                "qwen2_vl",
                "--data",
                "{0}",
                "--backend",
                "openai",
                "--request",
                "[1]",
            ),
            "--request: expected a JSON object",
        ),
    ],
)
def test_bad_input(pr1, data, args, message):
    code, out, err = pr1("eval", *(arg.format(data) for arg in args))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [name for name, item in CHECKPOINTS.items() if item.benchmarks])
def test_every_published_checkpoint_with_a_tiny_model_of_its_family(pr1, tmp_path, checkpoint):
    """The real loading, prompts, image limits and scoring of each; only the weights are small and random."""
    pytest.importorskip("transformers")
    from perception_r1.models.tiny import build_tiny

    known = CHECKPOINTS[checkpoint]
    model, processor = build_tiny(known.family)
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    code, out, err = pr1(
        "eval",
        "--model",
        tmp_path / "tiny",
        "--like",
        checkpoint,
        "--data",
        write_pr1_folder(tmp_path / "eval"),
        "--max-new-tokens",
        4,
        "--out",
        tmp_path / "out",
        "--json",
        "-q",
        "--device",
        "cpu",
    )
    assert code == 0, err
    found = json.loads(out)
    found = found if isinstance(found, list) else [found]
    assert [metrics["benchmark"] for metrics in found] == [item.name for item in expand(known.benchmarks)]
    for metrics in found:
        assert metrics["n_scored"] == metrics["n"] > 0
        settings = json.loads((Path(metrics["out"]) / "settings.json").read_text())
        assert (settings["family"], settings["prompt"]) == (known.family, "evaluation")
        assert settings["repetition_penalty"] == known.repetition_penalty


def test_predict_through_a_server(pr1, data, tmp_path):
    pytest.importorskip("aiohttp")
    from chat_double import ChatDouble, completion

    def behave(body, n):
        made = completion("(62,125),(375,333)")
        pictures = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
        made["usage"]["prompt_tokens"] = 10 + 6 * len(pictures)
        return made

    image = data / "images/coco/train2014/a.jpg"
    with ChatDouble(behave) as double:
        options = ("--model", "m", "--backend", "openai", "--server", double.url, "--family", "qwen2_vl")
        code, out, err = pr1(
            "predict", image, "--task", "grounding", "-q", "left dog", *options, "-o", tmp_path / "p.png"
        )
        assert code == 0, err
        assert "1 found" in out
        assert "left dog: 4.0 6.0 24.0 16.0" in out
        assert Image.open(tmp_path / "p.png").width > 400
        code, out, err = pr1("predict", image, "--task", "ocr", *options, "-o", tmp_path / "o.png", "--json")
        assert json.loads(out)["answer"] == "(62,125),(375,333)"
        code, out, err = pr1("predict", image, "--task", "counting", *options)
        assert (code, out) == (2, "")
        assert '--question "the red car"' in err
        code, out, err = pr1("predict", image, "--task", "ocr", *options, "--backend", "replay")
        assert (code, out) == (2, "")
        assert "--backend replay: expected transformers, vllm, openai (replay has no model to ask)" in err
