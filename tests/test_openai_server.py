from __future__ import annotations

import asyncio
import threading
import time

import pytest

from chat_double import ChatDouble, completion, question
from perception_r1.errors import UserError
from perception_r1.openai_server import ChatError, ChatServer, Reply, Retry

pytest.importorskip("aiohttp")

FAST = Retry(attempts=5, base_s=0.01, max_s=0.05, breaker_pause_s=0.02)


def ask(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8}


def server(double: ChatDouble, **options) -> ChatServer:
    return ChatServer(double.url, "m", **{"retry": FAST, "timeout_s": 5.0, **options})


def test_every_request_comes_back_once_however_the_server_fails():
    ways = ["drop", 500, 503, 429, "half", ("stall", 1.5), {"choices": []}, {"nothing": 1}]

    def behave(body, n):
        number = int(question(body))
        # the first two tries go wrong, in every combination of ways
        if n <= 2:
            return ways[(number * n) % len(ways)]
        return f"answer {number}"

    with ChatDouble(behave) as double:
        asked = [(number, ask(str(number))) for number in range(60)]
        found = list(server(double, concurrency=8, timeout_s=1.0).stream(asked))
    assert sorted(key for key, _ in found) == list(range(60))
    assert {key: reply.text for key, reply in found} == {n: f"answer {n}" for n in range(60)}
    # On a busy machine an answer may also be later than the time limit, and is then asked for once more.
    assert all(3 <= reply.attempts <= FAST.attempts for _, reply in found)


def test_what_cannot_be_had_comes_back_as_an_error_in_its_place():
    def behave(body, n):
        return {"bad": 400, "never": 500, "gone": "drop"}.get(question(body), "fine")

    with ChatDouble(behave) as double:
        found = dict(server(double).stream((name, ask(name)) for name in ("bad", "never", "gone", "fine")))
        assert double.seen["bad"] == 1  # asking again would not help
        assert double.seen["never"] == FAST.attempts
    assert found["fine"].text == "fine"
    kinds = {name: found[name].kind for name in ("bad", "never", "gone")}
    assert kinds == {"bad": "refused", "never": "busy", "gone": "unreachable"}
    assert found["never"].attempts == FAST.attempts
    assert not found["bad"].is_fatal
    assert "status 400" in str(found["bad"])


def test_a_stalling_server_is_given_up_after_the_time_limit():
    with ChatDouble(lambda body, n: ("stall", 8)) as double:
        start = time.monotonic()
        ((_, error),) = server(double, timeout_s=0.1, retry=Retry(attempts=2, base_s=0.01)).stream([(1, ask("x"))])
    assert error.kind == "timeout"
    assert time.monotonic() - start < 7
    assert "no answer within 0.2 s" in str(error)  # the second attempt has twice the time


def test_a_slow_server_gets_more_time_instead_of_losing_requests():
    """Answers take three to four times the limit: without patience each attempt of each request would be given up."""
    with ChatDouble(lambda body, n: time.sleep(0.7) or "ok") as double:
        chat = server(double, timeout_s=0.2, concurrency=4, retry=Retry(attempts=4, base_s=0.01, patience=16))
        found = list(chat.stream((n, ask(str(n))) for n in range(8)))
    assert [reply.text for _, reply in found] == ["ok"] * 8


def test_concurrency_is_bounded_and_connections_are_kept():
    def behave(body, n):
        time.sleep(0.01)
        return "ok"

    with ChatDouble(behave) as double:
        found = list(server(double, concurrency=4).stream((n, ask(str(n))) for n in range(40)))
        assert len(found) == 40
        assert double.most_active <= 4
        assert double.connections <= 4


def test_concurrency_is_bounded_over_all_that_ask_in_one_loop():
    def behave(body, n):
        time.sleep(0.02)
        return "ok"

    async def ask_all(client: ChatServer) -> list:
        async def one(number: int) -> list:
            return [found async for found in client.chat_many([(number, ask(str(number)))])]

        found = await asyncio.gather(*(one(number) for number in range(24)))
        await client.close()
        return found

    with ChatDouble(behave) as double:
        found = asyncio.run(ask_all(server(double, concurrency=4)))
        assert [key for ((key, reply),) in found if reply.text == "ok"] == list(range(24))
        assert double.most_active <= 4


def test_requests_are_drawn_late_and_functions_are_called_when_their_turn_comes():
    drawn, built = [], []

    def source():
        for number in range(20):
            drawn.append(number)
            yield number, lambda number=number: built.append(number) or ask(str(number))

    with ChatDouble(lambda body, n: "ok") as double:
        answers = server(double, concurrency=2).stream(source())
        next(answers)
        assert len(drawn) < 20
        answers.close()
        assert len(built) < 20


def test_an_error_of_the_builder_is_the_callers():
    def broken():
        raise UserError("no such image")

    with ChatDouble(lambda body, n: "ok") as double, pytest.raises(UserError, match="no such image"):
        list(server(double).stream([(1, broken)]))


def test_retry_after_is_kept_to():
    def behave(body, n):
        return ("status", 429, {"retry-after": "0.3"}) if n == 1 else "ok"

    with ChatDouble(behave) as double:
        start = time.monotonic()
        ((_, reply),) = server(double, retry=Retry(base_s=0.001, max_s=5)).stream([(1, ask("x"))])
    assert reply.attempts == 2
    assert time.monotonic() - start >= 0.3


def test_the_breaker_waits_for_a_server_that_restarts():
    down = threading.Event()
    down.set()

    def behave(body, n):
        return 503 if down.is_set() else "ok"

    retry = Retry(attempts=6, base_s=0.005, max_s=0.1, breaker_failures=4, breaker_pause_s=0.05, breaker_trips=30)
    with ChatDouble(behave) as double:
        threading.Timer(0.5, down.clear).start()
        found = list(server(double, concurrency=8, retry=retry).stream((n, ask(str(n))) for n in range(40)))
        tries = sum(double.seen.values())
    lost = [error for _, error in found if isinstance(error, ChatError)]
    assert len(found) == 40
    # Held back: the outage cost a few tries in all, not six a request.
    assert tries < 40 + 30
    assert len(lost) <= 3


def test_a_server_that_is_gone_is_given_up_and_said_so():
    with ChatDouble(lambda body, n: "ok") as double:
        url = double.url
    retry = Retry(attempts=3, base_s=0.001, max_s=0.02, breaker_failures=4, breaker_pause_s=0.01, breaker_trips=2)
    found = list(ChatServer(url, "m", retry=retry, concurrency=4).stream((n, ask(str(n))) for n in range(30)))
    assert len(found) == 30
    assert {error.kind for _, error in found} <= {"down", "unreachable"}
    assert found[-1][1].is_fatal
    assert "is down" in str(found[-1][1])


def test_an_address_where_nothing_ever_answered_is_given_up_sooner_than_a_server_that_broke_down():
    with ChatDouble(lambda body, n: "ok") as double:
        url = double.url
    retry = Retry(attempts=9, base_s=0.001, max_s=0.02, breaker_failures=2, breaker_pause_s=0.2, breaker_trips=10_000)
    start = time.monotonic()
    found = list(ChatServer(url, "m", retry=retry, concurrency=2).stream((n, ask(str(n))) for n in range(5)))
    assert time.monotonic() - start < 5
    assert found[-1][1].kind == "down"
    assert "cannot be reached (connection refused)" in str(found[-1][1])


def test_log_probabilities_usage_and_finish_reason():
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}, {"token": "b", "logprob": -1}]}
    answer = completion("ab", "length", logprobs=logprobs)
    with ChatDouble(lambda body, n: answer) as double:
        reply = asyncio.run(_one(server(double)))
        assert double.bodies[0]["model"] == "m"
        assert double.bodies[0]["temperature"] == 0.5
    assert reply == Reply("ab", "length", ("a", "b"), (-0.5, -1.0), 7, 1, 1)


async def _one(chat: ChatServer) -> Reply:
    try:
        return await chat.chat([{"role": "user", "content": "x"}], temperature=0.5)
    finally:
        await chat.close()


def test_one_client_serves_several_event_loops():
    with ChatDouble(lambda body, n: question(body)) as double:
        chat = server(double)
        assert [asyncio.run(_one(chat)).text for _ in range(3)] == ["x"] * 3


def test_a_mistake_in_the_request_is_an_error_at_once():
    with ChatDouble(lambda body, n: "ok") as double, pytest.raises(TypeError):
        list(server(double).stream([(1, {**ask("x"), "stop": object()})]))


def test_text_that_is_no_unicode_is_sent_all_the_same():
    with ChatDouble(lambda body, n: "ok") as double:
        ((_, reply),) = server(double).stream([(1, ask("half a pair: \ud83d, ∠ABC"))])
        assert reply.text == "ok"
        assert question(double.bodies[0]) == "half a pair: ?, ∠ABC"


def test_the_key_is_sent_and_no_proxy_stands_between_us_and_a_local_server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ChatDouble(lambda body, n: "ok") as double:
        assert asyncio.run(_one(server(double))).text == "ok"
        assert double.headers[0]["authorization"] == "Bearer from-the-environment"
    monkeypatch.delenv("no_proxy")
    with ChatDouble(lambda body, n: "ok") as double:
        ((_, error),) = server(double, retry=Retry(attempts=1)).stream([(1, ask("x"))])
    assert error.kind == "unreachable"


def test_addresses_are_checked():
    with pytest.raises(UserError, match=r"expected http://HOST:PORT/v1"):
        ChatServer("localhost:8000", "m")
