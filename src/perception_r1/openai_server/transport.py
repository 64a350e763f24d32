"""One attempt: a request over a kept connection, and what became of it."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from perception_r1.openai_server.messages import Body, ChatError, Reply, read_reply

_RETRIED_STATUS = {408, 409, 425, 429}
_KEEP_S = 4.0
"""Idle connections are closed before servers do (uvicorn and vLLM: 5 s), or a request would meet a closing one."""
_LARGE = 1 << 20


class Transport:
    """The connections of one event loop to one server; opened and closed in that loop.

    Plain aiohttp: a request costs the client a fraction of a millisecond of processor time, where the official client
    takes several, and a training step waits for a thousand of them.
    """

    def __init__(self, base_url: str, model: str, api_key: str) -> None:
        self.base_url, self.model = base_url, model
        parts = urlsplit(base_url)
        self.proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
        )

    async def ask(self, body: Body, timeout_s: float, attempt: int) -> Reply:
        """One answer.

        Raises:
            ChatError: there was none. TypeError, ValueError: ``body`` is not JSON.
        """
        # Half a surrogate pair, which a model may well write, is no UTF-8.
        data = json.dumps({"model": self.model, **body}, ensure_ascii=False).encode(errors="replace")
        sent = data if len(data) < _LARGE else io.BytesIO(data)
        url = self.base_url
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.session.post(f"{url}/chat/completions", data=sent, proxy=self.proxy) as answer,
            ):
                status, headers, raw = answer.status, answer.headers, await answer.read()
        except TimeoutError:
            hint = "where it is only slow: a longer time limit, or fewer requests at a time"
            raise ChatError(f"{url}: no answer within {timeout_s:g} s ({hint})", "timeout", attempt) from None
        except aiohttp.InvalidURL:
            raise ChatError(f"{url}: is not the address of a server", "refused", attempt) from None
        except aiohttp.ClientError as error:
            raise ChatError(f"{url}: cannot be reached ({_why(error)})", "unreachable", attempt) from None
        if status >= 400:
            raise _refusal(url, status, headers, raw, attempt)
        try:
            return read_reply(json.loads(raw), attempt)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ChatError(f"{url}: sent no chat completion ({said})", "broken", attempt, status) from None

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()


def _why(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(url: str, status: int, headers: Mapping[str, str], raw: bytes, attempt: int) -> ChatError:
    again = status in _RETRIED_STATUS or status >= 500
    said = _said(raw)
    message = f"{url}: answers {status}{': ' + said if said else ''}"
    if status == 404:
        message += " (is the model's name right, and does the address end in /v1?)"
    wait = headers.get("retry-after", "")
    after = float(wait) if wait.replace(".", "", 1).isdecimal() else 0.0
    return ChatError(message, "busy" if again else "refused", attempt, status, after)


def _said(raw: bytes) -> str:
    """The server's own words, short and on one line."""
    text = raw.decode(errors="replace")
    try:
        said = json.loads(text)
        for key in ("error", "message"):
            said = said.get(key, said) if isinstance(said, Mapping) else said
    except (ValueError, RecursionError):
        said = text
    return " ".join(str(said or "").split())[:300]
