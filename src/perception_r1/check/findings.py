"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Part = Literal["rows", "gold", "hacks", "tokenizer", "lengths", "frame", "overlap"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at, in one sentence that says what, where and the fix.

    ``error``: training on this would go wrong. ``warning``: it works, and the user should know. ``sample`` is the id of
    the row (of the first, where a finding stands for many).
    """

    part: Part
    message: str
    severity: Literal["error", "warning"] = "error"
    sample: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return asdict(self)


def several(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('x') else 's'}"
