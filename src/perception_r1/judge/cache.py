"""Verdicts kept on disk: a judge is asked once about the same facts and the same response, in any run."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from perception_r1.errors import DataError
from perception_r1.judge.base import Verdicts


class VerdictCache:
    """Verdicts by key in an SQLite file; several processes may share it.

    Args:
        path: the file; None keeps them in memory only.

    Raises:
        DataError: the file cannot be opened or is no cache.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = path
        self.lock = threading.Lock()
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self.table = sqlite3.connect(":memory:" if path is None else str(path), timeout=60, check_same_thread=False)
            if path is not None:
                self.table.execute("PRAGMA journal_mode=WAL")
                self.table.execute("PRAGMA synchronous=NORMAL")
            self.table.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self.table.commit()
        except sqlite3.Error as error:
            raise DataError(f"cannot be used as a cache of verdicts ({error})", path=path) from None

    def get(self, keys: Sequence[str]) -> dict[str, Verdicts]:
        """Those of ``keys`` that are there. A damaged entry is not."""
        found: dict[str, Verdicts] = {}
        with self.lock:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self.table.execute(f"SELECT key, value FROM verdicts WHERE key IN ({marks})", list(part))
                for key, value in rows:
                    verdicts = _read(value)
                    if verdicts is not None:
                        found[key] = verdicts
        return found

    def put(self, items: Mapping[str, Verdicts] | Iterable[tuple[str, Verdicts]]) -> None:
        """Keep verdicts."""
        pairs = items.items() if isinstance(items, Mapping) else items
        rows = [(key, json.dumps([one.scores, one.contradicted, one.quotes])) for key, one in pairs]
        with self.lock, self.table:
            self.table.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", rows)

    def __len__(self) -> int:
        with self.lock:
            return int(self.table.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self.table.close()


def _read(value: str) -> Verdicts | None:
    try:
        scores, contradicted, quotes = json.loads(value)
        return Verdicts(
            tuple(None if score is None else float(score) for score in scores),
            tuple(bool(one) for one in contradicted),
            tuple(str(one) for one in quotes),
        )
    except (ValueError, TypeError):
        return None
