"""Ids on the hub: asked of a real server, of none, and of the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

ASK = """
import sys
from huggingface_hub import constants
from perception_r1.errors import ModelError
from perception_r1.models.load import check_available
for repo in sys.argv[1:]:
    try:
        check_available(repo)
        print("ok", constants.HF_HUB_OFFLINE)
    except ModelError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as is asked: one open model, one gated."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").removesuffix("/auth-check")
        known = name in ("org/open", "org/gated")
        refused = self.path.endswith("/auth-check")
        self.send_response(403 if refused else 200 if known else 404)
        if refused or not known:
            self.send_header("X-Error-Code", "GatedRepo" if refused else "RepoNotFound")
        self.end_headers()
        self.wfile.write(json.dumps({"id": name, "gated": "manual" if name == "org/gated" else False}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(tmp_path: Path, endpoint: str, *repos: str, offline: bool = False) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(tmp_path), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-c", ASK, *repos]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def cache(tmp_path: Path, repo: str) -> None:
    """A model in the cache, as a download leaves it."""
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


def test_the_hub_is_asked_once(hub: str, tmp_path: Path) -> None:
    found = ask(tmp_path, hub, "org/open", "org/gated", "org/nothing")
    assert found[0] == "ok False"
    assert found[1] == f"org/gated: is gated: accept its terms at {hub}/org/gated, then hf auth login"
    assert found[2] == "org/nothing: the hub has no such model (for a private one: hf auth login)"


def test_a_hub_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    """Libraries try again for half a minute for each file; what the cache has is used without asking."""
    cache(tmp_path, "org/cached")
    began = time.monotonic()
    first, second, note = ask(tmp_path, "http://127.0.0.1:9", "org/other", "org/cached")
    assert time.monotonic() - began < 20
    assert first.startswith("org/other: http://127.0.0.1:9 cannot be reached (") and "hf download org/other" in first
    assert second == "ok True"
    assert note == "note: http://127.0.0.1:9 cannot be reached: org/cached is taken from the cache"


def test_offline_nothing_is_asked(tmp_path: Path) -> None:
    cache(tmp_path, "org/cached")
    first, second = ask(tmp_path, "http://127.0.0.1:9", "org/other", "org/cached", offline=True)
    assert first.startswith(f"org/other: not in the cache ({tmp_path}/hub), and HF_HUB_OFFLINE is set")
    assert second == "ok True"
