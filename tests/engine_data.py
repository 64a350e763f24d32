"""A recipe on a few drawn pictures, for tests that also run where scikit-learn and TRL are not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from perception_r1.recipe.schema import Recipe, parse_recipe

SIZES = [(200, 120), (90, 160), (131, 77), (64, 64)]


def make_recipe(folder: Path, model: str = "org/model", family: str = "qwen2_5_vl", **changes: Any) -> Recipe:
    """Eight training and four evaluation rows of detection; two pictures lie on their side by EXIF."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 8), ("val", 4)):
        lines = []
        for i in range(count):
            width, height = SIZES[i % 4]
            image = folder / f"{name}{i}.jpg"
            exif = Image.Exif()
            turned = i % 4 == 1
            if turned:
                exif[0x0112] = 6
            stored = (height, width) if turned else (width, height)
            Image.new("RGB", stored, (20 * i, 90, 200)).save(image, exif=exif)
            row = {"id": f"{name}{i}", "image": image.name, "task": "detection", "categories": ["cat", "dog"]}
            row |= {"boxes": [[5, 6, 50, 60], [10, 20, 60, 64]][: 1 + i % 2], "labels": ["cat", "dog"][: 1 + i % 2]}
            lines.append(json.dumps(row))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    values: dict[str, Any] = {
        "name": "engines",
        "task": "detection",
        "model": model,
        "family": family,
        "data": {
            "train": [{"source": "jsonl", "path": str(folder / "train.jsonl")}],
            "eval": [{"source": "jsonl", "path": str(folder / "val.jsonl")}],
        },
        "grpo": {
            "num_generations": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "beta": 0.04,
            "loss_type": "grpo",
            "max_completion_length": 64,
            "lr_scheduler_type": "constant",
            "learning_rate": 2e-6,
            "epsilon_high": 0.28,
            "num_train_epochs": 2,
        },
        **changes,
    }
    return parse_recipe(values)
