"""Writing files: complete or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from perception_r1.data.files import atomic_write
from perception_r1.errors import DataError


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with atomic_write(pipe) as stream:
        stream.write("rows\n")
    reader.join(10)
    assert read == ["rows\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "rows.jsonl", tmp_path / "link.jsonl"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link) as stream:
        stream.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_folder_or_a_file_as_a_folder_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"{tmp_path}: is a folder"), atomic_write(tmp_path):
        pass
    for path in (tmp_path / "file" / "out.jsonl", tmp_path / "file" / "deep" / "out.jsonl"):
        with pytest.raises(DataError, match="a file has that name"), atomic_write(path):
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
