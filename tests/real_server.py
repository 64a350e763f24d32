"""A real chat server in a process of its own, for the tests that talk to one."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def real_server(*command: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Starts ``command --port N`` and gives its address (…/v1) as soon as ``/health`` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would stop a server that says much)
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=variables, stdout=output, stderr=subprocess.STDOUT, text=True
    )

    def said() -> str:
        output.seek(0)
        return output.read()[-3000:]

    try:
        for _ in range(1200):
            assert process.poll() is None, said()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start: {said()}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)
        output.close()
