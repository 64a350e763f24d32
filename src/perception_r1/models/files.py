"""Whether a model's folder is complete, told by its file names, sizes and headers: nothing is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from perception_r1.errors import ModelError

_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024  # a pointer has about 130
_HEADER_BYTES = 100_000_000  # longer ones are refused by safetensors too
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "chat_templates", "additional_chat_templates")


def check_files(folder: Path) -> None:
    """Refuse a folder with ``config.json`` whose other files cannot be a model's.

    Raises:
        ModelError: no weights, a Git-LFS pointer in place of a file, a truncated or absent weight file, no tokenizer,
            or no chat template.
    """
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    indices = sorted(folder.glob("*.index.json"))
    for path in sorted([*weights, *folder.glob("*.json"), *folder.glob("*.txt"), *folder.glob("*.jinja")]):
        if _is_pointer(path):
            raise ModelError(f"{path}: is a Git-LFS pointer, not the file itself (git lfs pull in {folder})")
    for index in indices:
        for shard in _shards(index):
            if not (folder / shard).is_file():
                raise ModelError(f"{folder / shard}: is missing, but {index.name} lists it; is the download complete?")
    if not weights:
        raise ModelError(f"{folder}: has config.json but no weights (*.safetensors); is the save complete?")
    for path in weights:
        if path.suffix == ".safetensors":
            _check_safetensors(path)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"{folder}: has no tokenizer (tokenizer.json); save the processor beside the model")
    if not _has_template(folder):
        raise ModelError(
            f"{folder}: has no chat template (expected chat_template.jinja, chat_template.json, or 'chat_template' in "
            "tokenizer_config.json; base models have none: give the instruct model, or copy its template)"
        )


def _is_pointer(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
        return False
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _shards(index: Path) -> list[str]:
    try:
        table = json.loads(index.read_text(encoding="utf-8"))
        return sorted(set(table["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{index}: is not an index of weights; is the download complete?") from None


def _check_safetensors(path: Path) -> None:
    """Compare the size of a file with what its header says (8 bytes of length, JSON, tensors)."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _HEADER_BYTES:
                raise ValueError(length)
            header = json.loads(stream.read(length)) if length < size else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ModelError(f"{path}: is not a safetensors file, or damaged; download it again") from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelError(f"{path}: is truncated ({size:,} bytes of {expected:,}); download or save it again")


def _has_template(folder: Path) -> bool:
    if any((folder / name).exists() for name in _TEMPLATES):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return bool(config.get("chat_template"))
    except OSError:
        return False
    except (ValueError, AttributeError):
        raise ModelError(f"{folder / 'tokenizer_config.json'}: is not a JSON object; download it again") from None
