"""vLLM's offline engine as published (0.33): the names that its constructors take, answered by a transformers model.

vLLM needs a GPU. What can be checked without one is that we call it with arguments that exist and read outputs that it
gives; names are those of ``vllm/entrypoints/llm.py``, ``vllm/engine/arg_utils.py``, ``vllm/sampling_params.py`` and
``vllm/outputs.py``.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

LLM_ARGUMENTS = {
    "tokenizer",
    "tokenizer_mode",
    "trust_remote_code",
    "tensor_parallel_size",
    "dtype",
    "quantization",
    "revision",
    "seed",
    "gpu_memory_utilization",
    "enforce_eager",
    "hf_overrides",
    "mm_processor_kwargs",
    "max_model_len",
    "limit_mm_per_prompt",
    "max_num_seqs",
    "enable_prefix_caching",
    "max_num_batched_tokens",
}


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class Engine:
    """What ``LLM`` is in a test: made with a loaded model and processor."""

    model: Any
    processor: Any
    made_with: dict[str, Any] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def module(self) -> types.ModuleType:
        """A module ``vllm`` whose ``LLM`` is this engine."""
        engine = self

        class LLM:
            def __init__(self, model: str, **arguments: Any) -> None:
                unknown = arguments.keys() - LLM_ARGUMENTS
                assert not unknown, f"vLLM has no such arguments: {unknown}"
                engine.made_with = {"model": model, **arguments}

            def generate(self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True) -> Any:
                engine.calls.append(len(prompts))
                return [engine.answer(prompt, sampling_params) for prompt in prompts]

        made = types.ModuleType("vllm")
        made.LLM, made.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
        return made

    def install(self, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "vllm", self.module())

    def answer(self, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        import torch

        assert prompt.keys() <= {"prompt", "multi_modal_data", "mm_processor_kwargs"}
        assert params.temperature == 0.0
        images = [prompt["multi_modal_data"]["image"]]
        batch = self.processor(text=[prompt["prompt"]], images=images, return_tensors="pt")
        bias = params.logit_bias or {}
        done = self.model.generate(
            **batch,
            do_sample=False,
            max_new_tokens=params.max_tokens,
            eos_token_id=params.stop_token_ids,
            repetition_penalty=params.repetition_penalty,
            output_logits=True,
            return_dict_in_generate=True,
            suppress_tokens=[token for token, value in bias.items() if value <= -100] or None,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        ids = done.sequences[0, batch["input_ids"].shape[1] :].tolist()
        rows = torch.log_softmax(torch.stack(done.logits, dim=1)[0].float(), dim=-1)
        logprobs = [{token: Logprob(float(rows[i, token]), 1)} for i, token in enumerate(ids)]
        stopped = ids[-1] in params.stop_token_ids
        tokenizer = self.processor.tokenizer
        # the token that stopped is in token_ids, and not in the text
        text = tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=params.skip_special_tokens)
        output = CompletionOutput(
            0, text, ids, None, None if params.logprobs is None else logprobs, "stop" if stopped else "length"
        )
        return RequestOutput("0", [output])
