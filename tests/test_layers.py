"""Imports go down, never up: the table of DESIGN's layers, checked on the syntax trees of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "perception_r1"

# Layer of each module or package directly under perception_r1; `progress` (a meter on standard error) imports nothing
# of ours but errors, so everything may use it.
LAYERS = {
    "types": 0,
    "errors": 0,
    "packages": 0,
    "disk": 0,
    "progress": 0,
    "text": 1,
    "stats": 1,
    "boxes": 1,
    "text_metrics": 1,
    "answers": 1,
    "families": 2,
    "rewards": 2,
    "reasoning": 2,
    "tasks": 2,
    "data": 2,
    "models": 3,
    "shared_prefix": 3,
    "judge": 3,
    "recipe": 3,
    "openai_server": 3,
    "train": 4,
    "evaluate": 4,
    "analysis": 4,
    "integrations": 4,
    "check": 5,
    "doctor": 5,
    "report": 5,
    "export": 5,
    "plan": 5,
    "vpr": 6,
    "demo": 6,
    "cli": 6,
    "__main__": 6,
}
# Layer 2 and below: what each may import besides the standard library and ourselves.
LIGHT = {
    0: {"rich"},
    1: {"numpy", "scipy", "rapidfuzz", "pydantic", "yaml"},
    2: {"numpy", "scipy", "rapidfuzz", "pydantic", "yaml", "PIL"},
}
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "matplotlib",
    "sklearn",
    "aiohttp",
    "hotcoco",
}
# Pairs on the same layer that must not know each other.
STRANGERS = {("train", "evaluate"), ("evaluate", "train")}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool) -> list[tuple[str, int]]:
    """(module, line) of the imports; those under ``if TYPE_CHECKING`` never run and are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[tuple[str, int]] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "perception_r1":
                found.extend((f"perception_r1.{alias.name}", node.lineno) for alias in node.names)
            else:
                found.append((node.module or "", node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Which modules of ours each module imports, wherever in the file."""
    known = {module_of(path): path for path in modules()}
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            node
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
            for node in ast.walk(block)
        }
        found[name] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in typing_only and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {other if other in known else node.module for other in names} & known.keys()
        found[name] -= {name, "perception_r1"}
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Nodes that reach themselves, in order; empty where there is no circle."""
    left = {name: set(others) for name, others in edges.items()}
    while done := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in done}
    return sorted(left)


def test_no_circles_of_files_and_of_packages() -> None:
    files = graph()
    assert circle(files) == []
    packages: dict[str, set[str]] = {}
    for name, others in files.items():
        part = name.split(".")[1] if "." in name else name
        packages.setdefault(part, set()).update(other.split(".")[1] for other in others)
    assert circle({part: others - {part} for part, others in packages.items()}) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in modules()} - {"__init__"}
    assert parts <= LAYERS.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":  # the package re-exports lazily; see test_importing_the_package_loads_nothing_heavy
        return
    layer = LAYERS[part]
    for name, line in imports(path, top_level_only=False):
        if not name.startswith("perception_r1."):
            continue
        other = name.split(".")[1]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if other not in LAYERS:  # `from perception_r1 import score`: a name that the package exports
            continue
        assert LAYERS[other] <= layer, f"{where}: layer {LAYERS[other]} from layer {layer}"
        assert (part, other) not in STRANGERS, where


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_out_of_light_modules(path: Path) -> None:
    part = part_of(path)
    layer = LAYERS.get(part, 2)
    known = sys.stdlib_module_names | {"perception_r1"}
    for name, line in imports(path, top_level_only=True):
        package = name.split(".")[0]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if layer <= 2:
            assert package in known | LIGHT[layer], where
        elif part in ("cli", "__main__"):
            assert package in known | {"typer"}, f"{where}: commands import inside their functions"
        elif part in ("doctor", "check"):
            assert package not in HEAVY, where


@pytest.mark.parametrize(
    "module",
    [
        "perception_r1",
        "perception_r1.tasks",
        "perception_r1.data.sources",
        "perception_r1.cli",
        "perception_r1.recipe.schema",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set(m.split('.')[0] for m in sys.modules) & set({sorted(HEAVY)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
