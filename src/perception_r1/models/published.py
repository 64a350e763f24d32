"""What a saved processor keeps of the one it was loaded from: padding side, pad token and video settings.

Training pads on the left whatever the published tokenizer does, and never sees a video. Neither may show in what is
saved: other programs get the tokenizer as it was published, and the settings of the video processor that the stock
class asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIDEO_FILE = "video_preprocessor_config.json"
_VIDEO_TYPES = {
    "Qwen2VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen3VLProcessor": "Qwen3VLVideoProcessor",
    "InternVLProcessor": "InternVLVideoProcessor",
}
# What a video processor and an image processor of one model have in common; its sizes stay the class's own.
_COMMON = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
_OF_IMAGES = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")


@dataclass(frozen=True, slots=True)
class Published:
    """What a loaded processor's files say.

    Attributes:
        padding_side, pad_token: of the tokenizer.
        padding: state of the tokenizer's backend (``tokenizer.json``); every padded call changes it.
        video: settings of the video processor; None where the files have none.
    """

    padding_side: str
    pad_token: str | None
    padding: dict[str, Any] | None
    video: dict[str, Any] | None


def published_of(processor: Any, read_json: Callable[[str], dict[str, Any] | None]) -> Published:
    """Describe a processor as loaded; ``read_json`` gives a file of its folder by name, or None."""
    tokenizer = processor.tokenizer
    video = (read_json("processor_config.json") or {}).get("video_processor") or read_json(VIDEO_FILE)
    if video is None and (images := read_json("preprocessor_config.json")):
        # Published before video processors had files: the stock class reads the image processor's settings.
        video = {key: value for key, value in images.items() if key not in _OF_IMAGES}
    return Published(tokenizer.padding_side, tokenizer.pad_token, _backend_padding(tokenizer), video)


@contextmanager
def as_published(tokenizer: Any, published: Published | None) -> Iterator[None]:
    """Give the tokenizer its published padding for the time of a save; one without (built in memory) its own side."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    now = (tokenizer.padding_side, tokenizer.pad_token, _backend_padding(tokenizer))
    then = (*now[:2], None) if published is None else (published.padding_side, published.pad_token, published.padding)
    try:
        _set_padding(tokenizer, backend, *then)
        yield
    finally:
        _set_padding(tokenizer, backend, *now)


def save_video_settings(processor: Any, published: Published | None, folder: str | Path) -> None:
    """Write ``video_preprocessor_config.json``, without which the stock processor class refuses the folder.

    The published settings where there were any, else what the image processor has in common with a video processor.
    """
    kind = _VIDEO_TYPES.get(type(processor).__name__)
    settings = None if published is None else published.video
    if settings is None and kind is not None:
        images = processor.image_processor.to_dict()
        settings = {key: images[key] for key in _COMMON if images.get(key) is not None}
    if settings is None:  # no class of ours, and nothing to go by
        return
    if "video_processor_type" not in settings and kind is not None:
        settings = {**settings, "video_processor_type": kind}
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (Path(folder) / VIDEO_FILE).write_text(text, encoding="utf-8")


def _backend_padding(tokenizer: Any) -> dict[str, Any] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else backend.padding


def _set_padding(
    tokenizer: Any, backend: Any, side: str, pad_token: str | None, padding: dict[str, Any] | None
) -> None:
    tokenizer.padding_side, tokenizer.pad_token = side, pad_token
    if backend is None:
        return
    if padding is None:
        backend.no_padding()
    else:
        backend.enable_padding(**padding)
