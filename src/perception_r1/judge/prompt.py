"""Prompts as files: YAML with ``version``, ``answer``, ``system`` and ``user``; users may replace each by their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from perception_r1.errors import DataError

PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "judge": ("facts", "response"),
    "judge_info": ("facts", "response"),
    "annotate": ("question", "solution"),
    "distill": ("question",),
}
"""Prompts of the package and the placeholders that their user turn must have."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt. ``answer`` is the form that is asked for; ``digest`` tells any two versions apart."""

    version: str
    answer: Literal["json", "info", "text"]
    system: str
    user: str

    @property
    def digest(self) -> str:
        """A short hash of the text, for caches and settings."""
        text = "\0".join((self.version, self.answer, self.system, self.user))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def messages(self, **values: str) -> list[dict[str, Any]]:
        """Chat messages with the placeholders filled in; what a value holds is never looked at for placeholders."""
        turns = [
            {"role": role, "content": _fill(text, values)}
            for role, text in (("system", self.system), ("user", self.user))
        ]
        return [turn for turn in turns if turn["content"].strip()]


def load_prompt(name_or_path: str | Path, kind: str) -> PromptFile:
    """A prompt of the package by its name, or a user's file.

    Args:
        name_or_path: ``judge``, ``judge_info``, ``annotate``, ``distill``, or a path.
        kind: for which of these it is to stand in.

    Raises:
        DataError: no such file, or one that lacks something.
    """
    packaged = str(name_or_path) in PLACEHOLDERS
    path = (
        Path(str(files("perception_r1") / "assets" / "vpr" / f"{name_or_path}.yaml"))
        if packaged
        else Path(name_or_path)
    )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(PLACEHOLDERS)
        raise DataError(f"cannot be read as a prompt ({error.strerror}; ours are named {known})", path=path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DataError("is not YAML", path=path, line=None if mark is None else mark.line + 1) from None
    if not isinstance(values, dict):
        raise DataError("expected the keys version, answer, system and user", path=path)
    for key in ("version", "user"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise DataError("is missing (expected text)", path=path, field=key)
    if values.get("answer", "text") not in ("json", "info", "text"):
        raise DataError("expected json, info or text", path=path, field="answer")
    for name in PLACEHOLDERS[kind]:
        if f"{{{name}}}" not in values["user"]:
            raise DataError(f"lacks the placeholder {{{name}}}", path=path, field="user")
    return PromptFile(values["version"], values.get("answer", "text"), values.get("system") or "", values["user"])


def _fill(text: str, values: Mapping[str, str]) -> str:
    """One pass, so that a response that holds ``{facts}`` stays as it is."""
    parts, at = [], 0
    while at < len(text):
        place = min(((found, name) for name in values if (found := text.find(f"{{{name}}}", at)) >= 0), default=None)
        if place is None:
            break
        start, name = place
        parts += [text[at:start], values[name]]
        at = start + len(name) + 2
    return "".join([*parts, text[at:]]).strip()
