"""The vllm backend: the published signature here, the real engine where it is installed."""

from __future__ import annotations

import inspect
import sys

import pytest
from vllm_contract import LLM_ARGUMENTS, Engine, SamplingParams

from perception_r1.errors import UserError
from perception_r1.evaluate.generate import TransformersGenerator
from perception_r1.evaluate.results import read_results
from perception_r1.evaluate.run import evaluate
from perception_r1.evaluate.vllm_engine import VllmStreamer
from perception_r1.tasks import make_task


def test_same_answers_as_transformers(tmp_path, monkeypatch, tiny, scenes):
    task = make_task("counting", family="qwen3_vl")
    engine = Engine(*tiny)
    engine.install(monkeypatch)
    streamer = VllmStreamer("some/model", tiny[1], task.family, max_new_tokens=10, logprobs=True)
    metrics = evaluate(task, scenes[:4], streamer, tmp_path / "vllm", model_name="m", progress=False, resamples=50)
    plain = TransformersGenerator(*tiny, task.family, max_new_tokens=10, batch_size=4)
    evaluate(task, scenes[:4], plain, tmp_path / "plain", model_name="m", progress=False, resamples=50)
    ours, theirs = read_results(tmp_path / "vllm"), read_results(tmp_path / "plain")
    assert [result.completion for result in ours] == [result.completion for result in theirs]
    assert metrics["n_scored"] == 4
    assert engine.calls == [4]  # all at once: the engine batches by itself
    assert engine.made_with["limit_mm_per_prompt"] == {"image": 1}
    # our images must not be resized again
    assert engine.made_with["mm_processor_kwargs"] == {"min_pixels": 1024, "max_pixels": 1 << 26}
    assert streamer.params.logit_bias.keys() >= {tiny[1].tokenizer.convert_tokens_to_ids("<|image_pad|>")}
    assert streamer.params.skip_special_tokens is False


def test_without_vllm_it_says_how_to_go_on(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"vllm cannot be imported .* --backend openai"):
        VllmStreamer("m", tiny[1], make_task("counting", family="qwen3_vl").family)


def test_the_installed_vllm_has_the_names_that_the_contract_has():
    vllm = pytest.importorskip("vllm", reason="vLLM needs a GPU build of its own")
    from vllm.engine.arg_utils import EngineArgs

    known = inspect.signature(vllm.LLM.__init__).parameters.keys() | inspect.signature(EngineArgs).parameters.keys()
    assert known >= LLM_ARGUMENTS
    assert set(inspect.signature(vllm.SamplingParams).parameters) >= set(inspect.signature(SamplingParams).parameters)
