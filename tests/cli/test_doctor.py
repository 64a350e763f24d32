"""``pr1 doctor`` on the installation that runs the tests, and its reading of versions and broken packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_r1 import doctor
from perception_r1.cli import app


def test_this_installation_can_train() -> None:
    diagnosis = doctor.examine()
    assert diagnosis.ok, diagnosis.problems
    assert diagnosis.python == ".".join(map(str, sys.version_info[:3]))
    assert diagnosis.devices[0].kind == "cpu"
    assert diagnosis.cores >= 1
    by_name = {package.name: package for package in diagnosis.packages}
    assert by_name["torch"].installed and by_name["torch"].extra == "train"
    assert by_name["numpy"].extra == ""
    assert "pytest" not in by_name


def test_what_is_missing_is_named_with_its_pip_line() -> None:
    package = doctor._package("no-such-package-here", "eval", ">=1.3")
    assert not package.ok
    assert package.fix == 'pip install "perception-r1[eval]"'


@pytest.mark.parametrize(
    ("version", "required", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.6", ">=2.6", True),
        ("2.10.1", ">=2.6", True),
        ("1.16.0.dev0", ">=1.16", True),
        ("5.2.9", ">=5.3", False),
        ("0.9", ">=0.15", False),
        ("6.0.12.20261113", "", True),
    ],
)
def test_versions_are_compared_by_number(version: str, required: str, expected: bool) -> None:
    assert doctor._satisfies(version, required) is expected


def test_json_is_one_object() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["ok"] is True
    assert {"packages", "devices", "memory_gib", "disk_free_gib", "torchvision", "chromium", "notes"} <= found.keys()


def test_the_table_fits_and_ends_with_the_verdict() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert result.stdout.strip().endswith("Training works here.")
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


def test_a_broken_torchvision_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision whose import fails, as beside another build of torch: a real package in a folder of its own."""
    error = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    info = tmp_path / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    diagnosis = doctor.examine()
    assert not diagnosis.ok
    assert error in diagnosis.problems[0]
    assert diagnosis.problems[0].endswith("pip uninstall torchvision")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
