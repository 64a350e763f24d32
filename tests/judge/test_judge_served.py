"""The judge against ``transformers serve`` with a tiny text model: a real server, whose words mean nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_r1.judge import Case, ChatJudge
from real_server import real_server

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
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = ("serve", str(folder), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1")
    with real_server(Path(sys.executable).with_name("transformers"), *words) as url:
        yield url, str(folder)


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
