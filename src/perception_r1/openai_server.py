"""A client of OpenAI-compatible chat servers (vLLM, SGLang, ``transformers serve``, hosted ones) that loses no request.

Many requests at a time over kept connections; each is tried again, with jittered exponential back-off, when the server
is busy (429), fails (5xx), drops the connection, stalls past the time limit or sends half an answer. When nothing gets
through any more, a circuit breaker holds all requests back and lets single ones try, so that a server that restarts is
waited for and one that is gone is not hammered. What could not be had in the end is a ``ChatError``, given back in its
place: every request that goes in comes out.

The evaluation's ``openai`` backend and the judges of the visual perception reward both use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from perception_r1.errors import UserError
from perception_r1.types import FinishReason

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Body: TypeAlias = Mapping[str, Any]
"""What is sent besides the model: ``messages``, ``temperature``, ``max_tokens``, ``logprobs``, …"""
Key = TypeVar("Key")

ErrorKind: TypeAlias = Literal["refused", "busy", "unreachable", "timeout", "broken", "down"]
_RETRIED_STATUS = {408, 409, 425, 429}


class ChatError(UserError):
    """A request without an answer.

    Attributes:
        kind: ``refused`` (a 4xx: asking again would not help), ``busy`` (429 or 5xx to the end), ``unreachable``,
            ``timeout``, ``broken`` (answers that were no chat completion), ``down`` (the breaker gave up).
        attempts: how often it was tried.
        status: of the last HTTP answer, None without one.
    """

    def __init__(self, message: str, kind: ErrorKind, attempts: int = 1, status: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.attempts, self.status = kind, attempts, status

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


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    Attributes:
        attempts: of one request; waiting for the breaker takes none.
        base_s, max_s: the k-th pause is drawn evenly from half to all of ``min(max_s, base_s · 2^k)``; a
            ``Retry-After`` of the server is kept to (up to ``max_s``).
        breaker_failures: so many failed attempts without one success between hold everything back.
        breaker_pause_s: for so long, doubled each time (up to ``max_s``); then a single request tries.
        breaker_trips: after so many pauses in a row the server counts as down.
    """

    attempts: int = 6
    base_s: float = 0.5
    max_s: float = 30.0
    breaker_failures: int = 20
    breaker_pause_s: float = 2.0
    breaker_trips: int = 6

    def pause(self, attempt: int) -> float:
        """Seconds after the ``attempt``-th failure (from 1)."""
        return min(self.max_s, self.base_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


class ChatServer:
    """A model behind ``base_url``.

    Safe to use from several event loops and threads, each of which gets connections of its own.

    Args:
        base_url: with its version, "http://host:8000/v1".
        model: the name that the server knows it by.
        api_key: default the variable OPENAI_API_KEY, and a dummy for servers that want none.
        concurrency: requests under way at a time (per event loop).
        timeout_s: from sending a request to the last byte of its answer.
        retry: when to try again.

    Example:
        >>> server = ChatServer("http://127.0.0.1:8000/v1", "my-vlm", concurrency=32)
        >>> requests = [("a", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})]
        >>> answers = dict(server.stream(requests))  # doctest: +SKIP
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"{base_url}: is no address of a server (expected http://HOST:PORT/v1)")
        if concurrency < 1:
            raise UserError(f"concurrency {concurrency}: expected at least 1")
        self.base_url, self.model = base_url.rstrip("/"), model
        self.concurrency, self.timeout_s, self.retry = concurrency, timeout_s, retry or Retry()
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._breaker = _Breaker(self.retry)
        self._by_loop: weakref.WeakKeyDictionary[Any, tuple[Any, asyncio.Semaphore]] = weakref.WeakKeyDictionary()

    async def chat(self, messages: Messages, **body: Any) -> Reply:
        """One answer.

        Args:
            messages: of the OpenAI API; images as data addresses (``image_part``).
            body: further fields of the request (``temperature``, ``max_tokens``, ``logprobs``, ``extra_body`` for what
                only some servers know, …).

        Raises:
            ChatError: none could be had.
        """
        client, limit = self._connection()
        async with limit:
            return await self._tried(client, {"messages": messages, **body})

    async def chat_many(
        self, requests: Iterable[tuple[Key, Body | Callable[[], Body]]]
    ) -> AsyncIterator[tuple[Key, Reply | ChatError]]:
        """Answers to many requests, in the order in which they come; exactly one a request.

        Args:
            requests: key and body, drawn as there is room for them. A function is called, in a thread, when its turn
                comes: images are then encoded late. An error that it raises ends the iteration.
        """
        client, _ = self._connection()
        source = iter(requests)
        results: asyncio.Queue[tuple[Key, Reply | ChatError] | BaseException | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for key, body in source:
                    made = await asyncio.to_thread(body) if callable(body) else body
                    try:
                        await results.put((key, await self._tried(client, made)))
                    except ChatError as error:
                        await results.put((key, error))
            except Exception as error:
                await results.put(error)
            finally:
                results.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(self.concurrency)]
        running = len(workers)
        try:
            while running:
                item = await results.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def stream(
        self, requests: Iterable[tuple[Key, Body | Callable[[], Body]]]
    ) -> Iterator[tuple[Key, Reply | ChatError]]:
        """``chat_many`` for code that is not asynchronous: an event loop runs beside it, in a thread, until the end."""
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ready = threading.Event()
        state: dict[str, Any] = {}

        async def pump() -> None:
            state["loop"], state["task"] = asyncio.get_running_loop(), asyncio.current_task()
            ready.set()
            outcome: BaseException | None = None
            try:
                async with contextlib.aclosing(self.chat_many(requests)) as answers:  # type: ignore[type-var]
                    async for item in answers:
                        results.put(item)
            except BaseException as error:
                outcome = error
            await self.close()
            results.put(outcome)

        thread = threading.Thread(target=lambda: asyncio.run(pump()), name="chat-server", daemon=True)
        thread.start()
        ended = False
        try:
            while isinstance(item := results.get(), tuple):
                yield item
            ended = True
            if item is not None:
                raise item
        finally:
            if not ended:  # the caller wants no more
                ready.wait()
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    state["loop"].call_soon_threadsafe(state["task"].cancel)
            thread.join(timeout=10)

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client, _ = self._by_loop.pop(asyncio.get_running_loop(), (None, None))
        if client is not None:
            await client.close()

    def _connection(self) -> tuple[Any, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            import openai

            # Retries and the time limit are ours: the client's own neither see half an answer nor know of each other.
            client = openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._api_key, max_retries=0, timeout=self.timeout_s
            )
            found = self._by_loop[loop] = (client, asyncio.Semaphore(self.concurrency))
        return found

    async def _tried(self, client: Any, body: Body) -> Reply:
        attempt = 0
        while True:
            is_probe = await self._breaker.enter(self.base_url)
            attempt += 1
            try:
                async with asyncio.timeout(self.timeout_s):
                    reply = await _ask(client, self.model, body, attempt)
            except BaseException as caught:
                error, after = _explained(caught, self.base_url, attempt, self.timeout_s)
                if error is None:  # cancelled, or a mistake in the request that never left
                    self._breaker.leave(None, is_probe, "")
                    raise
                # A refusal is an answer: the server is well.
                self._breaker.leave(error.kind == "refused", is_probe, str(error))
                if error.kind == "refused" or attempt >= self.retry.attempts:
                    raise error from None
                await asyncio.sleep(max(min(after, self.retry.max_s), self.retry.pause(attempt)))
            else:
                self._breaker.leave(True, is_probe, "")
                return reply


class _Breaker:
    """Counts failures in a row over all requests; while open, one request at a time may find out whether it is over."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self.failures = self.trips = 0
        self.open_until = 0.0
        self.probing = False
        self.reason = ""
        self.lock = threading.Lock()

    async def enter(self, url: str) -> bool:
        """Waits until a request may go; True for one that probes."""
        while True:
            with self.lock:
                if not self.trips:
                    return False
                if self.trips > self.retry.breaker_trips:
                    raise ChatError(f"{url}: the server is down ({self.reason})", "down", 0)
                wait = self.open_until - time.monotonic()
                if wait <= 0 and not self.probing:
                    self.probing = True
                    return True
            await asyncio.sleep(min(max(wait, 0.02), 1.0))

    def leave(self, well: bool | None, is_probe: bool, reason: str) -> None:
        """After a request: it went well, or not, or was cancelled (None)."""
        with self.lock:
            if is_probe:
                self.probing = False
            if well:
                self.failures = self.trips = 0
            elif well is False:
                self.failures, self.reason = self.failures + 1, reason
                # Requests that were under way when it opened do not open it further.
                if is_probe or (not self.trips and self.failures >= self.retry.breaker_failures):
                    pause = min(self.retry.max_s, self.retry.breaker_pause_s * 2**self.trips)
                    self.trips += 1
                    self.open_until = time.monotonic() + pause


class _BrokenError(Exception):
    """What came is no chat completion."""


async def _ask(client: Any, model: str, body: Body, attempt: int) -> Reply:
    raw = await client.chat.completions.with_raw_response.create(model=model, **body)
    try:
        return _reply(json.loads(raw.content), attempt)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _BrokenError(f"{type(error).__name__}: {error}") from None


def _reply(document: Any, attempt: int) -> Reply:
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
        attempt,
    )


def _explained(error: BaseException, url: str, attempts: int, timeout_s: float) -> tuple[ChatError | None, float]:
    """What went wrong, and the pause in seconds that the server asks for (0: none); None where nothing was tried."""
    import openai

    if isinstance(error, openai.APIStatusError):
        status, said = error.status_code, _said(error)
        again = status in _RETRIED_STATUS or status >= 500
        message = f"{url}: answers {status}{': ' + said if said else ''}"
        if status == 404:
            message += " (is the model's name right, and does the address end in /v1?)"
        wait = error.response.headers.get("retry-after", "")
        after = float(wait) if wait.replace(".", "", 1).isdigit() else 0.0
        return ChatError(message, "busy" if again else "refused", attempts, status), after
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return ChatError(f"{url}: no answer within {timeout_s:g} s", "timeout", attempts), 0.0
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        text = " ".join(str(cause).split()) or type(cause).__name__
        return ChatError(f"{url}: cannot be reached ({text})", "unreachable", attempts), 0.0
    if isinstance(error, _BrokenError):
        return ChatError(f"{url}: sent no chat completion ({error})", "broken", attempts), 0.0
    return None, 0.0


def _said(error: Any) -> str:
    """The server's own words, short and on one line."""
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, Mapping) else inner
    return " ".join(str(body or "").split())[:300]


def image_part(image: Any) -> dict[str, Any]:
    """A picture (PIL) as part of a message: a PNG in a data address, so that the server gets the very same pixels."""
    import base64
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
