"""Several processes without a launcher of the user's: how many, what is said, and that they end as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perception_r1.errors import RecipeError
from perception_r1.train import launch

torch = pytest.importorskip("torch")


def python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, env=environment, **pipes, **options)


@pytest.mark.parametrize(
    ("asked", "table", "environment", "expected"),
    [
        (None, {}, {}, 8),
        (1, {}, {}, 1),
        (3, {}, {}, 3),
        (None, {"use_cpu": True}, {}, 1),
        (2, {"use_cpu": True}, {}, 2),
        (None, {"model_init_kwargs": {"device_map": "auto"}}, {}, 1),  # one model over all GPUs
        (None, {}, {"WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 1),
        (8, {}, {"WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 1),
        (None, {}, {"OMPI_COMM_WORLD_SIZE": "8"}, 1),
        (None, {}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, 1),  # accelerate launch --num_processes 1
    ],
)
def test_the_number_of_processes(
    asked: int | None,
    table: dict[str, Any],
    environment: dict[str, str],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert launch.n_to_start(asked, table, environment) == expected


@pytest.mark.parametrize(
    ("asked", "environment", "says"),
    [
        (9, {}, "--processes 9: 8 GPUs are visible"),
        (4, {"WORLD_SIZE": "8"}, "--processes 4: a launcher has started 8"),
        (4, {"ACCELERATE_MIXED_PRECISION": "no"}, "--processes 4: a launcher has started 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    asked: int, environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(RecipeError, match=says):
        launch.n_to_start(asked, {}, environment)


def test_without_a_gpu_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.n_to_start(None, {}, {}) == 1
    assert launch.n_to_start(2, {}, {}) == 2  # gloo


def test_the_line_names_the_ways_to_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    line = launch.announcement(8, {}, None)
    assert line.startswith("starting 8 processes, one for each visible GPU (DDP")
    assert "configs/accelerate/fsdp2.yaml" in line and "--processes 1" in line
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").touch()
    assert "default_config.yaml is for accelerate launch and not read" in launch.announcement(8, {}, None)
    line = launch.announcement(8, {}, None, "zero3")
    assert "but the recipe was written for zero3" in line
    assert "configs/accelerate/zero3.yaml" in line
    assert "the recipe's deepspeed" in launch.announcement(8, {"deepspeed": "zero3.json"}, 8)


def test_visible_gpus_get_a_process_each(recipe_file: Path, tmp_path: Path) -> None:
    """Two are seen by the parent only: its processes run on the CPU, and as one training."""
    pytest.importorskip("trl")
    out = tmp_path / "run"
    code = (
        "import sys, torch; torch.cuda.device_count = lambda: 2\nfrom perception_r1.cli import main; main(sys.argv[1:])"
    )
    process = python(code, "sft", str(recipe_file), "--out", str(out), "--set", "sft.max_steps=1", "--quiet")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stdout.startswith(f"model:  {out}/model\n") and stdout.count("\n") == 2  # said once
    assert "starting 2 processes" in stderr
    assert json.loads((out / "environment.json").read_text())["processes"] == 2
    assert json.loads((out / "run.json").read_text())["steps"] == 1


START = "import sys\nfrom perception_r1.train.launch import start\nsys.exit(start(2, sys.argv[1:]))"
WAITS = ("score", "--task", "ocr", "--family", "qwen3_vl", "-")


def test_what_is_wrong_in_all_processes_is_said_once(tmp_path: Path) -> None:
    process = python(START, "score", "--task", "ocr", "--family", "qwen3_vl", str(tmp_path / "none.jsonl"))
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, ""), stderr
    (line,) = stderr.splitlines()
    assert line.startswith("error: ") and "none.jsonl" in line


def children(pid: int, n: int) -> list[int]:
    """The ``n`` processes below ``pid``, once each of them answers to signals."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        # A Python that reads its input waits in the kernel for it.
        waits = [Path(f"/proc/{child}/wchan").read_text() for child in found]
        if len(found) == n and all("pipe" in name for name in waits):
            return found
        time.sleep(0.05)
    raise AssertionError("the processes did not start")


@pytest.mark.skipif(not Path("/proc/self/wchan").is_file(), reason="sees by /proc that the processes have started")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes(number: signal.Signals, code: int) -> None:
    process = python(START, *WAITS, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    started = children(process.pid, 2)
    process.send_signal(number)
    process.wait(timeout=60)
    assert process.stderr is not None
    assert (process.returncode, process.stderr.read().strip()) == (code, "interrupted; resume with --resume")
    assert not any(Path(f"/proc/{child}").exists() for child in started)


@pytest.mark.skipif(not Path("/proc/self/wchan").is_file(), reason="sees by /proc that the processes have started")
def test_a_killed_process_ends_the_others_with_one_line() -> None:
    process = python(START, *WAITS)
    first, second = children(process.pid, 2)
    os.kill(second, signal.SIGKILL)
    process.wait(timeout=60)
    assert process.stderr is not None
    (line,) = process.stderr.read().splitlines()
    assert line.startswith("error: process ") and " of 2 ended with SIGKILL (often: out of memory)" in line
    assert line.endswith("start again with --resume")
    assert process.returncode == 137
    assert not Path(f"/proc/{first}").exists()


def test_one_process_that_sees_several_gpus_takes_the_first(tmp_path: Path) -> None:
    """TRL refuses what transformers makes of several GPUs and one process: nn.DataParallel."""
    pytest.importorskip("trl")
    code = f"""
import torch
torch.cuda.device_count = lambda: 8
torch.cuda.is_available = torch.cuda.is_bf16_supported = lambda *_, **__: True
torch.cuda.set_device = lambda *_: None
import trl
from pathlib import Path
from perception_r1.train.setup import trainer_args
for config in (trl.GRPOConfig, trl.SFTConfig):
    args = trainer_args(config, {{"bf16": False, "tf32": None}}, name="grpo", folder=Path({str(tmp_path)!r}), where="r")
    print(args.device, args.n_gpu, args.train_batch_size)
"""
    process = python(code)
    stdout, stderr = process.communicate(timeout=120)
    assert stdout.splitlines() == ["cuda:0 1 8"] * 2, stderr
