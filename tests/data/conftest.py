from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save_image(tmp_path: Path) -> Save:
    """``save_image("a.jpg", (640, 480), orientation=6)`` writes a grey image below the test's folder."""

    def save(name: str, size: tuple[int, int] = (640, 480), orientation: int | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.new("RGB", size, (120, 130, 140)).save(path, exif=exif)
        return path

    return save


@pytest.fixture
def save_json(tmp_path: Path) -> Save:
    """``save_json("a.json", value)`` writes a document, ``save_json("a.jsonl", rows)`` one row a line."""

    def save(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) for row in value] if name.endswith(".jsonl") else [json.dumps(value)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return save
