"""Load a VLM's processor without its video part, with or without torchvision.

transformers builds a *video* processor inside every Qwen-VL and InternVL processor. It needs torchvision, which does
not import beside a CPU build of torch, and settings that not every folder has. This project has no videos:
``image_only`` takes the video part out of the stock class. The class keeps its stock name, and what it saves the stock
class loads, ``video_preprocessor_config.json`` included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from perception_r1.errors import ModelError
from perception_r1.models.published import Published, as_published, published_of, save_video_settings

_BY_MODEL_TYPE = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "qwen3_vl_moe": "Qwen3VLProcessor",
    "internvl": "InternVLProcessor",
}

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


@cache
def image_only(cls: type) -> Any:
    """The processor class without its video part, under the same name; without one, the class as it is."""
    attributes = cls.get_attributes()  # type: ignore[attr-defined]

    class ImageOnly(cls):  # type: ignore[valid-type, misc]
        published: Published | None = None
        """What the files say that it was loaded from."""

        @classmethod
        def get_attributes(klass) -> list[str]:  # noqa: N804  (cls is the outer class here)
            return [name for name in attributes if name != "video_processor"]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
            with as_published(self.tokenizer, self.published):
                saved = super().save_pretrained(save_directory, *args, **kwargs)
            if "video_processor" in attributes:
                save_video_settings(self, self.published, save_directory)
            return saved

    # An unknown name in processor_config.json would make AutoProcessor return a bare tokenizer, without an error.
    ImageOnly.__name__, ImageOnly.__qualname__ = cls.__name__, cls.__qualname__
    return ImageOnly


def load_processor(path_or_id: str | Path, **kwargs: Any) -> Any:
    """Load the processor of a VLM from a folder or a Hugging Face id, ready for training and generation.

    It pads on the left whatever its files say: generation needs that, and TRL's loss takes ``mm_token_type_ids`` as the
    processor padded them beside ids that TRL padded on the left. A tokenizer without a pad token pads with its end
    token. Neither changes what is saved.

    Args:
        path_or_id: a folder with the processor's files, or a model id.
        **kwargs: passed to ``from_pretrained`` (``revision``, ``min_pixels``, …).

    Returns:
        The stock processor in its image-only form.

    Raises:
        ModelError: there is no processor, it is of a class that has no images, or it has no chat template.
    """
    path_or_id = str(path_or_id)
    hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
    read = partial(read_json, path_or_id, **hub)
    try:
        processor = image_only(_processor_class(path_or_id, read)).from_pretrained(path_or_id, **kwargs)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path_or_id}: no usable processor ({first})") from error
    if not hasattr(processor, "image_processor"):
        raise ModelError(f"{path_or_id}: the processor takes no images: give a vision-language model")
    tokenizer = processor.tokenizer
    processor.published = published_of(processor, read)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if processor.chat_template is None:  # of an older save, which has it in tokenizer_config.json
        processor.chat_template = tokenizer.chat_template
    if processor.chat_template is None:
        raise ModelError(
            f"{path_or_id}: has no chat template (expected chat_template.jinja, chat_template.json, or 'chat_template' "
            "in tokenizer_config.json; base models have none: give the instruct model, or copy its template)"
        )
    return processor


def read_json(path_or_id: str, name: str, **hub: Any) -> dict[str, Any] | None:
    """A JSON file of a model's folder or repository; None without it.

    Raises:
        ValueError: it is damaged.
    """
    from transformers.utils import cached_file

    file = cached_file(path_or_id, name, _raise_exceptions_for_missing_entries=False, **hub)
    if file is None:
        return None
    try:
        return dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None


def _processor_class(path_or_id: str, read: Callable[[str], dict[str, Any] | None]) -> Any:
    """The stock processor class that the saved files name, else the usual one of the model's type."""
    import transformers

    name = None
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        config = read(file) or {}
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
