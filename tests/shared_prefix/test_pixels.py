"""Pictures prepared once, by real image processors of every family: what comes out is what they always gave."""

from __future__ import annotations

import copy
import types
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from perception_r1.shared_prefix.pixels import repeated, share_pixels

KINDS = ("Qwen2VLImageProcessor", "GotOcr2ImageProcessor")


def picture(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def made(kind: str) -> tuple[Any, Any, list[int]]:
    """An image processor as it is, one that shares, and how many pictures each call of the latter really prepared."""
    plain = getattr(hf, kind)()
    counts: list[int] = []
    base = type(plain)

    def counting(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(len(images))
        return base.preprocess(self, images, *args, **kwargs)

    sharing = copy.deepcopy(plain)
    sharing.__class__ = type(base.__name__, (base,), {"preprocess": counting})
    share_pixels(types.SimpleNamespace(image_processor=sharing))
    return plain, sharing, counts


@pytest.mark.parametrize("tensors", ["pt", None])
@pytest.mark.parametrize("kind", KINDS)
def test_repeated_pictures_are_prepared_once_and_equal(kind, tensors):
    plain, sharing, counts = made(kind)
    a, b, c = picture(96, 64, 0), picture(64, 160, 1), picture(96, 64, 2)
    asked = [[a], [a], [b], [b], [a, c], [c]]
    wanted, found = (processor(asked, return_tensors=tensors) for processor in (plain, sharing))
    assert counts == [3]
    assert type(found) is type(wanted) and list(found) == list(wanted)
    for key, value in wanted.items():
        assert type(found[key]) is type(value) and len(found[key]) == len(value)
        assert all(np.array_equal(one, other) for one, other in zip(found[key], value, strict=True))


def test_distinct_pictures_and_foreign_ones_go_the_plain_way():
    plain, sharing, counts = made(KINDS[0])
    a, b = picture(64, 64, 0), picture(64, 64, 1)
    assert np.array_equal(sharing([a, b]).pixel_values, plain([a, b]).pixel_values)
    arrays = [np.asarray(a)] * 2
    assert np.array_equal(sharing(arrays).pixel_values, plain(arrays).pixel_values)
    assert np.array_equal(sharing([a]).pixel_values, plain([a]).pixel_values)
    assert counts[:2] == [2, 2]
    # An equal picture that is another object may change by itself: it is prepared by itself.
    sharing([a, a.copy()])
    assert counts[-1] == 2


def test_what_cannot_be_told_apart_is_left_alone():
    pixels = torch.zeros(3, 2)
    assert repeated({"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 1, 2]])}, [0, 0], 1) is None
    assert repeated({"pixel_values": pixels, "sizes": [1, 2, 3]}, [0, 1, 1], 2) is None
    assert repeated({"pixel_values": pixels, "num_patches": [1, 3]}, [0, 1, 1], 2) is None
    assert repeated({"image_grid_thw": [[1, 1, 1]]}, [0, 0], 1) is None
    assert repeated({"pixel_values": pixels}, [2, 2], 3)["pixel_values"].shape == (2, 2)


def test_it_is_saved_as_what_it_is(tmp_path):
    plain, _, _ = made(KINDS[0])
    plain.save_pretrained(tmp_path / "plain")
    share_pixels(types.SimpleNamespace(image_processor=plain))
    share_pixels(types.SimpleNamespace(image_processor=plain))  # twice is once
    share_pixels(types.SimpleNamespace())
    plain.save_pretrained(tmp_path / "shared")
    first, second = ((tmp_path / name / "preprocessor_config.json").read_text() for name in ("plain", "shared"))
    assert first == second
    assert type(copy.deepcopy(plain)) is type(plain)
