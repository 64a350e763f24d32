"""Load a VLM's processor, with or without torchvision.

transformers builds a *video* processor inside every Qwen-VL and InternVL processor, and that one needs torchvision,
which does not import beside a CPU build of torch. This project has no videos: ``image_only`` takes the video part out
of the stock class. The class keeps its stock name: what is saved is a stock processor that any other program can load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from perception_r1.errors import ModelError

_BY_MODEL_TYPE = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "qwen3_vl_moe": "Qwen3VLProcessor",
    "internvl": "InternVLProcessor",
}

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


@lru_cache(maxsize=1)
def torchvision_works() -> bool:
    """Whether torchvision is installed *and* imports (beside a CPU build of torch the usual wheel does not)."""
    try:
        import torchvision  # noqa: F401
    except Exception:  # a broken build raises RuntimeError or OSError, not only ImportError
        return False
    return True


@cache
def image_only(cls: type) -> Any:
    """The processor class without its video part, under the same name; the class itself where torchvision works."""
    if torchvision_works():
        return cls

    class ImageOnly(cls):  # type: ignore[valid-type, misc]
        @classmethod
        def get_attributes(klass) -> list[str]:  # noqa: N804  (cls is the outer class here)
            return [name for name in super().get_attributes() if name != "video_processor"]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    # An unknown name in processor_config.json would make AutoProcessor return a bare tokenizer, without an error.
    ImageOnly.__name__, ImageOnly.__qualname__ = cls.__name__, cls.__qualname__
    return ImageOnly


def load_processor(path_or_id: str, **kwargs: Any) -> Any:
    """Load the processor of a VLM from a folder or a Hugging Face id.

    Args:
        path_or_id: a folder with the processor's files, or a model id.
        **kwargs: passed to ``from_pretrained`` (``revision``, ``min_pixels``, …).

    Returns:
        The stock processor where torchvision works, else its image-only form.

    Raises:
        ModelError: there is no processor, or it is of a class that has no images.
    """
    import transformers

    path_or_id = str(path_or_id)
    try:
        if torchvision_works():
            processor = transformers.AutoProcessor.from_pretrained(path_or_id, **kwargs)
        else:
            processor = image_only(_processor_class(path_or_id, **kwargs)).from_pretrained(path_or_id, **kwargs)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path_or_id}: no usable processor ({first})") from error
    if not hasattr(processor, "image_processor"):
        raise ModelError(f"{path_or_id}: the processor takes no images: give a vision-language model")
    return processor


def _processor_class(path_or_id: str, **kwargs: Any) -> Any:
    """The stock processor class that the saved files name, else the usual one of the model's type."""
    import transformers
    from transformers.utils import cached_file

    hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
    name = None
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        found = cached_file(path_or_id, file, _raise_exceptions_for_missing_entries=False, **hub)
        if found is None:
            continue
        config = json.loads(Path(found).read_text(encoding="utf-8"))
        name = config.get("processor_class") or _BY_MODEL_TYPE.get(config.get("model_type", ""))
        if name:
            break
    cls = getattr(transformers, name, None) if name else None
    if cls is None:
        raise ModelError(f"{path_or_id}: no known processor class is named in its files (found {name!r})")
    return cls


def known_ids(tokenizer: Any, names: Iterable[str]) -> list[int]:
    """Ids of those tokens that the vocabulary has."""
    ids = (tokenizer.convert_tokens_to_ids(name) for name in names)
    return [token for token in ids if token is not None and token != tokenizer.unk_token_id]
