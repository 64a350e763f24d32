"""The table of families, what a recipe may change of it, and parity of the resizing with Qwen's."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perception_r1.errors import DataError, RecipeError
from perception_r1.families import FAMILIES, family_of_model_type, get_family
from perception_r1.types import BoxTarget, Frame, Sample


def test_the_table() -> None:
    assert {name: (family.frame, family.grid) for name, family in FAMILIES.items()} == {
        "qwen2_vl": ("norm1000", 28),
        "qwen2_5_vl": ("resized", 28),
        "qwen3_vl": ("norm1000", 32),
        "internvl": ("norm1000", 28),
        "pixel": ("original", 28),
        "unit": ("unit", 28),
    }
    assert all(family.image_tokens and family.end_tokens for family in FAMILIES.values())


def test_from_a_recipe() -> None:
    family = get_family({"base": "qwen3_vl", "name": "mine", "frame": "resized", "grid": 28, "image_tokens": ["<i>"]})
    assert (family.name, family.frame, family.grid, family.image_tokens) == ("mine", "resized", 28, ("<i>",))
    assert family.answer_format == "json"
    assert get_family(family) is family


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gpt", "unknown family 'gpt' (known: qwen2_vl,"),
        ({"frame": "unit"}, "family: 'base' must name one of"),
        ({"base": "pixel", "colour": "red"}, "family: unknown key 'colour' (known: base, name, frame,"),
        ({"base": "pixel", "frame": "cm"}, "family: frame must be one of norm1000, resized, original, unit, not 'cm'"),
        ({"base": "pixel", "grid": 0}, "family: grid must be a positive whole number, not 0"),
        ({"base": "pixel", "grid": True}, "family: grid must be a positive whole number, not True"),
        ({"base": "pixel", "end_tokens": "x"}, "family: end_tokens must be a list of strings, not 'x'"),
        ({"base": "pixel", "box_key": 3}, "family: box_key must be text, not 3"),
        (3, "family must be a name or a table with 'base', not 3"),
    ],
)
def test_mistakes_are_named(value: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        get_family(value)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_of_a_model_type() -> None:
    assert family_of_model_type("qwen3_vl_moe").name == "qwen3_vl"
    assert family_of_model_type("qwen2_5_vl").frame == "resized"
    with pytest.raises(RecipeError, match="no family is known for model_type 'llava'"):
        family_of_model_type("llava")


def test_model_size_by_hand() -> None:
    qwen = FAMILIES["qwen2_5_vl"]
    assert qwen.model_size((640, 480)) == (644, 476)
    assert qwen.model_size((4000, 3000)) == (1148, 840)  # 1 M pixels at most
    assert qwen.model_size((20, 20)) == (56, 56)  # 3,136 at least
    assert qwen.model_size((640, 480), max_pixels=100_000) == (364, 252)
    assert FAMILIES["qwen3_vl"].model_size((640, 480)) == (640, 480)
    for size in ((0, 10), (10_000, 10)):
        with pytest.raises(DataError):
            qwen.model_size(size)


@given(
    st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
    st.sampled_from([28, 32]),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_model_size_is_that_of_transformers(size: tuple[int, int], grid: int, low: int, more: int) -> None:
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    assume(max(size) / min(size) <= 200)
    limits = {"min_pixels": low * 1000, "max_pixels": (low + more) * 1000 + grid * grid}
    height, width = reference(size[1], size[0], factor=grid, **limits)
    assert get_family({"base": "pixel", "grid": grid}).model_size(size, **limits) == (width, height)


def test_frames_of_samples() -> None:
    sample = Sample("s", "grounding", "cat", BoxTarget(()), image_size=(640, 480))
    assert FAMILIES["qwen2_5_vl"].frame_of(sample) == Frame("resized", (640, 480), (644, 476))
    assert FAMILIES["qwen3_vl"].frame_of(sample) == Frame("norm1000", (640, 480))
    with pytest.raises(DataError, match="sample 's' needs the size of its image"):
        FAMILIES["qwen3_vl"].frame_of(Sample("s", "grounding", "cat", BoxTarget(())))
