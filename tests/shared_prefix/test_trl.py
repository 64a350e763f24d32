"""Whole runs of TRL's unmodified trainer, with and without: the same losses, KL and gradient norms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trl_run

from perception_r1.models.tiny import build_tiny

SCRIPT = Path(trl_run.__file__)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a tiny model, by family."""

    def save(family: str) -> str:
        folder = tmp_path_factory.getbasetemp() / f"shared_prefix_{family}"
        if not folder.is_dir():
            model, processor = build_tiny(family)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        return str(folder)

    return save


def check(plain: dict[str, Any], shared: dict[str, Any], *, steps: int = 5) -> None:
    """Each metric of each step within 1e-4, and sharing took place."""
    assert len(plain["logs"]) == len(shared["logs"]) == steps
    for theirs, ours in zip(plain["logs"], shared["logs"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert any(abs(entry["kl"]) > 1e-4 for entry in plain["logs"])  # the weights did move
    assert shared["stats"]["shared"] == shared["stats"]["calls"] > 0
    assert shared["stats"]["tokens_forwarded"] < 0.6 * shared["stats"]["tokens_in"]


def both(tmp_path: Path, model: str, **config: Any) -> dict[str, Any]:
    plain, shared = (trl_run.run(model, str(tmp_path), shared=which, **config) for which in (False, True))
    check(plain, shared)
    return shared["stats"]


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2_vl", "qwen2_5_vl", "internvl")]


@pytest.mark.parametrize("family", ["qwen3_vl", *SLOW])
def test_five_steps(family: str, saved: Any, tmp_path: Path) -> None:
    stats = both(tmp_path, saved(family))
    # Each step: generation, reference and policy see 8 images, of which 2 differ. InternVL cuts each into four tiles.
    tiles = 4 if family == "internvl" else 1
    assert (stats["calls"], stats["images_in"], stats["images_encoded"]) == (15, 120 * tiles, 30 * tiles)


def test_lora_on_the_language_model(saved: Any, tmp_path: Path) -> None:
    """With old log-probabilities too (two steps a generation); the tower is frozen, so an image is encoded once."""
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=r".*language_model.*(q|v)_proj")
    stats = both(tmp_path, saved("qwen2_5_vl"), peft_config=lora, num_iterations=2, learning_rate=3e-2)
    assert stats["images_encoded"] <= 12


def test_checkpointing_and_accumulation(saved: Any, tmp_path: Path) -> None:
    both(
        tmp_path,
        saved("qwen2_5_vl"),
        gradient_checkpointing=True,  # the name in every version
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        beta=0.05,
    )


def launch(tmp_path: Path, model: str, kind: str, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain and the shared run, in two processes; as rank 0 saw them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if kind == "fsdp2":
        environment |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
        }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    done = subprocess.run(
        [*command, model, str(tmp_path), kind, *options], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plain, shared = json.loads((tmp_path / "result.json").read_text())
    return plain, shared


def test_two_processes(saved: Any, tmp_path: Path) -> None:
    plain, shared = launch(tmp_path, saved("qwen2_5_vl"), "ddp")
    assert (shared["processes"], shared["distributed"]) == (2, "MULTI_CPU")
    check(plain, shared, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["frozen"]], ids=["trained", "frozen"])
@pytest.mark.parametrize(("kind", "name"), [("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_two_processes_sharded(saved: Any, tmp_path: Path, kind: str, name: str, options: list[str]) -> None:
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    plain, shared = launch(tmp_path, saved("qwen2_5_vl"), kind, *options)
    for result in (plain, shared):
        assert (result["processes"], result["distributed"]) == (2, name)
    check(plain, shared, steps=3)
    if options:
        assert shared["stats"]["images_encoded"] <= 6  # three steps of two prompts a process, three passes each
