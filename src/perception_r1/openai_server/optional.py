"""Decoding named in full, and what to do about servers that do not take every field of it.

A server fills in what a request leaves open: vLLM and SGLang from the model's ``generation_config.json`` (published
Qwen2.5-VL: repetition penalty 1.05, top_k, top_p). A request for plain decoding must therefore name every field.
``top_k``, ``min_p`` and ``repetition_penalty`` are not in OpenAI's own API, and some servers refuse unknown fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perception_r1.openai_server.messages import ChatError

PLAIN_DECODING: Mapping[str, Any] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Nothing between the model's distribution and the sampling; with temperature 0, greedy."""

_OF_OPENAI = ("top_p", "presence_penalty", "frequency_penalty", "seed")
_SPECIAL = ("skip_special_tokens", "spaces_between_special_tokens")
_REFUSED = (400, 422)


class OptionalFields:
    """Fields that are sent with every request until the server refuses some of them.

    Attributes:
        fields: those that are sent.
        dropped: names of those that the server refused, in order.
    """

    def __init__(self, fields: Mapping[str, Any] | None = None) -> None:
        self.fields: dict[str, Any] = dict(fields or {})
        self.dropped: tuple[str, ...] = ()
        self._agreed = False

    def fewer(self, sent: Mapping[str, Any], error: ChatError) -> dict[str, Any] | None:
        """What to send after a refusal; None where the fields are not the reason.

        First without those that the server names; else without those of special tokens, then without all that
        OpenAI's API does not have, then without any.
        """
        if not sent or error.status not in _REFUSED:
            return None
        if self._agreed:  # perhaps by an answer to another request, while this one was under way
            left = {name: value for name, value in sent.items() if name in self.fields}
            return left if len(left) < len(sent) else None
        names = (
            [name for name in sent if re.search(rf"\b{name}\b", str(error))]
            or [name for name in sent if name in _SPECIAL]
            or [name for name in sent if name not in _OF_OPENAI]
            or list(sent)
        )
        return {name: value for name, value in sent.items() if name not in names}

    def took(self, sent: Mapping[str, Any]) -> None:
        """The server has answered a request with these: from now on a refusal has another reason."""
        if not self._agreed:
            self.dropped = tuple(name for name in self.fields if name not in sent)
            self.fields, self._agreed = dict(sent), True

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out, and what follows from it."""
        decoding = [name for name in self.dropped if name not in _SPECIAL]
        special = [name for name in self.dropped if name in _SPECIAL]
        notes = []
        if decoding:
            notes.append(
                f"the server does not take {', '.join(decoding)}: its own values apply, which it may have from the "
                "model's generation_config.json"
            )
        if special:
            notes.append(f"the server does not take {', '.join(special)}: special tokens may be missing")
        return notes
