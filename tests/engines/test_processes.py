"""Two processes are one: the product's GRPO stage under DDP, FSDP2 and ZeRO gives what a single process gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import gloo_run
from gloo_run import metrics

SCRIPT = Path(gloo_run.__file__)
KEYS = ("loss", "grad_norm", "reward", "kl", "components/count")
HALF = "grpo.per_device_train_batch_size=4"


@pytest.fixture(scope="module")
def alone(digits_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The metrics of one process over the whole batch."""
    import torch

    out = tmp_path_factory.mktemp("alone") / "run"
    torch.set_num_threads(1)
    gloo_run.run(str(digits_recipe), str(out), "plain", [])
    return metrics(out)


def check(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        for key in KEYS:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-4), (key, ours["step"])
    assert len({row["reward"] for row in expected}) > 1


def seen(out: Path) -> dict[str, Any]:
    return json.loads((out / "seen.json").read_text())


def test_ddp_is_one_process(digits_recipe: Path, alone: Any, launch: Any, tmp_path: Path) -> None:
    """Rewards, loss and gradient norm of the same batch, and every rollout saved once."""
    import pyarrow.parquet

    out = tmp_path / "run"
    done = launch(str(SCRIPT), str(digits_recipe), str(out), "plain", HALF)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (seen(out)["num_processes"], seen(out)["distributed_type"]) == (2, "MULTI_CPU")
    assert seen(out)["wrappers_left"] == 0  # see leave_together
    check(metrics(out), alone)
    files = sorted((out / "rollouts").iterdir())
    assert [file.name for file in files[:2]] == ["step-000001-rank1.parquet", "step-000001.parquet"]
    rows = [row for file in files[:2] for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert len(rows) == 8
    assert sum(row["reward"] for row in rows) / 8 == pytest.approx(alone[0]["reward"], abs=1e-6)
    assert (out / "model" / "config.json").is_file()


@pytest.mark.slow
def test_fsdp2_is_one_process_and_resumes(digits_recipe: Path, alone: Any, launch: Any, tmp_path: Path) -> None:
    """Four steps at once, and two steps and then two more, give the same losses; the model saved is whole and cast."""
    import torch

    from perception_r1.models.load import load_model

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = launch(str(SCRIPT), str(digits_recipe), str(whole), "fsdp2", HALF, "save_dtype=bfloat16")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (seen(whole)["num_processes"], seen(whole)["distributed_type"]) == (2, "FSDP")
    assert seen(whole)["parameters"] == ["DTensor"]
    check(metrics(whole), alone)
    assert {value.dtype for value in load_model(whole / "model")[0].parameters()} == {torch.bfloat16}

    rewind(whole, parts, 2)
    done = launch(str(SCRIPT), str(digits_recipe), str(parts), "fsdp2", HALF, "save_dtype=bfloat16", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [[row["loss"] for row in metrics(folder)] for folder in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
def test_ddp_resumes_to_the_same_end(digits_recipe: Path, launch: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The command itself, with answers that are sampled: interrupted after two steps it ends where a whole run ends.

    The reward is some function of the text: a model with random weights earns none of the task's.
    """
    text = "import zlib\n\ndef score(sample, completion, parsed, match):\n"
    text += "    return zlib.crc32(completion.text.encode()) % 101 / 100\n"
    (tmp_path / "varied_reward.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outs = [tmp_path / "whole", tmp_path / "parts"]
    command = ["-m", "perception_r1", "train", str(digits_recipe), "--quiet", "--set", HALF]
    command += ["--set", "reward.function=varied_reward:score"]
    done = launch(*command, "--out", str(outs[0]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("model:") == 1  # one process speaks
    rewind(*outs, 2)
    done = launch(*command, "--out", str(outs[1]), "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    for key in ("loss", "reward", "grad_norm", "kl"):
        whole, parts = ([row[key] for row in metrics(out)] for out in outs)
        assert len(whole) == 4
        assert any(whole)
        assert parts == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_zero_is_one_process(kind: str, digits_recipe: Path, alone: Any, launch: Any, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    out = tmp_path / "run"
    done = launch(str(SCRIPT), str(digits_recipe), str(out), kind, HALF)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (seen(out)["num_processes"], seen(out)["distributed_type"]) == (2, "DEEPSPEED")
    check(metrics(out), alone)


def rewind(whole: Path, parts: Path, step: int) -> None:
    """A copy of a run as if it had been killed after ``step``: later checkpoints and the final model are gone."""
    shutil.copytree(whole, parts, ignore=shutil.ignore_patterns("model"))
    for folder in (parts / "checkpoints").glob("checkpoint-*"):
        if int(folder.name.rpartition("-")[2]) > step:
            shutil.rmtree(folder)
