"""The examples in the docstrings of what loads without torch are right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import perception_r1
from perception_r1 import core, tasks

MODULES = [
    "perception_r1",
    "perception_r1.errors",
    "perception_r1.families",
    "perception_r1.prompts",
    *(
        f"{package.__name__}.{found.name}"
        for package in (core, tasks)
        for found in pkgutil.iter_modules(package.__path__)
    ),
    tasks.__name__,
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_package_says_what_is_public() -> None:
    assert perception_r1.__all__ == ["score"]
