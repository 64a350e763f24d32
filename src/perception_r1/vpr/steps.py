"""What the steps of the pipeline share: rows in, rows out as they come, resume, failures apart, cost.

A step appends each finished row to ``OUT`` at once and keeps what failed, with the reason, in ``OUT.failed.jsonl``.
Started again it goes on: rows that are in ``OUT`` are not asked for again, failed ones are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write, existing_file
from perception_r1.data.row import row_from_sample
from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.results import json_line, write_lines
from perception_r1.models.identity import served_identity, weights_of
from perception_r1.openai_server import ChatError, ChatServer, Reply
from perception_r1.openai_server.models import listed_model
from perception_r1.progress import progress
from perception_r1.types import Sample

Row = dict[str, Any]
Request = tuple[str, Mapping[str, Any] | Callable[[], Mapping[str, Any]]]


@dataclass(slots=True)
class StepReport:
    """What a step did, this time. Tokens are those that the server counted; ``cost`` follows from prices, else None."""

    step: str
    n_in: int = 0
    n_done: int = 0
    n_before: int = 0
    n_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return asdict(self)

    def price(self, per_million: tuple[float, float] | None) -> None:
        """Set the cost from prices of a million (prompt, completion) tokens."""
        if per_million is not None:
            paid = self.prompt_tokens * per_million[0] + self.completion_tokens * per_million[1]
            self.cost = round(paid / 1e6, 4)

    def line(self) -> str:
        """The report on one line."""
        parts = [f"{self.n_done} of {self.n_in} done"]
        if self.n_before:
            parts.append(f"{self.n_before} before")
        if self.n_failed:
            parts.append(f"{self.n_failed} failed")
        parts += [f"{name} {number}" for name, number in self.counts.items()]
        now = " this time" if self.n_before else ""
        if self.prompt_tokens or self.completion_tokens:
            parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens{now}")
        if self.cost is not None:
            parts.append(f"cost {self.cost:g}{now}")
        return f"{self.step}: " + ", ".join(parts)


def read_rows(path: str | Path, *, needs: Sequence[str] = ()) -> list[Row]:
    """Objects of a JSON lines file; ``needs`` are fields that each must have.

    Raises:
        DataError: naming file, line and field.
    """
    path = existing_file(path)
    rows = []
    # Not splitlines, which also splits at U+2028 and others that JSON leaves as they are in a text.
    for line, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON at column {error.colno}", path=path, line=line) from None
        if not isinstance(row, dict):
            raise DataError("is not an object", path=path, line=line)
        for name in needs:
            if row.get(name) is None:
                raise DataError("is missing (every row needs it)", path=path, line=line, field=name)
        rows.append(row)
    if not rows:
        raise DataError("the file has no rows", path=path)
    return rows


def finished_rows(path: Path) -> list[Row]:
    """Rows that an earlier run wrote; the half line that a kill left is dropped, and cut from the file."""
    if not path.is_file():
        return []
    rows, good = [], 0
    data = path.read_bytes()
    for raw in data.splitlines(keepends=True):
        try:
            if not raw.endswith(b"\n"):
                raise ValueError
            rows.append(json.loads(raw))
        except ValueError:
            break
        good += len(raw)
    if good < len(data):
        os.truncate(path, good)
    return rows


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Row], None]]:
    """A function that appends one row, on disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:

        def write(row: Row) -> None:
            stream.write(json_line(row))
            stream.flush()

        yield write


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """All rows at once: the file is whole or as it was."""
    write_lines(path, rows)


def check_settings(out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse to go on with other settings (model, prompt, decoding) than those of the rows that are there.

    Raises:
        UserError: the output is there and ``resume`` is off, or belongs to other settings.
    """
    note = settings_file(out)
    if out.exists() and out.stat().st_size:
        if not resume:
            raise UserError(f"{out}: is there already (add --resume to go on with it, or choose another name)")
        before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        unknown = [key for key in settings if key not in before]
        changed = [key for key in before if key not in settings or before[key] != settings[key]]
        if changed:
            raise UserError(f"{out}: was made with other settings ({', '.join(changed)}); choose another name")
        if unknown:
            raise UserError(
                f"{out}: {note.name} does not say with which {', '.join(unknown)} it was made (an earlier version "
                "did not record it); choose another name"
            )
    with atomic_write(note) as stream:
        stream.write(json.dumps(dict(settings), ensure_ascii=False) + "\n")


def server_settings(server: ChatServer, decoding: Mapping[str, Any]) -> dict[str, Any]:
    """What the answers of a server depend on: which model it serves, and how it is asked."""
    model = served_identity(server.base_url, server.model, listed_model(server.base_url, server.model))
    return {"model": server.model, **weights_of(model), "decoding": {**server.optional.fields, **decoding}}


def input_digest(*parts: Any) -> str:
    """Tells the inputs of rows apart: 16 hexadecimal digits of values that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_digest(sample: Sample, *more: Any) -> str:
    """The digest of a problem, with the name and size of its picture, and of what else is asked about it."""
    picture = Path(sample.image) if sample.image is not None else None
    size = picture.stat().st_size if picture is not None and picture.is_file() else None
    row = {key: value for key, value in row_from_sample(sample).items() if key not in ("image", "response")}
    return input_digest(row, picture and picture.name, size, *more)


def reusable_rows(out: Path, inputs: Iterable[tuple[str, str]]) -> list[Row]:
    """Rows of ``out`` that need not be asked for again: those of the same id and input.

    Args:
        out: what an earlier run wrote.
        inputs: (id, digest of the input) of every row that is wanted.

    Raises:
        UserError: rows of the same id answer another input: of other data, or of data that changed.
    """
    wanted: dict[str, set[str]] = {}
    for name, digest in inputs:
        wanted.setdefault(name, set()).add(digest)
    rows = [row for row in finished_rows(out) if str(row["id"]) in wanted]
    others = [row for row in rows if row.get("input") not in wanted[str(row["id"])]]
    if others:
        raise UserError(
            f"{out}: {len(others)} rows answer another input than the data's of the same id (the first: "
            f"{others[0]['id']!r}); choose another name, or take them out"
        )
    return rows


def settings_file(out: Path) -> Path:
    """Where a step keeps what its output depends on."""
    return out.with_name(out.name + ".settings.json")


def failed_file(out: Path) -> Path:
    """Where a step lists the rows that failed."""
    return out.with_name(out.name + ".failed.jsonl")


def ask_all(
    server: ChatServer,
    requests: Sequence[Request],
    accept: Callable[[str, Reply], str],
    report: StepReport,
    out: Path,
    *,
    label: str,
    done: int = 0,
    show_progress: bool = True,
) -> None:
    """Send requests and hand each reply to ``accept``, which writes its row and returns "" or why it is no good.

    Raises:
        UserError: the server refuses or is gone; what was done is kept.
    """
    began = time.monotonic()
    failures: list[Row] = []
    try:
        with progress(label, done + len(requests), done=done, unit="requests", enabled=show_progress) as advance:
            for key, reply in server.stream(requests):
                if isinstance(reply, ChatError):
                    failures.append({"id": key, "reason": str(reply)})
                    if reply.is_fatal:
                        raise UserError(f"{reply} (what was done is kept: --resume goes on)")
                else:
                    report.prompt_tokens += reply.prompt_tokens or 0
                    report.completion_tokens += reply.completion_tokens or 0
                    problem = accept(key, reply)
                    if problem:
                        failures.append({"id": key, "reason": problem, "response": reply.text})
                    else:
                        report.n_done += 1
                advance(1, f"{len(failures)} failed" if failures else "")
    finally:
        report.notes = server.optional.notes
        report.n_failed += len(failures)
        report.seconds = round(time.monotonic() - began, 1)
        if failures:
            write_rows(failed_file(out), failures)
        else:
            failed_file(out).unlink(missing_ok=True)
