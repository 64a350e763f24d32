"""Many requests at a time to one model: bounded, tried again, each answered exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from perception_r1.errors import UserError
from perception_r1.openai_server.messages import Body, ChatError, Messages, Reply
from perception_r1.openai_server.optional import OptionalFields
from perception_r1.openai_server.retry import Breaker, Retry

if TYPE_CHECKING:
    from perception_r1.openai_server.transport import Transport

Key = TypeVar("Key")


class ChatServer:
    """A model behind ``base_url``.

    Safe to use from several event loops and threads, each of which gets connections of its own.

    Args:
        base_url: with its version, "http://host:8000/v1".
        model: the name that the server knows it by.
        api_key: default the variable OPENAI_API_KEY, and a dummy for servers that want none.
        concurrency: requests under way at a time (per event loop).
        timeout_s: from sending a request to the last byte of its answer; `Retry.patience` says when it is longer.
        retry: when to try again.
        optional: fields of every request that the server may refuse: it is then asked without them, and
            ``optional.notes`` says so. A request's own fields win.

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
        optional: Mapping[str, Any] | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"{base_url}: is not the address of a server (expected http://HOST:PORT/v1)")
        if concurrency < 1:
            raise UserError(f"concurrency {concurrency}: expected at least 1")
        self.base_url, self.model = base_url.rstrip("/"), model
        self.concurrency, self.timeout_s, self.retry = concurrency, timeout_s, retry or Retry()
        self.optional = OptionalFields(optional)
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._breaker = Breaker(self.retry)
        self._by_loop: weakref.WeakKeyDictionary[Any, tuple[Transport, asyncio.Semaphore]] = weakref.WeakKeyDictionary()

    async def chat(self, messages: Messages, **body: Any) -> Reply:
        """One answer.

        Args:
            messages: of the OpenAI API; images as data addresses (``image_part``).
            body: further fields of the request (``temperature``, ``max_tokens``, ``logprobs``, what only some servers
                know, …).

        Raises:
            ChatError: none could be had.
        """
        transport, limit = self._connection()
        async with limit:
            return await self._tried(transport, {"messages": messages, **body})

    async def chat_many(
        self, requests: Iterable[tuple[Key, Body | Callable[[], Body]]]
    ) -> AsyncIterator[tuple[Key, Reply | ChatError]]:
        """Answers to many requests, in the order in which they come; exactly one a request.

        Args:
            requests: key and body, drawn as there is room for them. A function is called, in a thread, when its turn
                comes: images are then encoded late. An error that it raises ends the iteration.
        """
        transport, limit = self._connection()
        source = iter(requests)
        results: asyncio.Queue[tuple[Key, Reply | ChatError] | BaseException | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for key, body in source:
                    made = await asyncio.to_thread(body) if callable(body) else body
                    try:
                        async with limit:  # others of this loop may be asking, too
                            reply = await self._tried(transport, made)
                        await results.put((key, reply))
                    except ChatError as error:
                        await results.put((key, error))
            except Exception as error:
                await results.put(error)
            finally:
                results.put_nowait(None)

        most = len(requests) if isinstance(requests, Sized) else self.concurrency  # a judge asks one by one under verl
        workers = [asyncio.create_task(work()) for _ in range(min(most, self.concurrency))]
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
        transport, _ = self._by_loop.pop(asyncio.get_running_loop(), (None, None))
        if transport is not None:
            await transport.close()

    def _connection(self) -> tuple[Transport, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            from perception_r1.openai_server.transport import Transport

            transport = Transport(self.base_url, self.model, self._api_key)
            found = self._by_loop[loop] = (transport, asyncio.Semaphore(self.concurrency))
        return found

    async def _tried(self, transport: Transport, body: Body) -> Reply:
        """One answer, without the optional fields that the server refuses; a field that is None is not sent."""
        sent = {name: value for name, value in self.optional.fields.items() if name not in body}
        own = {name: value for name, value in body.items() if value is not None}
        while True:
            try:
                reply = await self._repeated(transport, {**sent, **own})
            except ChatError as error:
                fewer = self.optional.fewer(sent, error)
                if fewer is None:
                    raise
                sent = fewer
            else:
                kept = {n: v for n, v in self.optional.fields.items() if n in sent or n in body}
                self.optional.took(kept)
                return reply

    async def _repeated(self, transport: Transport, body: Body) -> Reply:
        attempt, limit_s = 0, self.timeout_s
        while True:
            is_probe = await self._breaker.enter(self.base_url)
            attempt += 1
            try:
                reply = await transport.ask(body, limit_s, attempt)
            except ChatError as error:
                self._breaker.leave(is_probe, error)
                if error.kind == "refused" or attempt >= self.retry.attempts:
                    raise
                if error.kind == "timeout":
                    limit_s = min(2 * limit_s, self.retry.patience * self.timeout_s)
                await asyncio.sleep(max(min(error.retry_after_s, self.retry.max_s), self.retry.pause(attempt)))
            except BaseException:  # cancelled, or a mistake in the request that never left
                self._breaker.cancelled(is_probe)
                raise
            else:
                self._breaker.leave(is_probe, None)
                return reply
