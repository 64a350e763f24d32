"""The constraints of ``make test-oldest``."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from oldest import PYPROJECT, floors


def test_each_dependency_of_the_product_states_a_floor() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = ("train", "eval", "judge", "report")
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    names = {line.split(">=")[0] for line in lines}
    assert names <= floors().keys()
    assert all(">=" in line for line in lines)


def test_floors_are_read_and_upper_limits_are_not(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\ndependencies = ["a-b>=1.2", "c"]\n[project.optional-dependencies]\n'
        'x = ["d >= 0.22,<=0.31", "e<2"]\ny = ["f>=9"]\n'
    )
    assert floors(file, ("x",)) == {"a-b": "1.2", "d": "0.22"}


def test_an_extra_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\ndependencies = []\n[project.optional-dependencies]\n")
    with pytest.raises(KeyError):
        floors(file)
