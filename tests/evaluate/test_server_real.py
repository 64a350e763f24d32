"""``transformers serve`` with a tiny vision-language model: the real server, over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perception_r1.evaluate.generate import TransformersGenerator
from perception_r1.evaluate.results import read_results
from perception_r1.evaluate.run import evaluate
from perception_r1.evaluate.server import ServerStreamer
from perception_r1.openai_server import ChatServer
from perception_r1.tasks import make_task
from real_server import real_server

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")  # transformers serve imports it


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("served")
    tiny[0].save_pretrained(folder)
    tiny[1].save_pretrained(folder)
    with real_server(sys.executable, Path(__file__).with_name("serve_tiny.py"), folder) as url:
        yield url, str(folder)


@pytest.mark.slow
def test_same_answers_as_the_model_itself(served, tmp_path, tiny, scenes):
    url, folder = served
    task = make_task("counting", family="qwen3_vl")
    streamer = ServerStreamer(ChatServer(url, folder, concurrency=3, timeout_s=300.0), task.family, max_new_tokens=8)
    metrics = evaluate(task, scenes[:4], streamer, tmp_path / "served", model_name="m", progress=False, resamples=50)
    assert metrics["n_scored"] == 4
    # it refuses fields that it does not know, and strips special tokens
    assert streamer.notes == [
        "the server does not take top_k, min_p, repetition_penalty: its own values apply, which it may have from the "
        "model's generation_config.json",
        "the server does not take skip_special_tokens, spaces_between_special_tokens: special tokens may be missing",
    ]
    assert metrics["generation"]["decoding"]["frequency_penalty"] == 0.0  # of which it makes its repetition penalty, 1
    plain = TransformersGenerator(*tiny, task.family, max_new_tokens=8, batch_size=1)
    plain.options["suppress_tokens"] = None
    evaluate(task, scenes[:4], plain, tmp_path / "plain", model_name="m", progress=False, resamples=50)
    skip = tiny[1].tokenizer.all_special_tokens
    for ours, theirs in zip(read_results(tmp_path / "served"), read_results(tmp_path / "plain"), strict=True):
        text = theirs.completion.text
        for token in skip:
            text = text.replace(token, "")
        assert ours.completion.text == text
