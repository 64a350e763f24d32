"""What goes wrong between processes: one is killed, one has no image, the sharding asked for is not what runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

from perception_r1.errors import RecipeError
from perception_r1.train import vision_sync
from perception_r1.train.distributed import check_distribution

NO_IMAGE = Path(__file__).with_name("no_image_run.py")


@pytest.mark.slow
def test_a_killed_process_stops_the_others_with_a_message(digits_recipe: Path, tmp_path: Path) -> None:
    import psutil

    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "perception_r1",
        "train",
        str(digits_recipe),
        "--out",
        str(out),
        "--quiet",
        "--set",
        "grpo.max_steps=1000",
        "--set",
        "grpo.per_device_train_batch_size=4",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 600
        while not (out / "metrics.jsonl").is_file():
            assert process.poll() is None, process.stdout.read()[-3000:]  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        (second,) = [child for child in workers if child.environ().get("RANK") == "1"]
        second.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        said, _ = process.communicate(timeout=60)
        assert time.monotonic() - killed < 60
        assert process.returncode != 0
        assert "[rank 0] error: a process of this run has ended" in said
        assert "--resume" in said
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in workers)
        assert not (out / "model").exists()
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("ddp", "MULTI_CPU"), ("fsdp2", "FSDP")])
def test_a_process_without_an_image_does_not_stop_the_others(
    kind: str, name: str, tiny_folder: Path, launch: Any, tmp_path: Path
) -> None:
    done = launch(str(NO_IMAGE), str(tiny_folder), str(tmp_path), kind, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["distributed_type"] == name
    assert len(seen["logs"]) == 2
    assert all(entry["grad_norm"] > 0 for entry in seen["logs"])


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_vl", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_blank_picture_changes_nothing_and_reaches_every_weight_of_the_tower(family: str, shared: bool) -> None:
    import torch

    from perception_r1 import shared_prefix
    from perception_r1.models.tiny import build_tiny

    model, processor = build_tiny(family)
    model.train()
    ids = torch.tensor([processor.tokenizer("How many digits are there?")["input_ids"]] * 2)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = model(**batch).logits.detach()
    if shared:
        shared_prefix.enable(model)
    handles = vision_sync.enable(model)
    output = model(**batch)
    assert torch.allclose(output.logits, plain, atol=1e-5)
    output.logits.sum().backward()
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in tower.parameters())
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    model(**batch).logits.sum().backward()
    assert all(parameter.grad is None for parameter in tower.parameters())
    generated = model.generate(**batch, max_new_tokens=3, do_sample=False)
    vision_sync.enable(model)
    assert torch.equal(model.generate(**batch, max_new_tokens=3, do_sample=False), generated)


@pytest.mark.parametrize(
    ("kind", "processes", "args", "environment", "refused"),
    [
        ("MULTI_CPU", 2, {}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP was asked for, but accelerate runs MULTI_CPU"),
        ("NO", 1, {"fsdp": True}, {}, "one process without sharding"),
        ("MULTI_GPU", 8, {"deepspeed": "zero3.json"}, {}, "DEEPSPEED was asked for"),
        ("FSDP", 8, {"fsdp": True}, {"ACCELERATE_USE_FSDP": "true"}, None),
        ("DEEPSPEED", 8, {"deepspeed": "zero3.json"}, {"ACCELERATE_USE_DEEPSPEED": "true"}, None),
        ("MULTI_GPU", 8, {}, {}, None),
    ],
)
def test_another_sharding_than_asked_for_is_refused(
    kind: str, processes: int, args: dict[str, Any], environment: dict[str, str], refused: str | None
) -> None:
    accelerator = SimpleNamespace(
        distributed_type=f"DistributedType.{kind}", num_processes=processes, device=SimpleNamespace(type="cpu")
    )
    if refused is None:
        check_distribution(accelerator, SimpleNamespace(**args), environment)
        return
    with pytest.raises(RecipeError, match=refused):
        check_distribution(accelerator, SimpleNamespace(**args), environment)


@pytest.mark.slow
def test_the_command_refuses_fsdp_on_the_cpu(
    digits_recipe: Path, launch: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """accelerate would fall back to DDP without a word."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    command = ["-m", "perception_r1", "train", str(digits_recipe), "--out", str(tmp_path / "run"), "--quiet"]
    done = launch(*command, "--set", "grpo.per_device_train_batch_size=4")
    assert done.returncode != 0
    assert (
        "error: FSDP was asked for, but accelerate runs MULTI_CPU without sharding (2 processes on cpu)" in done.stderr
    )
