from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Twelve real counting scenes on disk, of two sizes of image so that batches have padding."""
    pytest.importorskip("sklearn")
    from perception_r1.data.digits import make_scenes

    folder = tmp_path_factory.mktemp("scenes")
    return [
        sample
        for size, seed in ((96, 0), (128, 1))
        for sample in make_scenes("counting", 6, seed=seed, split="heldout", size=size, out_dir=folder)
    ]


@pytest.fixture(scope="session")
def tiny():
    """A tiny untrained Qwen3-VL and its processor."""
    pytest.importorskip("transformers")
    from perception_r1.models.tiny import build_tiny

    return build_tiny("qwen3_vl", seed=0)
