"""What goes to a chat server and what comes back: requests, replies, errors."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from perception_r1.errors import UserError
from perception_r1.types import FinishReason

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Body: TypeAlias = Mapping[str, Any]
"""What is sent besides the model, as JSON: ``messages``, ``temperature``, ``max_tokens``, whatever the server knows."""

ErrorKind: TypeAlias = Literal["refused", "busy", "unreachable", "timeout", "broken", "down"]


class ChatError(UserError):
    """A request without an answer.

    Attributes:
        kind: ``refused`` (a 4xx: asking again would not help), ``busy`` (429 or 5xx to the end), ``unreachable``,
            ``timeout``, ``broken`` (answers that were no chat completion), ``down`` (the breaker gave up).
        attempts: how often it was tried.
        status: of the last HTTP answer, None without one.
        retry_after_s: the pause that the server asked for; 0 for none.
    """

    def __init__(
        self, message: str, kind: ErrorKind, attempts: int = 1, status: int | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.kind, self.attempts, self.status, self.retry_after_s = kind, attempts, status, retry_after_s

    @property
    def is_fatal(self) -> bool:
        """Whether every other request will meet the same: a wrong key, model or address, or a server that is gone."""
        return self.kind == "down" or self.status in (401, 403, 404)


@dataclass(frozen=True, slots=True)
class Reply:
    """One chat completion.

    Attributes:
        text: the answer ("" when the server sent null).
        finish_reason: "stop" or "length"; None for anything else.
        tokens, token_logprobs: parallel, when ``logprobs`` was asked for and sent.
        prompt_tokens, completion_tokens: of ``usage``, where sent.
        attempts: how many it took.
    """

    text: str
    finish_reason: FinishReason | None = None
    tokens: tuple[str, ...] | None = None
    token_logprobs: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1


def read_reply(document: Any, attempts: int) -> Reply:
    """A chat completion, as JSON, into a ``Reply``.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no chat completion.
    """
    choice = document["choices"][0]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the content is no text")
    content = (choice.get("logprobs") or {}).get("content")
    usage = document.get("usage") or {}
    reason = choice.get("finish_reason")
    return Reply(
        text or "",
        reason if reason in ("stop", "length") else None,
        None if content is None else tuple(str(item["token"]) for item in content),
        None if content is None else tuple(float(item["logprob"]) for item in content),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        attempts,
    )


def image_part(image: Any) -> dict[str, Any]:
    """A picture (PIL) as part of a message: a PNG in a data address, so that the server gets the very same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
