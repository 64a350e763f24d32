"""Every picture decoded, as training will decode it: a file can have a good header and be cut off or empty after it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from perception_r1.data.images import open_image
from perception_r1.errors import DataError, UserError
from perception_r1.progress import progress
from perception_r1.types import Sample

ALONE = 200
"""Up to so many pictures are decoded in this process: starting others takes about a second."""

_CHUNK = 16


def check_pictures(
    samples: Sequence[Sample], *, processes: int | None = None, show_progress: bool = True
) -> tuple[list[Sample], list[DataError]]:
    """Decode the pictures of ``samples``, each file once.

    Args:
        samples: rows; those without an image are good.
        processes: that decode at a time; None is one a core.
        show_progress: pictures a second and time left, on standard error.

    Returns:
        The rows whose picture decodes, and an error with file and line for each of the others.

    Raises:
        UserError: a process that decodes was killed (usually for memory).
    """
    paths = list(dict.fromkeys(sample.image for sample in samples if sample.image is not None))
    broken: dict[str, str] = {}
    with progress("decoding pictures", len(paths), unit="pictures", enabled=show_progress) as advance:
        for path, message in zip(paths, _decoded(paths, processes or _cores()), strict=True):
            if message is not None:
                broken[path] = message
            advance()
    good = [sample for sample in samples if sample.image not in broken]
    bad = [row_error(sample, broken[sample.image]) for sample in samples if sample.image in broken]
    return good, bad


def decoded(
    samples: Sequence[Sample], bad: list[DataError], processes: int | None = None, quiet: bool = False
) -> list[Sample]:
    """The rows whose picture decodes; the errors of the others are appended to ``bad``."""
    good, errors = check_pictures(samples, processes=processes, show_progress=not quiet)
    bad += errors
    return good


def row_error(sample: Sample, message: str) -> DataError:
    """An error about the picture of a row, with the file and line of the row where they are known."""
    path, line = sample.origin or (None, None)
    return DataError(message, path=path, line=line, field="image")


def decode(path: str) -> str | None:
    """Decode a picture; what is wrong with it, None if nothing."""
    try:
        open_image(path)
    except DataError as error:
        return f'"{path}": {error.message}'
    except MemoryError:
        return f'"{path}": the image is too large for the memory (make it smaller)'
    return None


def _decoded(paths: Sequence[str], processes: int) -> Iterator[str | None]:
    if processes == 1 or len(paths) <= ALONE:
        yield from map(decode, paths)
        return
    # Spawned: a fork of a process with threads (torch's, say) may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(decode, paths, chunksize=_CHUNK)
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes pictures was killed (out of memory?): try --processes 1, or --quick, which "
                "reads headers only"
            ) from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
