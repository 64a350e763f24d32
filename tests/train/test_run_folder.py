from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_r1.errors import UserError
from perception_r1.train import run_folder


def checkpoint(folder: Path, step: int, state: str | None = '{"global_step": 1}') -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_last_checkpoint_is_by_number_and_passes_over_half_written_ones(tmp_path: Path) -> None:
    assert run_folder.last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    newest_whole = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 150, state=None)  # killed before the state was written
    checkpoint(tmp_path, 200, state='{"global_st')  # killed while it was
    assert run_folder.last_checkpoint(tmp_path) == newest_whole


def test_drop_after_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a"')
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    for name in ("step-000002.parquet", "step-000003.parquet", "step-000003-rank1.parquet"):
        (rollouts / name).touch()
    run_folder.drop_after(tmp_path, 2)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]
    assert [path.name for path in rollouts.iterdir()] == ["step-000002.parquet"]


def test_a_folder_with_another_run_is_refused_with_the_fix(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_folder.open_run(run, {"task": "ocr"}, resume=False)
    with pytest.raises(UserError, match="--resume"):
        run_folder.open_run(run, {"task": "ocr"}, resume=False)
    run_folder.open_run(run, {"task": "ocr"}, resume=True)
    with pytest.raises(UserError, match="differs in: task"):
        run_folder.open_run(run, {"task": "counting"}, resume=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        run_folder.open_run(other, {}, resume=False)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_environment_names_versions_and_nothing_personal() -> None:
    found = run_folder.environment()
    assert found["packages"]["numpy"]
    assert found["cores"] >= 1
    assert str(Path.home()) not in json.dumps(found)
