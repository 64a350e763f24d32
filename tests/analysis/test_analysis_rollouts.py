from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("transformers")

from perception_r1.analysis.rollouts import count_rollouts, group_of, read_groups, write_groups
from perception_r1.errors import DataError, UserError
from perception_r1.tasks import make_task
from perception_r1.train.callbacks import RolloutWriter
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample

TASK = make_task("counting", family="qwen3_vl")


def sample(name: str) -> Sample:
    return Sample(name, "counting", "dog", BoxTarget(((0.0, 0.0, 50.0, 50.0),), ("dog",)), image_size=(100, 100))


def scored(name: str, *texts: str, step: int = 1):
    asked = sample(name)
    return group_of(step, asked, [(Completion(text, "stop"), TASK.score(asked, text)) for text in texts])


RIGHT, EMPTY = '[{"bbox_2d": [0, 0, 500, 500], "label": "dog"}]', "[]"


def test_groups_come_back_as_they_were_written(tmp_path: Path) -> None:
    groups = [scored("a", RIGHT, EMPTY), scored("b", EMPTY, "no idea"), scored("a", RIGHT, RIGHT, step=2)]
    write_groups(tmp_path / "run" / "rollouts", groups)
    back = read_groups(tmp_path / "run")
    assert back == groups
    assert count_rollouts(tmp_path / "run") == 6
    assert [(g.is_zero, g.is_flat) for g in back] == [(False, False), (True, True), (False, True)]
    assert back[0].rollouts[0].advantage == pytest.approx(0.70701, abs=1e-5)
    assert back[0].spread == pytest.approx(0.70711, abs=1e-5)


def test_a_group_of_two_processes_is_put_together(tmp_path: Path) -> None:
    right, wrong = (TASK.score(sample("a"), text) for text in (RIGHT, EMPTY))
    for rank, record in enumerate((right, wrong)):
        write = RolloutWriter(tmp_path, group_size=2, rank=rank)
        write(1, [sample("a"), sample("b")], [Completion("x"), Completion("y")], [record, wrong])
    groups = read_groups(tmp_path)
    assert [(g.sample.id, g.rewards) for g in groups] == [("a", [1.0, 0.0]), ("b", [0.0, 0.0])]
    assert [r.advantage for r in groups[0].rollouts] == pytest.approx([0.70701, -0.70701], abs=1e-5)


def test_a_limit_takes_whole_steps_evenly(tmp_path: Path) -> None:
    write_groups(tmp_path, [scored("a", RIGHT, EMPTY, step=step) for step in range(1, 22)])
    assert [group.step for group in read_groups(tmp_path, limit=10)] == [1, 6, 11, 16, 21]
    assert len(read_groups(tmp_path, limit=1)) == 1
    assert len(read_groups(tmp_path, limit=42)) == 21


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(UserError, match="no such folder"):
        read_groups(tmp_path / "none")
    with pytest.raises(UserError, match="holds no rollouts"):
        read_groups(tmp_path)
    pq.write_table(pa.table({"group": [0]}), tmp_path / "step-000001.parquet")
    with pytest.raises(DataError, match="lacks the columns completion, id, record, row"):
        read_groups(tmp_path)
    (tmp_path / "step-000001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        read_groups(tmp_path)


def test_not_scored_is_not_zero() -> None:
    group = group_of(1, sample("a"), [(Completion(""), RewardRecord(None)), (Completion(""), RewardRecord(0.5))])
    assert (group.rewards, group.is_zero, group.is_flat) == ([0.5], False, True)
    assert [r.advantage for r in group.rollouts] == [None, 0.0]
