"""The examples in the docstrings of the analysis are right."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from perception_r1 import analysis


@pytest.mark.parametrize("name", [found.name for found in pkgutil.iter_modules(analysis.__path__)])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"{analysis.__name__}.{name}")).failed == 0
