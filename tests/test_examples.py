"""The examples in the docstrings of all modules are right."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import perception_r1

ROOT = Path(perception_r1.__file__).parent


def _with_examples() -> list[str]:
    """Modules whose docstrings hold examples."""
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", _with_examples())
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert result.failed == 0


def test_the_package_says_what_is_public() -> None:
    assert perception_r1.__all__ == ["score"]
