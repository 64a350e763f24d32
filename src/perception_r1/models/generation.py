"""The model's own sampling settings (``generation_config.json``): kept for whoever uses it, out of the way in training.

``generate`` fills in from them whatever the caller leaves open: a repetition penalty, forbidden n-grams, a least
length. Rollouts would then be of another distribution than the policy's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

FILE = "generation_config.json"


def sample_plainly(model: Any) -> None:
    """Leave of the model's generation settings its token ids only, so that ``generate`` does what it is asked."""
    from transformers import GenerationConfig

    own = model.generation_config
    ids = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)


def keep_settings(base: str | Path, folder: Path) -> None:
    """Copy the base model's ``generation_config.json`` into a saved model; nothing where either has none.

    As it is: ``save_pretrained`` refuses settings that other programs take, such as a temperature without sampling.

    Args:
        base: a folder, or an id on the Hugging Face hub, whose file then lies in the cache.
        folder: of the saved model.
    """
    from transformers.utils import cached_file

    if not (folder / FILE).is_file():  # an adapter, or the parts of a sharded checkpoint
        return
    file = cached_file(str(base), FILE, _raise_exceptions_for_missing_entries=False, local_files_only=True)
    if file is not None:
        shutil.copyfile(file, folder / FILE)
