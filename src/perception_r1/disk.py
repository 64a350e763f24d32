"""Writes that fail for want of room: which file, and what to do, whichever library wrote it."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception_r1.errors import UserError

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# These errors as libraries in other languages report them: safetensors, Arrow, torch.
_SAYS = re.compile(r"no space left(?: on device)?|disk quota exceeded|file too large|read-only file system", re.I)
_TORCH = re.compile(r"PytorchStreamWriter failed|inline_container.cc.*unexpected pos", re.I | re.S)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of writing ``path`` its name: ``write`` and ``flush`` fail without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn an error for want of room while ``folder`` is written into one line.

    Raises:
        UserError: naming the file, or the folder and the last file in it where a library does not say which.
    """
    try:
        yield
    except Exception as error:
        if not is_want_of_room(error):
            raise
        file = getattr(error, "filename", None)
        last = None if file else _last_written(folder)
        raise UserError(
            no_room(error, file or folder) + (f"; the last file written is {last}" if last else "")
        ) from error


def is_want_of_room(error: BaseException) -> bool:
    """Whether a file could not be written since disk, quota or permitted size are used up, or it is read-only."""
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    return bool(_SAYS.search(str(error)) or (isinstance(error, RuntimeError) and _TORCH.search(str(error))))


def no_room(error: BaseException, file: str | Path) -> str:
    """The line for an error of `is_want_of_room`."""
    found = _SAYS.search(str(error))
    reason = (found.group().capitalize() if found else getattr(error, "strerror", None)) or "a file is cut short"
    folder = Path(file) if Path(file).is_dir() else Path(file).parent
    free = f"; {shutil.disk_usage(folder).free / 2**30:.1f} GiB are free there" if folder.is_dir() else ""
    return f"{file}: {reason}{free} (make room or choose another --out; a training goes on with --resume)"


def _last_written(folder: Path) -> Path | None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
