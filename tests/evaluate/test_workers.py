"""Two real processes (gloo, on the CPU) share an evaluation and give the file that one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from perception_r1.data.jsonl import write_jsonl

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny, scenes):
    folder = tmp_path_factory.mktemp("two")
    tiny[0].save_pretrained(folder / "tiny")
    tiny[1].save_pretrained(folder / "tiny")
    write_jsonl(folder / "rows.jsonl", scenes)
    return folder


def _run(files, out, processes):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [
        *(launcher if processes > 1 else [sys.executable]),
        "-m",
        "perception_r1",
        "eval",
        "--device",
        "cpu",
        "--model",
        files / "tiny",
        "--task",
        "counting",
        "--data",
        files / "rows.jsonl",
        "--out",
        out,
        "--max-new-tokens",
        "8",
        "--batch-size",
        "4",
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stdout


@pytest.mark.slow
def test_two_processes_give_the_same_file(files, tmp_path):
    alone, _ = _run(files, tmp_path / "one", 1)
    together, printed = _run(files, tmp_path / "two", 2)
    assert printed.count('"n_scored"') == 1  # only the first process speaks
    assert (tmp_path / "one/samples.jsonl").read_bytes() == (tmp_path / "two/samples.jsonl").read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "metrics.json",
        "samples.jsonl",
        "settings.json",
    ]
    skip = ("seconds", "out")
    assert {k: v for k, v in alone.items() if k not in skip} == {k: v for k, v in together.items() if k not in skip}
    # what two processes of a killed evaluation left is gone on with, by one
    rows = (tmp_path / "two/samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "two/samples.jsonl").unlink()
    (tmp_path / "two/samples.0.jsonl").write_text("".join(rows[:5]))
    (tmp_path / "two/samples.1.jsonl").write_text("".join(rows[6:8]) + rows[9][:40])
    _run(files, tmp_path / "two", 1)
    assert (tmp_path / "one/samples.jsonl").read_bytes() == (tmp_path / "two/samples.jsonl").read_bytes()
