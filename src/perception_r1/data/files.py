"""Reading and writing files of data: whole JSON documents, records in any of three forms, atomic writes, progress."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from perception_r1.data.fields import did_you_mean, shown
from perception_r1.errors import DataError
from perception_r1.progress import progress

T = TypeVar("T")


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under its name only when it is complete; a failure leaves the old one, or none.

    A link stays and its target is replaced. What is no ordinary file (a device, a pipe: /dev/stdout) is written to as
    it stands: a rename would put a file in its place.

    Raises:
        DataError: ``path`` is a folder, or lies in something that is not a folder.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    if path.is_dir():
        raise DataError("is a folder (name a file to write)", path=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError("its folder cannot be made: a file has that name (choose another)", path=path) from None
    if (path.exists() and not path.is_file()) or path.parent == Path("/dev"):
        with path.open(mode, encoding=encoding) as stream:
            yield stream
        return
    if path.is_symlink():
        path = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=encoding) as stream:
            yield stream
        mask = os.umask(0)  # mkstemp makes a private file; the result gets the permissions of an ordinary one
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def existing_file(path: str | os.PathLike[str], what: str = "data file") -> Path:
    """``path`` if it is a file, or an error that suggests a neighbour with a similar name."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"is a folder (expected a {what})", path=path)
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"no such {what}{did_you_mean(path.name, siblings)}", path=path)


def read_text(path: Path) -> str:
    """The file as UTF-8 text (a byte order mark is dropped)."""
    try:
        return existing_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start} (save it as UTF-8)", path=path) from None


def read_json(path: Path) -> Any:
    """A whole JSON document; ``DataError`` names the line where it stops being one."""
    content = read_text(path)
    if not content.strip():
        raise DataError("the file is empty (expected JSON)", path=path)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{broken_json(error)} (expected one JSON document)", path=path, line=error.lineno) from None


def read_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Records of a JSON list, JSON lines or a parquet file, each with its 1-based row (or line) number."""
    if existing_file(path).suffix == ".parquet":
        return list(enumerate(read_parquet(path), start=1))
    content = read_text(path)
    if not content.strip():
        raise DataError("the file is empty (expected records)", path=path)
    is_list = content.lstrip().startswith("[")
    rows = enumerate(read_json(path), start=1) if is_list else parse_lines(content, path)
    records = []
    for line, row in rows:
        if not isinstance(row, dict):
            raise DataError(f'{shown(row)} is not an object (expected {{"image": …}})', path=path, line=line)
        records.append((line, row))
    if not records:
        raise DataError("the file has no records", path=path)
    return records


def parse_lines(content: str, path: Path) -> Iterator[tuple[int, Any]]:
    """JSON lines of ``content``; blank lines are skipped but counted."""
    for line, text in enumerate(content.split("\n"), start=1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{broken_json(error)} (expected one JSON object a line)", path=path, line=line
                ) from None


def broken_json(error: json.JSONDecodeError) -> str:
    """What is wrong with a piece of JSON, in a few words."""
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        end = error.doc.rstrip()  # of a line with its line break, JSON names the column after that
        return f"the JSON is cut off at column {max(len(end) - end.rfind(chr(10)), 1)}"
    return f"not valid JSON at column {error.colno}: {error.msg}"


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All rows of a parquet file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DataError("reading parquet needs pyarrow (pip install 'perception-r1[train]')", path=path) from None
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"is not a readable parquet file: {' '.join(str(error).split())}", path=path) from None
    if not rows:
        raise DataError("the file has no rows", path=path)
    return rows


def track(items: Iterable[T], *, total: int | None, label: str) -> Iterator[T]:
    """``items``, with progress on standard error once the loop has run for two seconds."""
    with progress(label, total) as advance:
        for item in items:
            yield item
            advance()
