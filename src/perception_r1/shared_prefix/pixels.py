"""Pixels prepared once: TRL hands the processor a group's picture G times, twice a step, as the very same object."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from PIL import Image


def share_pixels(processor: Any) -> None:
    """Let a processor resize, cut and normalise a picture that repeats in a call only once; what it returns is equal.

    Args:
        processor: a model's processor, changed in place; one that prepares no images is left as it is. It is saved and
            loaded as before.
    """
    own = getattr(processor, "image_processor", None)
    if own is not None and not isinstance(own, _Once):
        kind = type(own)
        # A subclass, since an attribute of the instance would be saved with the processor's settings.
        own.__class__ = type(kind.__name__, (_Once, kind), {"__module__": kind.__module__})


class _Once:
    """In front of an image processor: distinct pictures go in, and come out as often as they were asked for."""

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        plain = super().preprocess  # type: ignore[misc]
        pictures = _flat(images)
        if pictures is None:
            return plain(images, *args, **kwargs)
        distinct = {id(picture): picture for picture in pictures}
        if len(distinct) == len(pictures):
            return plain(images, *args, **kwargs)
        place = {key: index for index, key in enumerate(distinct)}
        wanted = [place[id(picture)] for picture in pictures]
        found = plain(list(distinct.values()), *args, **kwargs)
        again = repeated(dict(found), wanted, len(distinct))
        if again is None:
            return plain(images, *args, **kwargs)
        found.data = again
        return found


def repeated(found: dict[str, Any], wanted: list[int], n: int) -> dict[str, Any] | None:
    """What a processor made of ``n`` pictures, for the pictures ``wanted`` of them; None where it cannot be told apart.

    Args:
        found: ``pixel_values`` (rows of patches or tiles) and, by picture, ``image_grid_thw`` or ``num_patches``.
        wanted: indices of pictures, repeats allowed.
        n: how many pictures there are.
    """
    pixels, grid = found.get("pixel_values"), found.get("image_grid_thw")
    if pixels is None or any(len(value) != n for key, value in found.items() if key != "pixel_values"):
        return None
    lengths = found.get("num_patches", [1] * n) if grid is None else [t * h * w for t, h, w in grid]
    ends = list(accumulate(map(int, lengths), initial=0))
    if ends[-1] != len(pixels):
        return None
    rows = [row for i in wanted for row in range(ends[i], ends[i + 1])]
    return {key: _picked(value, rows if key == "pixel_values" else wanted) for key, value in found.items()}


def _picked(values: Any, indices: list[int]) -> Any:
    return [values[i] for i in indices] if isinstance(values, list) else values[indices]


def _flat(images: Any) -> list[Image.Image] | None:
    """The pictures of a call in their order; None where some are no pictures of PIL's."""
    parts = images if isinstance(images, list | tuple) else [images]
    found = [picture for part in parts for picture in (part if isinstance(part, list | tuple) else [part])]
    return found if all(isinstance(picture, Image.Image) for picture in found) else None
