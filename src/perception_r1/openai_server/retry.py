"""When a request is tried again, and when none are sent any more."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass

from perception_r1.openai_server.messages import ChatError

_TRIPS_UNREACHED = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    Attributes:
        attempts: of one request; waiting for the breaker takes none.
        base_s, max_s: the k-th pause is drawn evenly from half to all of ``min(max_s, base_s · 2^k)``; a
            ``Retry-After`` of the server is kept to (up to ``max_s``).
        patience: after an attempt that ran out of time the next one gets twice as long, up to so many times the limit:
            a server that is only slow would otherwise be asked for the same again and again, and get slower.
        breaker_failures: so many failed attempts without one success between hold everything back.
        breaker_pause_s: for so long, doubled each time (up to ``max_s``); then a single request tries.
        breaker_trips: after so many pauses in a row the server counts as down; after two where it was never reached
            at all (a wrong address).
    """

    attempts: int = 6
    base_s: float = 0.5
    max_s: float = 30.0
    patience: float = 4.0
    breaker_failures: int = 20
    breaker_pause_s: float = 2.0
    breaker_trips: int = 6

    def pause(self, attempt: int) -> float:
        """Seconds after the ``attempt``-th failure (from 1)."""
        return min(self.max_s, self.base_s * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


class Breaker:
    """Counts failures in a row over all requests; while open, one request at a time may find out whether it is over."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self.failures = self.trips = 0
        self.open_until = 0.0
        self.probing = self.was_reached = False
        self.reason = ""
        self.lock = threading.Lock()

    async def enter(self, url: str) -> bool:
        """Waits until a request may go; True for one that probes.

        Raises:
            ChatError: the server is down.
        """
        while True:
            with self.lock:
                if not self.trips:
                    return False
                most = self.retry.breaker_trips
                if self.trips > (most if self.was_reached else min(most, _TRIPS_UNREACHED)):
                    raise ChatError(f"{url}: the server is down ({self.reason})", "down", 0)
                wait = self.open_until - time.monotonic()
                if wait <= 0 and not self.probing:
                    self.probing = True
                    return True
            await asyncio.sleep(min(max(wait, 0.02), 1.0))

    def leave(self, is_probe: bool, error: ChatError | None) -> None:
        """After a request and what became of it. A refusal is an answer: the server is well."""
        with self.lock:
            if is_probe:
                self.probing = False
            self.was_reached = self.was_reached or error is None or error.kind != "unreachable"
            if error is None or error.kind == "refused":
                self.failures = self.trips = 0
            else:
                self.failures, self.reason = self.failures + 1, str(error).partition(": ")[2]
                # Requests that were under way when it opened do not open it further.
                if is_probe or (not self.trips and self.failures >= self.retry.breaker_failures):
                    pause = min(self.retry.max_s, self.retry.breaker_pause_s * 2**self.trips)
                    self.trips += 1
                    self.open_until = time.monotonic() + pause

    def cancelled(self, is_probe: bool) -> None:
        """After a request that came to no end, which says nothing of the server."""
        with self.lock:
            if is_probe:
                self.probing = False
