"""The parts of ``make bench`` that are figures of rightness, not of speed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "run.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FILE.parent))
    spec = importlib.util.spec_from_file_location("bench_run", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_right_answers_of_all_tasks_and_families_reach_their_bound(bench: ModuleType) -> None:
    pytest.importorskip("math_verify")
    [figure] = bench.round_trips()
    assert figure.met, figure
    assert figure.value == 0


def test_importing_the_product_loads_nothing_heavy(bench: ModuleType) -> None:
    assert bench.loaded("import perception_r1; perception_r1.score; import perception_r1.tasks") == 0
