"""Image limits of Qwen-VL's processors: read from a processor or from a model's files, and set.

They are stored as ``size: {shortest_edge, longest_edge}`` or as ``min_pixels`` and ``max_pixels`` (both count pixels of
the area), in ``preprocessor_config.json`` or inside ``processor_config.json``. InternVL's processors cut an image into
tiles of one size and have no such limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Limits: TypeAlias = tuple[int, int]
"""(min_pixels, max_pixels) of the resized image's area."""


def limits_of(processor: Any) -> Limits | None:
    """Limits of a loaded processor; None for one that has none."""
    images = getattr(processor, "image_processor", processor)
    values = {name: getattr(images, name, None) for name in ("merge_size", "size", "min_pixels", "max_pixels")}
    return _limits(values)


def grid_of(processor: Any) -> int | None:
    """Multiple of which both sides of the resized image are: patch × merge; None for other processors."""
    images = getattr(processor, "image_processor", processor)
    patch, merge = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
    return patch * merge if isinstance(patch, int) and isinstance(merge, int) else None


def set_limits(processor: Any, limits: Limits) -> None:
    """Let the processor resize, and be saved, by ``limits``; one without limits is left as it is."""
    images = processor.image_processor
    if limits_of(images) is None:
        return
    low, high = limits
    images.size = type(images.size)(shortest_edge=low, longest_edge=high)
    for name, value in (("min_pixels", low), ("max_pixels", high)):
        if getattr(images, name, None) is not None:
            setattr(images, name, value)


def as_given(processor: Any) -> dict[str, Any]:
    """Arguments of a call that let images through at their size, which is already a multiple of the grid."""
    return {} if limits_of(processor) is None else {"size": {"shortest_edge": 1, "longest_edge": 1 << 40}}


def stored_limits(path_or_id: str | Path) -> Limits | None:
    """Limits in the files of a model, a folder or a hub id; None where none are stored. Loads no model and no torch."""
    nested = (_read(path_or_id, "processor_config.json") or {}).get("image_processor")  # wins in transformers, too
    return _limits(nested or _read(path_or_id, "preprocessor_config.json") or {})


def _limits(values: Mapping[str, Any]) -> Limits | None:
    if values.get("merge_size") is None:  # of another kind: there "shortest_edge" is a length
        return None
    size = values.get("size") or {}
    pairs = (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
    low, high = (values.get(name) or size.get(name) or size.get(edge) for name, edge in pairs)
    return (low, high) if isinstance(low, int) and isinstance(high, int) and min(low, high) > 0 else None


def _read(path_or_id: str | Path, name: str) -> dict[str, Any] | None:
    file: Path | None = Path(path_or_id) / name
    if not Path(path_or_id).exists():
        file = _hub_file(str(path_or_id), name)
    if file is None or not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # said by whatever loads the processor
        return None
    return values if isinstance(values, dict) else None


def _hub_file(repo: str, name: str) -> Path | None:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError:  # a laptop that only scores
        return None
    try:
        return Path(hf_hub_download(repo, name))  # from its cache where it is there
    except (OSError, ValueError, HfHubHTTPError):  # not there, not a repository's name, no network
        return None
