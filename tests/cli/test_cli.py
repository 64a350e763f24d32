"""The root command: what it imports, what it says when something is wrong, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from perception_r1.cli import COMMANDS, app
from perception_r1.cli.lazy import LazyGroup, Spec
from perception_r1.errors import DataError

HEAVY = {"torch", "transformers", "numpy", "pydantic", "scipy", "PIL", "datasets"}


def pr1(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perception_r1", *args], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("args", [["--help"], ["--version"], []], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom perception_r1.cli import main\n"
        f"try: main({args!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"loaded = set({sorted(HEAVY)!r}) & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert {"demo", "doctor", "data", "check", "score", "sft", "train", "eval", "report", "diagnose"} <= set(COMMANDS)
    for name in COMMANDS:
        assert name in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    module, attribute = COMMANDS[name].target.split(":")
    assert hasattr(import_module(module), attribute)
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output


def test_version() -> None:
    done = pr1("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("perception-r1 ")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chek"], "error: No such command 'chek'. Did you mean 'check'? (see pr1 --help)"),
        (["--fast"], "error: No such option: --fast (see pr1 --help)"),
        (["doctor", "--fast"], "error: No such option: --fast (see pr1 doctor --help)"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(args: list[str], says: str) -> None:
    done = pr1(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().replace("python -m perception_r1", "pr1") == says


def failing(error: BaseException) -> typer.Typer:
    """An app of one command that raises."""
    module = type(sys)("failing_command")

    def fail(resume: bool = False) -> None:
        raise error

    module.fail = fail  # type: ignore[attr-defined]
    sys.modules["failing_command"] = module

    class Root(LazyGroup):
        table = {"fail": Spec("failing_command:fail", "Fails.", "Test")}  # noqa: RUF012

    root = typer.Typer(cls=Root, add_completion=False, pretty_exceptions_enable=False)

    @root.callback()
    def main(traceback: bool = typer.Option(False, "--traceback")) -> None:
        pass

    return root


def missing_module(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            DataError("has x2 < x1\n(swap them)", path="a.jsonl", line=3, field="boxes"),
            2,
            "error: a.jsonl:3: field 'boxes': has x2 < x1 (swap them)",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "rows.jsonl"),
            2,
            "error: rows.jsonl: No such file or directory",
        ),
        (missing_module("trl"), 2, 'error: this needs trl: pip install "perception-r1[train]" (see pr1 doctor)'),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; resume with --resume"),
    ],
)
def test_errors_of_the_user_are_one_line(error: BaseException, code: int, says: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stderr.strip() == says


@pytest.mark.parametrize("error", [RuntimeError("a bug"), missing_module("perception_r1.nowhere"), OSError("odd")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exception is error


def test_traceback_is_an_option() -> None:
    result = CliRunner().invoke(failing(DataError("bad row")), ["--traceback", "fail"])
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.strip().endswith("error: bad row")


def test_an_interrupt_ends_with_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "perception_r1", "score", "--task", "ocr", "--family", "qwen3_vl", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores interrupts, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write('{"response": "abc", "text": "abc"}\n')
    process.stdin.flush()
    assert '"record"' in process.stdout.readline()  # it is at work, and waits for the next line
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"response": "abc", "text": "abc"}\n' * 5000, encoding="utf-8")
    command = f"{sys.executable} -m perception_r1 score --task ocr --family qwen3_vl {rows} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_closed_pipe_is_no_error_where_rich_writes() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "perception_r1", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
