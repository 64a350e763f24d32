from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perception_r1.errors import UserError
from perception_r1.train import run_folder

GRPO = {"stage": "grpo", "task": "ocr"}


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
    run_folder.open_run(run, GRPO, resume=False)
    (run / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    with pytest.raises(UserError, match="--resume"):
        run_folder.open_run(run, GRPO, resume=False)
    run_folder.open_run(run, GRPO, resume=True)
    with pytest.raises(UserError, match="differs in: task"):
        run_folder.open_run(run, {**GRPO, "task": "counting"}, resume=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        run_folder.open_run(other, {}, resume=False)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "left",
    [
        ["config.json"],
        ["config.json", "environment.json", "judge.sqlite", "train.log", "report.html"],
        ["config.json", "rollouts/step-000001.parquet", "rollouts/step-000001-rank1.parquet"],
        ["config.json", "checkpoints/checkpoint-50/model.safetensors", ".model/config.json"],
        ["config.json", "metrics.jsonl"],
        ["environment.json", ".lock"],
        [".config.json.77.tmp"],
        [".environment.json.77.tmp", "environment.json"],
        ["sft/config.json", "sft/environment.json"],
        ["config.json", "sft/config.json", "grpo/environment.json"],
    ],
    ids=" ".join,
)
def test_a_folder_in_which_nothing_was_trained_is_begun_anew(left: list[str], resume: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in left:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text('{"stage": "grpo", "task": "ocr"}' if name.endswith("config.json") else "")
    run_folder.open_run(run, {**GRPO, "task": "counting"}, resume=resume)
    run_folder.drop_after(run, 0)
    assert json.loads((run / "config.json").read_text())["task"] == "counting"
    assert json.loads((run / "environment.json").read_text())["packages"]
    kept = {"judge.sqlite", "train.log", "report.html"}  # what cost something, or is not ours, stays
    assert kept & set(left) == kept & {path.name for path in run.iterdir()}
    assert not list(run.glob(".*.tmp")) and not list(run.glob("rollouts/*")) and not (run / ".model").exists()


@pytest.mark.parametrize(
    "left",
    [
        {"metrics.jsonl": '{"step": 0, "eval_reward": 0.1}\n{"step": 1, "reward": 0.5}\n'},
        {"checkpoints/checkpoint-2/trainer_state.json": "{}"},
        {"model/config.json": "{}"},
        {"adapter/adapter_config.json": "{}"},
        {"rollouts/step-000002.parquet": ""},
        {"sft/config.json": '{"stage": "sft"}', "sft/model/config.json": "{}"},
    ],
    ids=lambda left: next(reversed(left)),
)
def test_a_folder_in_which_something_was_trained_is_not(left: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name, text in {"config.json": json.dumps(GRPO), **left}.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run_folder.open_run(run, GRPO, resume=False)
    assert all((run / name).read_text() == text for name, text in left.items())


@pytest.mark.parametrize("name", ["config.json", "thesis.tex", "grpo/thesis.tex", "rollouts/step-000001.parquet"])
def test_a_folder_of_something_else_is_never_taken_over(name: str, tmp_path: Path) -> None:
    """A model's folder has a ``config.json`` too."""
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text('{"model_type": "qwen3_vl"}')
    for resume in (False, True):
        with pytest.raises(UserError, match="no run of ours"):
            run_folder.open_run(run, GRPO, resume=resume)
    assert (run / name).read_text() == '{"model_type": "qwen3_vl"}'


def test_a_folder_is_one_process_at_a_time(tmp_path: Path) -> None:
    """Two tries before the first step would else write over each other; a killed process blocks nobody."""
    run = tmp_path / "run"
    code = (
        "import json, sys, pathlib\nfrom perception_r1.train import run_folder\n"
        "run_folder.open_run(sys.argv[1], json.loads(sys.argv[2]), resume=False)\nprint('open', flush=True)\ninput()"
    )
    command = [sys.executable, "-c", code, str(run), json.dumps(GRPO)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        for resume in (False, True):
            with pytest.raises(UserError, match="another process is at work"):
                run_folder.open_run(run, GRPO, resume=resume)
        process.kill()
    run_folder.open_run(run, GRPO, resume=False)
    run_folder.open_run(run, GRPO, resume=False)  # by the same process again


def test_an_evaluation_without_training_is_not_begun_anew(tmp_path: Path) -> None:
    diagnosis = {"stage": "diagnose", "task": "ocr"}
    run_folder.open_run(tmp_path / "run", diagnosis, resume=False)
    run_folder.open_run(tmp_path / "run", diagnosis, resume=False)  # nothing in it yet
    (tmp_path / "run" / "answers.jsonl").touch()
    with pytest.raises(UserError, match="--resume"):
        run_folder.open_run(tmp_path / "run", diagnosis, resume=False)


def test_a_finished_warm_start_allows_another_grpo_table(tmp_path: Path) -> None:
    """GRPO ran out of memory after the warm start: its table changes, the warm start stays."""
    recipe = {"task": "ocr", "sft": {"max_steps": 4}, "grpo": {"per_device_train_batch_size": 64}}
    sft = run_folder.open_run(tmp_path / "sft", {**recipe, "stage": "sft"}, resume=False)
    (sft / "model").mkdir()
    run_folder.open_run(sft, {**recipe, "stage": "sft", "grpo": {}}, resume=True)
    with pytest.raises(UserError, match="differs in: sft"):
        run_folder.open_run(sft, {**recipe, "stage": "sft", "sft": {"max_steps": 5}}, resume=True)


def test_environment_names_versions_and_nothing_personal() -> None:
    found = run_folder.environment()
    assert found["packages"]["numpy"]
    assert found["cores"] >= 1
    assert str(Path.home()) not in json.dumps(found)
