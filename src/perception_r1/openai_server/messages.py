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

_REASONING = ("reasoning_content", "reasoning")

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
        text: the answer ("" when the server sent null); of a refusal, its words.
        finish_reason: "stop" or "length"; None for anything else.
        tokens, token_logprobs: parallel, when ``logprobs`` was asked for and sent.
        prompt_tokens, completion_tokens: of ``usage``, where sent.
        attempts: how many it took.
        reasoning: what the server's reasoning parser took out of the text.
    """

    text: str
    finish_reason: FinishReason | None = None
    tokens: tuple[str, ...] | None = None
    token_logprobs: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    reasoning: str = ""

    @property
    def answer(self) -> str:
        """The text without its reasoning; the reasoning where there is nothing else."""
        return self.text if self.text.strip() else self.reasoning

    @property
    def is_all_reasoning(self) -> bool:
        """Whether the server took everything for thoughts."""
        return bool(self.reasoning) and not self.text.strip()

    def whole(self, *, thinking: bool) -> str:
        """What the model wrote, as it was before a reasoning parser took it apart.

        Parsers drop the tags. Where everything was taken for thoughts, ``<think>`` stays open if the answer was cut at
        the limit. If it was not, and no thinking was asked for, the text had no tags: it is the answer.

        Args:
            thinking: whether ``<think>`` blocks were asked for.
        """
        if not self.reasoning or self.text.lstrip().startswith("<think>"):
            return self.text
        if self.is_all_reasoning:
            if self.finish_reason == "length":
                return f"<think>{self.reasoning}"
            if not thinking:
                return self.reasoning
        return f"<think>{self.reasoning}</think>{self.text}"


def read_reply(document: Any, attempts: int) -> Reply:
    """A chat completion, as JSON, into a ``Reply``.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no chat completion.
    """
    choice = document["choices"][0]
    message = choice["message"]
    if not any(name in message for name in ("content", "refusal", *_REASONING)):
        raise LookupError("the message has no content")
    text, thoughts = _texts(message.get("content"))
    if not thoughts:  # vLLM, SGLang, DeepSeek; vLLM from 0.12 and OpenRouter
        thoughts = next((message[name] for name in _REASONING if isinstance(message.get(name), str)), "")
    if not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    content = (choice.get("logprobs") or {}).get("content")
    usage = document.get("usage") or {}
    reason = choice.get("finish_reason")
    return Reply(
        text,
        reason if reason in ("stop", "length") else None,
        None if content is None else tuple(str(item["token"]) for item in content),
        None if content is None else tuple(float(item["logprob"]) for item in content),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        attempts,
        thoughts,
    )


def _texts(content: Any) -> tuple[str, str]:
    """(text, thoughts) of a message's content: a text, null, or a list of parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError("the content is neither text nor a list of parts")
    text, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            text.append(part)
        elif part["type"] in ("thinking", "reasoning"):
            inner = part.get(part["type"]) or part.get("text")
            thoughts.append(_texts(inner)[0])
        elif part["type"] in ("text", "output_text", "refusal"):
            text.append(str(part.get("text") or part.get("refusal") or ""))
    return "".join(text), "".join(thoughts)


def image_part(image: Any) -> dict[str, Any]:
    """A picture (PIL) as part of a message: a PNG in a data address, so that the server gets the very same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
