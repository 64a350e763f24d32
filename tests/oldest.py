"""Print the lowest versions that pyproject.toml allows, as constraints of pip (`make test-oldest`)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("train", "eval", "judge", "report", "dev")
FLOOR = re.compile(r"^([A-Za-z0-9_.-]+)\s*>=\s*([0-9][^,;\s]*)")


def floors(pyproject: Path = PYPROJECT, extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """Read the lowest allowed version of each direct dependency that states one.

    Args:
        pyproject: The file to read.
        extras: The optional dependencies to read beside the required ones.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return dict(match.groups() for line in lines if (match := FLOOR.match(line)))  # type: ignore[misc]


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(floors().items())))
