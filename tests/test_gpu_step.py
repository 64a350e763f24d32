"""The GPU benchmark runs: on the CPU, with a tiny model whose tokenizer pads on the right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("trl")

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_step.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FILE.parent))
    spec = importlib.util.spec_from_file_location("gpu_step", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", ["lora", "full"])
def test_a_case_is_trained_and_planned(
    case: str, bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perception_r1.train import grpo

    monkeypatch.setattr(grpo, "finish", grpo.finish)  # the benchmark replaces it; put it back afterwards
    monkeypatch.setattr(sys, "path", list(sys.path))
    built = bench.build(build=str(tmp_path), try_out=True)
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["padding_side"] == "right"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    recipe = bench.recipe_of(tmp_path, case, shared=True, steps=2, answer=8, try_out=True)
    row = bench.measure(recipe=str(recipe), card=built["card"])
    assert len(row["step_seconds"]) == len(row["logged"]) == 2
    assert all(step["grad_norm"] > 0 for step in row["logged"])
    assert not (recipe.with_suffix("") / "model").exists()
    assert sum(row["plan"]["memory_bytes"].values()) > 0
    cells = bench.line({"case": case, "shared": True, **row}).split("|")
    assert len(cells) == 9


def test_a_case_that_fails_is_a_row_too(bench: ModuleType, tmp_path: Path) -> None:
    row = {"case": "full", "shared": False, **bench.run({"recipe": str(tmp_path / "no.yaml"), "card": "cpu"}, 300.0)}
    assert "no such recipe" in row["failed"]
    assert bench.line(row).count("|") == 8
    assert bench.run({"recipe": "x", "card": "cpu"}, 0.01) == {"failed": "not done after 0 s"}


def test_without_a_gpu_it_says_how_to_try_it() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no GPU")
    assert "--try-out" in done.stderr


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(FILE), "--try-out", "--steps", "2", "--seconds", "600", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads(out.read_text())
    assert [(row["case"], row["shared"]) for row in values["rows"]] == [
        ("lora", True),
        ("lora", False),
        ("full", True),
        ("full", False),
    ]
    assert all(len(row["step_seconds"]) == 2 for row in values["rows"])
