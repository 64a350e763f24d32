"""Pictures that open and do not decode, and unusual ones that do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_r1.check import pictures
from perception_r1.check.pictures import check_pictures, decode
from perception_r1.types import Sample, TextTarget


def noise(width: int = 160, height: int = 120) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def row(path: Path, line: int = 1) -> Sample:
    return Sample(str(line), "ocr", "", TextTarget("x"), str(path), origin=("rows.jsonl", line))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_a_row_error_with_its_line(tmp_path: Path, kind: str) -> None:
    good, cut = tmp_path / "good", tmp_path / "cut"
    noise().save(good, kind)
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    kept, bad = check_pictures([row(good, 1), row(cut, 2), row(good, 3), row(cut, 4)], show_progress=False)
    assert [sample.id for sample in kept] == ["1", "3"]
    assert [str(error).split("'")[0] for error in bad] == ["rows.jsonl:2: field ", "rows.jsonl:4: field "]
    assert all(str(cut) in str(error) and "\n" not in str(error) for error in bad)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("empty.jpg", "text.jpg", "folder.jpg"):
        assert "is not an image that Pillow can read" in str(decode(str(tmp_path / name)))
    assert "no such image file" in str(decode(str(tmp_path / "none.jpg")))


def test_unusual_pictures_decode(tmp_path: Path) -> None:
    noise().convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    noise().save(tmp_path / "png-named.jpg", "PNG")
    assert [decode(str(path)) for path in sorted(tmp_path.iterdir())] == [None] * 4


def test_several_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "ALONE", 4)
    rows = []
    for n in range(40):
        noise(16, 16).save(tmp_path / f"{n}.png")
        if n % 10 == 3:
            (tmp_path / f"{n}.png").write_bytes((tmp_path / f"{n}.png").read_bytes()[:100])
        rows.append(row(tmp_path / f"{n}.png", n))
    kept, bad = check_pictures(rows, processes=2, show_progress=False)
    alone = check_pictures(rows, processes=1, show_progress=False)
    assert [error.line for error in bad] == [3, 13, 23, 33]
    assert ([str(error) for error in bad], kept) == ([str(error) for error in alone[1]], alone[0])


def test_rows_without_a_picture_are_good() -> None:
    sample = Sample("a", "ocr", "", TextTarget("x"))
    assert check_pictures([sample], show_progress=False) == ([sample], [])
