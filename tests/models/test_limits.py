"""Image limits: what a processor does with them, and where they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from perception_r1.families import FAMILIES, get_family
from perception_r1.models.limits import as_given, grid_of, limits_of, set_limits, stored_limits
from perception_r1.models.tiny import build_processor

PUBLISHED = {"min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "merge_size": 2}
EDGES = {"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}, "patch_size": 16, "merge_size": 2}
CLIP = {"size": {"shortest_edge": 224}, "image_processor_type": "CLIPImageProcessor"}
QWEN25, QWEN3 = build_processor("qwen2_5_vl"), build_processor("qwen3_vl")


def seen(processor: Any, shape: tuple[int, int], **options: Any) -> tuple[int, int]:
    """The size that the processor makes of an image, counted in its patches."""
    grid = processor.image_processor(images=[Image.new("RGB", shape)], **options)["image_grid_thw"]
    _, rows, columns = (int(n) for n in grid[0])
    return columns * processor.image_processor.patch_size, rows * processor.image_processor.patch_size


SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


@given(SIZES, st.integers(1, 60), st.integers(0, 60), st.sampled_from([("qwen2_5_vl", QWEN25), ("qwen3_vl", QWEN3)]))
def test_our_size_is_the_processors(size: tuple[int, int], low: int, more: int, of: tuple[str, Any]) -> None:
    name, processor = of
    assume(max(size) / min(size) <= 200)
    limits = (low * 1000, (4 * low + more) * 1000 + 4096)
    set_limits(processor, limits)
    family = FAMILIES[name].with_limits(*limits)
    assert seen(processor, size) == family.model_size(size) == family.seen_size(size)
    given_size = family.resized_size(size)
    assert seen(processor, given_size) == given_size, "an image that we resized is resized again"
    assert seen(processor, given_size, **as_given(processor)) == given_size


def test_a_long_image_is_resized_until_the_processor_leaves_it() -> None:
    """One rounding gives 28 × 4452 pixels, over the limit of 100,000: a processor would make less of it again."""
    family = FAMILIES["qwen2_5_vl"].with_limits(max_pixels=100_000)
    assert family.model_size((30, 6000)) == (28, 4452)
    assert family.resized_size((30, 6000)) == (28, 3556)
    set_limits(QWEN25, (3136, 100_000))
    assert seen(QWEN25, (28, 3556)) == (28, 3556)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_limits_travel_in_the_processors_files(tmp_path: Path, family: str) -> None:
    from perception_r1.models.processors import load_processor

    processor = build_processor(family)
    assert limits_of(processor) == (3136, 1_000_000)
    assert grid_of(processor) == get_family(family).grid
    set_limits(processor, (4096, 50_176))
    processor.save_pretrained(tmp_path)
    assert stored_limits(tmp_path) == (4096, 50_176)
    again = load_processor(str(tmp_path))
    assert limits_of(again) == (4096, 50_176)
    grid = get_family(family).grid
    assert seen(again, (640, 480)) == get_family(family).model_size((640, 480), 4096, 50_176)
    assert seen(again, (20 * grid, 10 * grid), **as_given(again)) == (20 * grid, 10 * grid)


def test_tiles_have_no_limits(tmp_path: Path) -> None:
    processor = build_processor("internvl")
    before = dict(processor.image_processor.size)
    set_limits(processor, (1, 2))
    assert dict(processor.image_processor.size) == before
    assert (limits_of(processor), grid_of(processor), as_given(processor)) == (None, None, {})
    processor.save_pretrained(tmp_path)
    assert stored_limits(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"preprocessor_config.json": PUBLISHED}, (3136, 12_845_056)),
        ({"preprocessor_config.json": EDGES}, (65_536, 16_777_216)),
        ({"preprocessor_config.json": {**EDGES, **PUBLISHED}}, (3136, 12_845_056)),  # as transformers prefers them
        ({"processor_config.json": {"image_processor": EDGES}}, (65_536, 16_777_216)),
        (
            {"processor_config.json": {"image_processor": EDGES}, "preprocessor_config.json": PUBLISHED},
            (65_536, 16_777_216),
        ),
        (
            {"processor_config.json": {"processor_class": "X"}, "preprocessor_config.json": PUBLISHED},
            (3136, 12_845_056),
        ),
        ({"preprocessor_config.json": CLIP}, None),  # a length, no area
        ({"preprocessor_config.json": {**PUBLISHED, "max_pixels": None}}, None),
        ({"preprocessor_config.json": [1]}, None),
        ({}, None),
    ],
)
def test_every_stored_form_is_read(tmp_path: Path, files: dict[str, Any], limits: tuple[int, int] | None) -> None:
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    assert stored_limits(tmp_path) == limits


def test_a_broken_file_has_no_limits(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    assert stored_limits(tmp_path) is None


def test_of_a_hub_id_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--Org--Model"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (snapshot / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    assert stored_limits("Org/Model") == (3136, 12_845_056)
    assert stored_limits("Org/Nowhere") is None
    assert stored_limits("a name/that is/no id") is None
