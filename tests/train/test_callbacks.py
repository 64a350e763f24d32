from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import pyarrow.parquet
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.data.row import row_from_sample
from perception_r1.stats import group_advantages
from perception_r1.train.callbacks import RolloutWriter
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample


def sample(name: str) -> Sample:
    return Sample(id=name, task="counting", question="dogs", target=BoxTarget(((0.0, 0.0, 4.0, 4.0),)), image="a.png")


def test_group_advantages_by_hand() -> None:
    # mean 0.5, sample std sqrt(((0.5)^2 * 2) / 1) = 0.70711; 0.5 / (0.70711 + 1e-4) = 0.70701
    assert group_advantages([1.0, 0.0]) == pytest.approx([0.70701, -0.70701], abs=1e-5)
    assert group_advantages([1.0, None, 0.0]) == pytest.approx([0.70701, None, -0.70701], abs=1e-5)
    assert group_advantages([0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0]
    assert group_advantages([0.3, None]) == [0.0, None]
    assert group_advantages([None, None]) == [None, None]
    assert group_advantages([1.0, None, 0.5], scaled=False) == [0.25, None, -0.25]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=16))
def test_group_advantages_equal_trl(rewards: list[float]) -> None:
    torch = pytest.importorskip("torch")
    values = torch.tensor(rewards, dtype=torch.float64)
    expected = (values - values.mean()) / (values.std() + 1e-4)  # as GRPOTrainer computes them
    assert group_advantages(rewards) == pytest.approx(expected.tolist(), abs=1e-6)


def test_rollouts_are_saved_with_their_records(tmp_path: Path) -> None:
    write = RolloutWriter(tmp_path / "rollouts", group_size=2)
    samples = [sample("a"), sample("a"), sample("b"), sample("b")]
    records = [
        RewardRecord(1.0, {"count": 1.0}, reason="all found"),
        RewardRecord(0.0),
        RewardRecord(None),
        RewardRecord(0.5),
    ]
    write(3, samples, [Completion("[]", "stop")] * 4, records)
    table = pyarrow.parquet.read_table(tmp_path / "rollouts" / "step-000003.parquet").to_pylist()
    assert [row["group"] for row in table] == [0, 0, 1, 1]
    assert [row["reward"] for row in table] == [1.0, 0.0, None, 0.5]
    assert table[0]["advantage"] == pytest.approx(0.70701, abs=1e-5)
    assert table[2]["advantage"] is None
    assert json.loads(table[0]["record"])["components"] == {"count": 1.0}
    assert json.loads(table[0]["row"]) == row_from_sample(samples[0])


@pytest.mark.parametrize(("scale", "expected"), [("none", [0.5, -0.5]), ("batch", [None, None])])
def test_advantages_are_those_of_the_recipe(tmp_path: Path, scale: str, expected: list[float | None]) -> None:
    write = RolloutWriter(tmp_path, group_size=2, scale=scale)  # "batch" takes the deviation over all processes
    write(1, [sample("a")] * 2, [Completion("[]", "stop")] * 2, [RewardRecord(1.0), RewardRecord(0.0)])
    table = pyarrow.parquet.read_table(tmp_path / "step-000001.parquet").to_pylist()
    assert [row["advantage"] for row in table] == expected


def test_a_step_that_generates_twice_keeps_both_batches(tmp_path: Path) -> None:
    write = RolloutWriter(tmp_path / "rollouts", group_size=2)
    for step, names in ((1, "ab"), (1, "c"), (2, "d")):
        samples = [sample(name) for name in names for _ in range(2)]
        write(step, samples, [Completion("[]", "stop")] * len(samples), [RewardRecord(1.0)] * len(samples))
    tables = [pyarrow.parquet.read_table(path).to_pylist() for path in sorted((tmp_path / "rollouts").iterdir())]
    assert [[(row["group"], row["id"]) for row in table] for table in tables] == [
        [(0, "a"), (0, "a"), (1, "b"), (1, "b"), (2, "c"), (2, "c")],
        [(0, "d"), (0, "d")],
    ]


def test_a_group_that_spans_processes_has_no_local_advantage(tmp_path: Path) -> None:
    write = RolloutWriter(tmp_path, group_size=2, rank=1)
    write(1, [sample("a"), sample("b")], [Completion("[]")] * 2, [RewardRecord(1.0), RewardRecord(0.0)])
    table = pyarrow.parquet.read_table(tmp_path / "step-000001-rank1.parquet").to_pylist()
    assert [row["advantage"] for row in table] == [None, None]
