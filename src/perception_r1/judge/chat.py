"""A text model behind an OpenAI-compatible server as judge: one request a response, never asked the same twice.

The response is untrusted text that would like a good verdict. It stands between two lines with a mark that it cannot
know; tags and special tokens are taken out of it; the model must quote the words that state a fact, and a quote that is
not in the response does not count. Whatever verdict comes, the scorer still looks for contradictions itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.errors import UserError
from perception_r1.judge.base import Case, Verdicts
from perception_r1.judge.cache import VerdictCache
from perception_r1.judge.prompt import PromptFile, load_prompt
from perception_r1.judge.reading import is_complete, read_verdicts
from perception_r1.models.identity import served_identity, weights_of
from perception_r1.openai_server import PLAIN_DECODING, ChatError, ChatServer, Reply, Retry
from perception_r1.openai_server.models import listed_model

MAX_CHARS = 24_000
"""Of a longer response the judge sees the first two thirds and the last third of so many characters."""

_UNKNOWN_FIELD = (400, 422)
_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?info\d*>|</?(?:s|bos|eos|end_of_turn|start_of_turn)>|\[/?INST\]")


class ChatJudge:
    """Asks a chat model.

    Args:
        base_url: of the server, with its version: "http://host:8000/v1".
        model: its name there.
        prompt: ``judge``, ``judge_info``, or a path to a prompt file.
        concurrency: requests at a time.
        timeout_s: for one request.
        attempts: for one request, and again for an answer that lacks verdicts.
        cache: file of verdicts to keep; None keeps them in memory.
        max_tokens: of an answer; default by the number of facts.
        structured: ask the server to keep to the JSON schema (vLLM, SGLang and others do); a server that refuses is
            asked without from then on.
        check_quotes: see `reading.read_verdicts`.
        api_key: default the variable OPENAI_API_KEY.
        retry: when to try again, instead of the defaults with ``attempts``.
        extra_body: further fields of each request, such as {"chat_template_kwargs": {"enable_thinking": False}}.

    Raises:
        UserError: a prompt, address or cache that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        prompt: str | Path = "judge",
        concurrency: int = 256,
        timeout_s: float = 60.0,
        attempts: int = 5,
        cache: str | Path | None = None,
        max_tokens: int | None = None,
        structured: bool = True,
        check_quotes: bool = True,
        api_key: str | None = None,
        retry: Retry | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.prompt: PromptFile = load_prompt(prompt, "judge")
        if self.prompt.answer == "text":
            raise UserError(f"{prompt}: field 'answer': a judge's prompt asks for json or info")
        self.base_url, self.model, self.check_quotes = base_url, model, check_quotes
        self.max_tokens, self.structured = max_tokens, structured and self.prompt.answer == "json"
        self.extra_body = dict(extra_body or {})
        self._asked_for = {"max_tokens": max_tokens, "structured": self.structured, "request": self.extra_body}
        self._api_key = api_key
        self._identity: dict[str, Any] | None = None
        self.attempts = attempts
        # A judge that is gone holds a training step up for seconds, not minutes: its rollouts are then not scored.
        retry = retry or Retry(attempts=attempts, max_s=10.0, breaker_failures=max(20, concurrency), breaker_trips=3)
        self._make: Callable[[], ChatServer] = lambda: ChatServer(
            base_url,
            model,
            api_key=api_key,
            concurrency=concurrency,
            timeout_s=timeout_s,
            retry=retry,
            optional=PLAIN_DECODING,
        )
        self.server = self._make()
        self.gone: list[ChatServer] = []
        self.cache = VerdictCache(cache)
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0

    @property
    def name(self) -> str:
        """Model and prompt, for records."""
        return f"{self.model} ({self.prompt.version})"

    async def judge(self, cases: Sequence[Case]) -> list[Verdicts]:
        """Verdicts on every case, in order; equal cases and those in the cache are not asked about."""
        began = time.monotonic()
        await asyncio.to_thread(self.identity)  # the first time it asks the server
        keys = [self.key(case) for case in cases]
        known = self.cache.get(list(dict.fromkeys(keys)))
        asked: dict[str, Case] = {}
        for key, case in zip(keys, cases, strict=True):
            if not case.facts:
                known[key] = Verdicts()
            elif key not in known:
                asked.setdefault(key, case)
        self.counts["cases"] += len(cases)
        self.counts["cached"] += len(cases) - len(asked)
        fresh = await self._ask(asked)
        self.cache.put({key: verdicts for key, verdicts in fresh.items() if is_complete(verdicts)})
        known.update(fresh)
        found = [known[key] for key in keys]
        self.counts["failed"] += sum(bool(verdicts.failure) for verdicts in found)
        self.counts["incomplete"] += sum(not verdicts.failure and None in verdicts.scores for verdicts in found)
        self.seconds += time.monotonic() - began
        return found

    async def check(self) -> None:
        """Ask one question, so that a wrong address, key or model is found out before a training starts.

        Raises:
            UserError: the server gives no answer. A bad verdict is not an error here: `pr1 vpr judge --gold` measures.
        """
        case = Case(("AB = 5",), "We see that AB = 5.")
        try:
            await self.server.chat(**self._request(case))
        except ChatError as error:
            if error.status in _UNKNOWN_FIELD and self.structured:
                self.structured = False
                await self.check()
                return
            raise UserError(f"the judge cannot be asked: {error}") from None

    def identity(self) -> dict[str, Any]:
        """Which model judges, and all that its verdicts depend on besides the case. Asks the server, once."""
        if self._identity is None:
            listed = listed_model(self.base_url, self.model, self._api_key)
            self._identity = {
                "model": self.model,
                **weights_of(served_identity(self.base_url, self.model, listed)),
                "prompt": self.prompt.digest,
                "check_quotes": self.check_quotes,
                **self._asked_for,
            }
        return self._identity

    def key(self, case: Case) -> str:
        """What the cache knows a case by: the judge's identity, facts and response."""
        text = json.dumps([self.identity(), case.facts, case.response], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def notes(self) -> list[str]:
        """What the server does not take of the decoding that it is asked for."""
        return self.server.optional.notes

    def stats(self) -> Mapping[str, float]:
        """Cases, cached, requests, tokens, failures and seconds since the last call."""
        found = {
            name: float(self.counts[name])
            for name in (
                "cases",
                "cached",
                "requests",
                "retries",
                "failed",
                "incomplete",
                "prompt_tokens",
                "completion_tokens",
            )
        }
        found["seconds"] = self.seconds
        self.counts.clear()
        self.seconds = 0.0
        return found

    async def close(self) -> None:
        """Close connections and cache."""
        for server in (self.server, *self.gone):
            await server.close()
        self.cache.close()

    async def _ask(self, asked: Mapping[str, Case]) -> dict[str, Verdicts]:
        """Verdicts for each key; an answer that lacks some is asked for again, and the best one is kept."""
        found: dict[str, Verdicts] = {}
        left = dict(asked)
        # Refused with ``response_format``: if that was why, the server does not take it; else the case was too long.
        plain: set[str] = set()
        for attempt in range(self.attempts):
            again: dict[str, Case] = {}
            down = False
            requests = [(key, self._request(case, attempt, plain=key in plain)) for key, case in left.items()]
            async for key, reply in self.server.chat_many(requests):
                verdicts = self._verdicts(reply, left[key])
                if isinstance(reply, ChatError):
                    down = down or reply.kind == "down"
                    if reply.status in _UNKNOWN_FIELD and self.structured and key not in plain:
                        plain.add(key)
                        again[key] = left[key]
                else:
                    if key in plain:
                        self.structured = False
                    if not is_complete(verdicts):
                        again[key] = left[key]
                if key not in found or _read(verdicts) > _read(found[key]):
                    found[key] = verdicts
            if down:
                self.gone.append(self.server)  # others may be waiting for it still
                self.server = self._make()  # a server that is back at the next step is asked again
                break
            if not again:
                break
            left = again
            self.counts["retries"] += len(again)
        return found

    def _verdicts(self, reply: Reply | ChatError, case: Case) -> Verdicts:
        if isinstance(reply, ChatError):
            self.counts["requests"] += max(1, reply.attempts)
            return Verdicts(failure=str(reply))
        self.counts["requests"] += reply.attempts
        self.counts["prompt_tokens"] += reply.prompt_tokens or 0
        self.counts["completion_tokens"] += reply.completion_tokens or 0
        return read_verdicts(reply.answer, case, check_quotes=self.check_quotes)

    def _request(self, case: Case, attempt: int = 0, *, plain: bool = False) -> dict[str, Any]:
        response = inert(case.response)
        tagged = self.prompt.answer == "info"
        facts = "\n".join(
            f"<info{number}>{fact}</info{number}>" if tagged else f"{number}. {fact}"
            for number, fact in enumerate((_one_line(fact) for fact in case.facts), start=1)
        )
        mark = "text " + hashlib.sha256(f"{self.prompt.version} {case.response}".encode()).hexdigest()[:12]
        body: dict[str, Any] = {
            "messages": self.prompt.messages(facts=facts, response=response, mark=mark),
            # A server's fault does not come twice; a model that wrote nonsense twice would write it again.
            "temperature": 0.0 if attempt < 2 else 0.5,
            "max_tokens": self.max_tokens or (64 + (24 if tagged else 80) * len(case.facts)),
        }
        if self.structured and not plain:
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(len(case.facts))}
        return {**body, **self.extra_body}


def inert(text: str) -> str:
    """A response without tokens and tags that mean something to a judge, and not longer than `MAX_CHARS`."""
    text = _TOKEN.sub(" ", text)
    if len(text) > MAX_CHARS:
        text = f"{text[: MAX_CHARS * 2 // 3]}\n[…]\n{text[-MAX_CHARS // 3 :]}"
    return text


def _one_line(fact: str) -> str:
    return " ".join(inert(fact).split())


def _read(verdicts: Verdicts) -> int:
    """How many verdicts there are; a failure has fewer than none."""
    return -1 if verdicts.failure else sum(score is not None for score in verdicts.scores)


def _schema(n: int) -> dict[str, Any]:
    entry = {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": 1, "maximum": n},
            "verdict": {"type": "string", "enum": ["stated", "absent", "contradicted"]},
            "quote": {"type": "string", "maxLength": 200},
        },
        "required": ["id", "verdict", "quote"],
        "additionalProperties": False,
    }
    return {
        "name": "verdicts",
        "schema": {
            "type": "object",
            "properties": {"verdicts": {"type": "array", "items": entry, "minItems": n, "maxItems": n}},
            "required": ["verdicts"],
            "additionalProperties": False,
        },
    }
