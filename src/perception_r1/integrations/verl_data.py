"""verl's data set with images opened by us: upright, and at the size that the recipe gives the model.

An exported configuration names it: ``data.custom_cls.path=pkg://perception_r1.integrations.verl_data``. verl's own
class resizes by limits of its own, ignores EXIF and needs qwen_vl_utils (and with it torchvision).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

from perception_r1.data.images import model_image
from perception_r1.types import Sample, TextTarget


def open_part(part: dict[str, Any]) -> Any:
    """The image of a message's part: ``image`` (a path), ``resized_width`` and ``resized_height``."""
    size = (int(part["resized_width"]), int(part["resized_height"])) if part.get("resized_width") else None
    return model_image(Sample("image", "ocr", "", TextTarget(""), str(part["image"]), None, size))


def images_of(messages: Sequence[dict[str, Any]]) -> list[Any] | None:
    """All images of the messages, or None without any."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [open_part(part) for part in parts if part.get("type") == "image"] or None


class PerceptionDataset(RLHFDataset):  # type: ignore[misc]
    """``RLHFDataset``, but for how images are opened."""

    @classmethod
    async def process_vision_info(cls, messages: list[dict[str, Any]], *_: Any, **__: Any) -> tuple[Any, None]:
        """Called by verl's agent loops; the work is done in a thread, so that other rollouts go on."""
        return await asyncio.to_thread(images_of, messages), None

    @classmethod
    def _process_multi_modal_info(cls, messages: list[dict[str, Any]], *_: Any, **__: Any) -> tuple[Any, None, None]:
        return images_of(messages), None, None
