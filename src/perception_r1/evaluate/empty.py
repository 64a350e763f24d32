"""Answers without text: said while there is still time to stop, and in the results."""

from __future__ import annotations

import sys

FIRST = 16
_HINT = (
    "a server that keeps the text elsewhere, a limit of tokens that hidden reasoning uses up, or a model that ends at "
    "once: look at samples.jsonl"
)


class EmptyAnswers:
    """Warn on standard error, once, when the first `FIRST` answers (or all, where there are fewer) are empty."""

    def __init__(self, n: int, *, warn: bool) -> None:
        self.first, self.warn, self.n = min(FIRST, n), warn, 0

    def see(self, text: str) -> None:
        """The next answer."""
        self.warn = self.warn and not text.strip()
        self.n += 1
        if self.warn and self.n == self.first:
            which = f"the first {self.n} answers are" if self.n > 1 else "the first answer is"
            print(f"warning: {which} empty ({_HINT})", file=sys.stderr, flush=True)


def empty_note(n_empty: int, n: int) -> list[str]:
    """A sentence for ``metrics.json`` where all answers, or a tenth of them, are empty."""
    if n_empty == n:
        return [f"every answer is empty ({_HINT})"]
    return [f"{n_empty} of {n} answers are empty"] if 10 * n_empty >= n else []
