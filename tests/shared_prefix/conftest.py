"""A tiny model of each family, made once; shared prefixes are off again after every test."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import batches
import pytest

from perception_r1 import shared_prefix

_tiny = cache(batches.tiny)


@pytest.fixture(params=batches.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> Iterator[Any]:
    """The same model for every test: tests that change it take `fresh`."""
    yield (model := _tiny(family))
    shared_prefix.disable(model)
    model.eval()


@pytest.fixture
def fresh(family: str) -> Iterator[Any]:
    """A model of the test's own."""
    yield (model := copy.deepcopy(_tiny(family)))
    shared_prefix.disable(model)
