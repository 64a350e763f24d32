"""A real lmms-eval: our model adapter and our tasks, offline, with a tiny model (``make test-lmms``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="lives in an environment of its own: make test-lmms")

from perception_r1.evaluate.benchmarks import BENCHMARKS, load_benchmark
from perception_r1.evaluate.lmms_results import read_lmms_results
from perception_r1.integrations.lmms_eval.tasks import write_tasks
from perception_r1.models.tiny import build_tiny
from perception_r1.types import BoxTarget, Sample


def test_the_entry_point_is_found():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.resolve("perception_r1").class_path == "perception_r1.integrations.lmms_eval.model.PerceptionR1"


def _run(folder, task):
    """lmms-eval on a task in ``folder/tasks``, with a tiny model and no network; its figures by table and column."""
    model, processor = build_tiny("qwen2_vl")
    model.save_pretrained(folder / "tiny")
    processor.save_pretrained(folder / "tiny")
    command = [
        sys.executable,
        "-m",
        "lmms_eval",
        "--model",
        "perception_r1",
        "--batch_size",
        "2",
        "--model_args",
        f"pretrained={folder / 'tiny'},max_new_tokens=8",
        "--tasks",
        task,
        "--include_path",
        folder / "tasks",
        "--output_path",
        folder / "out",
        "--log_samples",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return {(result.table, result.column): result for result in read_lmms_results(folder / "out")}


def test_referring_expressions_of_people(tmp_path, shared_data):
    """Real expressions on real photographs, in VLM-R1's form."""
    data = shared_data / "referring" / "refcocos_test.json"
    found = load_benchmark(BENCHMARKS["refcoco-val"], data, shared_data / "coco" / "val2017", missing="skip")
    name = write_tasks(found.benchmark, found.samples, tmp_path / "tasks", family="qwen2_vl")
    figures = _run(tmp_path, name)
    assert {column for _, column in figures} == {"val@50", "val@75", "val@95", "valAvg"}
    assert {(result.n, result.whole) for result in figures.values()} == {(len(found.samples), 10834)}


def test_a_whole_run(tmp_path):
    samples = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (96, 64), (80 * number, 0, 0)).save(path)
        target = BoxTarget(((4.0, 4.0, 40.0, 40.0),), ("dog",))
        samples.append(Sample(str(number), "detection", "", target, str(path), (96, 64), categories=("dog", "cat")))
    name = write_tasks(BENCHMARKS["coco2017"], samples, tmp_path / "tasks", family="qwen2_vl")
    found = _run(tmp_path, name)
    assert found["coco2017", "AP"].value == 0.0  # an untrained model of 8 tokens
    assert found["coco2017", "AP"].model == "tiny"
    (log,) = (tmp_path / "out").rglob(f"*samples_{name}.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 3
