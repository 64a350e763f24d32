"""The judge against ``transformers serve`` with a tiny text model: a real server, whose words mean nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_r1.judge import Case, ChatJudge

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("aiohttp")
pytest.importorskip("openai")  # transformers serve imports it


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from perception_r1.models.tiny_tokenizer import QWEN_TEMPLATE, build_tokenizer

    folder = tmp_path_factory.mktemp("judge") / "model"
    tokenizer = build_tokenizer()
    tokenizer.chat_template = QWEN_TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(folder), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    command = Path(sys.executable).with_name("transformers")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([command, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)  # fmt: skip
    try:
        for _ in range(600):
            assert process.poll() is None, process.stdout.read()[-3000:]  # type: ignore[union-attr]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the server did not start")
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_model_that_babbles_gives_no_verdicts_and_no_zeros(served: tuple[str, str]) -> None:
    url, model = served

    async def go() -> tuple[list, dict]:
        judge = ChatJudge(url, model, concurrency=2, timeout_s=120.0, attempts=2, max_tokens=12)
        await judge.check()  # the server answers; it refuses the schema, or takes it
        found = await judge.judge([Case(("AB = 5",), "We see that AB = 5."), Case(("AB = 5",), "AB = 6")])
        stats = dict(judge.stats())
        await judge.close()
        return found, stats

    found, stats = asyncio.run(go())
    assert len(found) == 2
    for one in found:
        assert one.failure.startswith("the judge's answer holds no verdicts") or None in one.scores
    assert stats["requests"] >= 4 and stats["completion_tokens"] > 0
