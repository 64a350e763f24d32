"""Writes that fail for want of room: real ones, by a limit on the size of files, in each library that writes a run."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from perception_r1.disk import is_want_of_room, naming, no_room

pytest.importorskip("resource", reason="limits of files are set by it")

WRITES = """
import resource, sys
from pathlib import Path
import pyarrow, pyarrow.parquet, torch
from safetensors.torch import save_file
from perception_r1.disk import naming, room_in
from perception_r1.errors import UserError
from perception_r1.train.run_folder import write_text

folder = Path(sys.argv[1])
big = torch.randn(200_000)
writes = {
    "write_text": lambda path: write_text(path, "x" * 800_000),
    "safetensors": lambda path: save_file({"w": big}, path),
    "torch": lambda path: torch.save(big, path),
}
def write_arrow(path):  # as rollouts are
    with naming(path):
        pyarrow.parquet.write_table(pyarrow.table({"w": big.numpy()}), path)


writes["arrow"] = write_arrow
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name, write in writes.items():
    try:
        with room_in(folder):
            write(folder / name)
        print(name, "written")
    except UserError as error:
        print(error)
"""


def test_every_library_that_writes_a_run_is_understood(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-c", WRITES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    text, tensors, torch, arrow = done.stdout.splitlines()
    assert text.startswith(f"{tmp_path}/write_text: File too large; "), text
    assert tensors.startswith(f"{tmp_path}: File too large; "), tensors
    assert torch.startswith(f"{tmp_path}: a file is cut short; ") and f"last file written is {tmp_path}/torch" in torch
    assert arrow.startswith(f"{tmp_path}/arrow: File too large; "), arrow
    assert all("--resume" in line and "GiB are free there" in line for line in (text, tensors, torch, arrow))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file() -> None:
    with pytest.raises(OSError) as caught, naming(Path("/dev/full")), open("/dev/full", "w") as stream:  # noqa: PTH123
        stream.write("x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert is_want_of_room(caught.value)
    assert no_room(caught.value, caught.value.filename).startswith("/dev/full: No space left on device; ")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "No such file"), RuntimeError("CUDA out of memory"), ValueError("")]
)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_want_of_room(error)
