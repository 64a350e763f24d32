"""The floating-point type that a model is saved in: the base's, however training kept its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perception_r1.errors import ModelError

DTYPES = ("float32", "bfloat16", "float16")


def published_dtype(model: str | Path) -> str:
    """Return the dtype that a run from ``model`` saves in, as torch names it.

    A model that one of our runs saved in float32 for the next (SFT before GRPO, a stage of a curriculum) counts as its
    own base does: the run's ``run.json`` names that dtype. Otherwise it is the configuration's, or where that says
    nothing the weights' own; float32 where neither is known.

    Args:
        model: a folder made by ``save_pretrained``, or an id on the Hugging Face hub.

    Raises:
        ModelError: no configuration can be had.
    """
    from transformers import AutoConfig

    kept = _kept_dtype(Path(model))
    if kept is not None:
        return kept
    try:
        config = AutoConfig.from_pretrained(str(model))
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{model}: configuration cannot be read: {first}") from None
    named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    name = str(named).rpartition(".")[2]
    if named is None:
        name = _stored_dtype(Path(model)) or "float32"
    return name if name in DTYPES else "float32"


def cast_saved(folder: str | Path, dtype: str) -> None:
    """Round the weights of a saved model to ``dtype``, once, and say so in its ``config.json``.

    One file of weights at a time, each whole or not at all. Integers and booleans stay as they are.

    Args:
        folder: made by ``save_pretrained`` with safetensors.
        dtype: one of `DTYPES`.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder, wanted = Path(folder), getattr(torch, dtype)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {"format": "pt"}
            tensors, changed = {}, False
            for name in stored.keys():  # noqa: SIM118  # not a mapping
                tensor = stored.get_tensor(name)
                changed |= tensor.is_floating_point() and tensor.dtype != wanted
                tensors[name] = tensor.to(wanted) if tensor.is_floating_point() else tensor
        if changed:
            temporary = file.with_name(f".{file.name}.tmp")
            save_file(tensors, temporary, metadata=metadata)
            temporary.replace(file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        values = _read(index)
        values.setdefault("metadata", {})["total_size"] = sum(
            _tensor_bytes(file) for file in folder.glob("*.safetensors")
        )
        _write(index, values)
    config = folder / "config.json"
    _write(config, _with_dtype({**_read(config), "dtype": dtype}, dtype))


def _with_dtype(values: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Every ``dtype`` of a configuration and of the configurations in it; ``torch_dtype`` is its older name."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "quantization_config":
            kept[key] = _with_dtype(value, dtype)
        else:
            kept[key] = dtype if key in ("dtype", "torch_dtype") else value
    return kept


def _kept_dtype(folder: Path) -> str | None:
    """``base_dtype`` of the run that saved a model, None where another program saved it."""
    if not folder.is_dir():
        return None
    try:
        kept = _read(folder.resolve().parent / "run.json").get("base_dtype")
    except (OSError, ValueError):
        return None
    return str(kept) if kept in DTYPES else None


def _stored_dtype(folder: Path) -> str | None:
    """The dtype of the first floating-point tensor in a folder's safetensors."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # not a mapping
                kind = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}.get(stored.get_slice(name).get_dtype())
                if kind is not None:
                    return kind
    return None


def _tensor_bytes(file: Path) -> int:
    """Bytes of a file's tensors, without its header."""
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    return file.stat().st_size - 8 - header


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
