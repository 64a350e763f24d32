from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import settings

# Nothing is fetched by a test; without this a model that is nowhere is asked for again and again, for 90 seconds.
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadline: a busy machine is not a bug. Fifty examples a property keep the suite fast, the same in every run: what a
# change broke is told apart from what nobody had tried. To try more: pytest --hypothesis-profile=fuzz.
settings.register_profile("tests", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=1000)
settings.load_profile("tests")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real test data not found at {SHARED.parent.name}/{SHARED.name} beside the checkout")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """When something broke, name the versions of what we build on: a contract may have changed."""
    if exitstatus != pytest.ExitCode.TESTS_FAILED:
        return
    found = []
    for name in ("torch", "transformers", "trl", "accelerate", "peft", "verl", "ms-swift", "vllm"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    terminalreporter.write_line(f"versions: {', '.join(found)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the numbers in tests/golden anew")
