"""A model's processor and configuration where nothing has to be downloaded: from its folder or the hub's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception_r1.errors import ModelError
from perception_r1.models.load import check_model_path
from perception_r1.models.processors import load_processor


def processor_at_hand(path_or_id: str | Path, **hub: Any) -> Any | None:
    """The model's processor; None for a hub id whose files are not in the cache.

    Args:
        path_or_id: a folder, or a hub id.
        hub: ``revision`` and other options of where to look.

    Raises:
        ModelError: the folder has no usable processor.
    """
    if _is_local(path_or_id):
        return load_processor(str(path_or_id), **hub)
    try:
        return load_processor(str(path_or_id), **{**hub, "local_files_only": True})
    except ModelError:
        return None


def config_at_hand(path_or_id: str | Path, **hub: Any) -> Any | None:
    """The model's configuration; None for a hub id that is not in the cache, or of a class that transformers lacks.

    Raises:
        ModelError: the folder has no readable ``config.json``.
    """
    from transformers import AutoConfig

    local = _is_local(path_or_id)
    try:
        return AutoConfig.from_pretrained(str(path_or_id), **hub, **({} if local else {"local_files_only": True}))
    except (OSError, ValueError, KeyError) as error:
        if not local:
            return None
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path_or_id}: config.json cannot be read ({first})") from None


def _is_local(path_or_id: str | Path) -> bool:
    """Whether it is a folder; refuses a path that is not there."""
    if Path(path_or_id).exists():
        return True
    check_model_path(path_or_id)
    return False
