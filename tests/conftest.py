from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: a busy machine is not a bug. Fifty examples a property keep the suite fast.
settings.register_profile("tests", deadline=None, max_examples=50)
settings.load_profile("tests")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real test data not found at {SHARED.parent.name}/{SHARED.name} beside the checkout")
    return SHARED
