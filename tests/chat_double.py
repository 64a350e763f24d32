"""A local OpenAI-compatible server that misbehaves as told: it stands in for servers of others, never for our code."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[dict[str, Any], int], Any]


def completion(text: str, finish_reason: str = "stop", **choice: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason, **choice}
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 7},
    }


def question(body: dict[str, Any]) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's; what it would print lands in a test's output."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class ChatDouble:
    """``behave(body, n)`` is called with each request and how often the same question came before (from 1).

    It returns a dict (a completion), a string (its text), a number (an HTTP status), "drop" (the connection is closed),
    "half" (half of the answer's bytes), ("stall", s) (silence for s seconds), ("status", code, headers), ("refuse",
    code, words). ``models`` is what ``GET /v1/models`` lists; None: there is no such list.
    """

    def __init__(self, behave: Behaviour, models: list[dict[str, Any]] | None = None) -> None:
        self.behave, self.models = behave, models
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with double.lock:
                    double.connections += 1

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                body = json.loads(raw)
                with double.lock:
                    double.bodies.append(body)
                    double.headers.append(self.headers)
                    double.seen[question(body)] += 1
                    n = double.seen[question(body)]
                    double.active += 1
                    double.most_active = max(double.most_active, double.active)
                try:
                    self.answer(double.behave(body, n))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with double.lock:
                        double.active -= 1

            def do_GET(self) -> None:
                is_list = self.path == "/v1/models" and double.models is not None
                self.answer({"object": "list", "data": double.models} if is_list else 404)

            def answer(self, what: Any) -> None:
                if isinstance(what, tuple) and what[0] == "stall":
                    time.sleep(what[1])
                    what = "late"
                if what == "drop":
                    self.close_connection = True
                    return
                status, headers, half = 200, {}, what == "half"
                if isinstance(what, tuple) and what[0] == "refuse":
                    _, status, words = what
                    payload: Any = {"error": {"message": words, "type": "invalid_request_error"}}
                elif isinstance(what, tuple):
                    _, status, headers = what
                    payload = {"error": {"message": f"status {status}"}}
                elif isinstance(what, int):
                    status, payload = what, {"error": {"message": f"status {what}"}}
                else:
                    payload = what if isinstance(what, dict) else completion(what)
                data = json.dumps(payload).encode()
                data = data[: len(data) // 2] if half else data
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> ChatDouble:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
