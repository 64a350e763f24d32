"""Progress with rate and time left, on standard error, for whatever takes over two seconds.

On a terminal a bar; elsewhere (a log file, CI) one plain line every ten seconds, so that logs stay readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]

_PATIENCE_S = 2.0
_LINE_EVERY_S = 10.0


@contextmanager
def progress(
    description: str, total: int | None, *, done: int = 0, unit: str = "rows", enabled: bool = True
) -> Iterator[Advance]:
    """Yield ``advance(n=1, note="")``; call it as work gets done.

    Args:
        description: what is going on ("evaluating").
        total: how much there is, or None when unknown.
        done: how much was done before (a resumed run); it does not count towards the rate.
        unit: what is counted, for the rate.
        enabled: False prints nothing (``--quiet``, processes other than the first).
    """
    if not enabled:
        yield lambda n=1, note="": None
        return
    meter = _Bar(description, total, done, unit) if sys.stderr.isatty() else _Lines(description, total, done, unit)
    try:
        yield meter.advance
    finally:
        meter.close()


def format_duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min.

    Example:
        >>> format_duration(185)
        '3 min 05 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Lines:
    def __init__(self, description: str, total: int | None, done: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.before = done
        self.start = time.monotonic()
        self.next_line = self.start + _PATIENCE_S

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + _LINE_EVERY_S
            print(self._line(now, note), file=sys.stderr, flush=True)

    def _line(self, now: float, note: str) -> str:
        rate = (self.done - self.before) / max(now - self.start, 1e-9)
        of = "" if self.total is None else f"/{self.total}"
        left = "" if self.total is None or rate <= 0 else f", {format_duration((self.total - self.done) / rate)} left"
        speed = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s each"
        return f"{self.description}: {self.done}{of} {self.unit} ({speed}{left}){'  ' + note if note else ''}"

    def close(self) -> None:
        elapsed = time.monotonic() - self.start
        if elapsed >= _PATIENCE_S and self.done > self.before:  # nothing done: what stopped it speaks for itself
            print(f"{self.description}: {self.done} {self.unit} in {format_duration(elapsed)}", file=sys.stderr)


class _Bar:
    def __init__(self, description: str, total: int | None, done: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.start, self.unit, self.done, self.before = time.monotonic(), unit, done, done
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(description, total=total, completed=done, note="", speed="")
        self.shown, self.note = False, ""

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        elapsed = time.monotonic() - self.start
        if not self.shown and elapsed >= _PATIENCE_S:
            self.shown = True
            self.bar.start()
        rate = (self.done - self.before) / max(elapsed, 1e-9)
        speed = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s each"
        self.note = note or self.note
        self.bar.update(self.task, advance=n, speed=speed, note=self.note)

    def close(self) -> None:
        if self.shown:
            self.bar.stop()
