"""What a user can get wrong. Each message says what, where and the fix, on one line; the command line exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Base of everything that is the user's to fix: bad data, a bad recipe, a missing file."""


class DataError(UserError):
    """A bad row or file of data.

    Args:
        message: what is wrong and how to fix it.
        path: the file.
        line: 1-based line (JSON lines) or row number in it.
        field: the offending field.

    Example:
        >>> str(DataError("[40, 12, 31, 60] has x2 < x1", path="a.jsonl", line=17, field="boxes"))
        "a.jsonl:17: field 'boxes': [40, 12, 31, 60] has x2 < x1"
    """

    def __init__(self, message: str, *, path: object = None, line: int | None = None, field: str | None = None) -> None:
        self.message, self.path, self.line, self.field = message, path, line, field
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        what = "" if field is None else f"field '{field}': "
        super().__init__(f"{where}{what}{message}")


class RecipeError(UserError):
    """A recipe that cannot be run: unknown key, wrong type, clashing settings."""


class ModelError(UserError):
    """A model folder or id that cannot be used."""
