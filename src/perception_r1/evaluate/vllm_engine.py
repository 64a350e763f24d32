"""Answers by vLLM's offline engine, which batches by itself; for large models on GPUs.

vLLM is an extra that needs a GPU build of its own: it is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perception_r1.data.images import model_image
from perception_r1.errors import UserError
from perception_r1.evaluate.tokens import TokenCompletion, decoded_ends
from perception_r1.models.processors import known_ids
from perception_r1.types import Completion, FinishReason, Prompt, Sample

if TYPE_CHECKING:
    from perception_r1.families import Family

# Arguments of the engine that say how fast it answers, not what.
_ONLY_SPEED = frozenset(
    {
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "gpu_memory_utilization",
        "enforce_eager",
        "max_num_seqs",
        "max_num_batched_tokens",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "swap_space",
        "cpu_offload_gb",
        "disable_log_stats",
        "distributed_executor_backend",
        "mm_processor_cache_gb",
        "async_scheduling",
    }
)
_CHUNK = 256  # samples handed over at once: enough to keep the engine full, few enough to lose little when killed


class VllmStreamer:
    """Greedy answers of a model that vLLM loads.

    Images come at the size that the model sees; the limits of its processor are lifted so that it leaves them as they
    are. Image tokens are never produced.

    Args:
        model: folder or hub id.
        processor: of the model (its chat template and tokenizer are used here).
        family: names the image and end tokens.
        max_new_tokens, repetition_penalty: of an answer.
        logprobs: also keep the log-probability of each token.
        engine: further arguments of ``vllm.LLM`` (``tensor_parallel_size``, ``gpu_memory_utilization``, …).
    """

    def __init__(
        self,
        model: str,
        processor: Any,
        family: Family,
        *,
        max_new_tokens: int = 1024,
        repetition_penalty: float = 1.0,
        logprobs: bool = False,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise UserError(
                f"--backend vllm: vllm cannot be imported ({error}); pip install vllm in an environment with a GPU "
                "build of torch, or serve the model and use --backend openai"
            ) from None
        self.processor, self.family, self.logprobs = processor, family, logprobs
        self.tokenizer = processor.tokenizer
        banned = known_ids(self.tokenizer, family.image_tokens)
        ends = [self.tokenizer.eos_token_id, *known_ids(self.tokenizer, family.end_tokens)]
        self.ends = set(ends)
        # An engine in this process takes of the model's generation_config.json its end tokens only; named all the same.
        self.decoding: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        self.params = SamplingParams(
            **self.decoding,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            stop_token_ids=list(dict.fromkeys(token for token in ends if token is not None)),
            logit_bias=dict.fromkeys(banned, -100.0) or None,
            logprobs=0 if logprobs else None,
        )
        arguments: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1}, "seed": 0}
        if family.name.startswith("qwen"):
            arguments["mm_processor_kwargs"] = {"min_pixels": family.grid**2, "max_pixels": 1 << 26}
        self.engine = LLM(model=model, **{**arguments, **(engine or {})})
        self.settings = {
            "backend": "vllm",
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
            **({"logprobs": True} if logprobs else {}),
            "decoding": self.decoding,
            **({"engine": changing} if (changing := _changes_answers(engine or {})) else {}),
        }

    def stream(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Every sample's index with its completion, in order."""
        for start in range(0, len(samples), _CHUNK):
            part = range(start, min(start + _CHUNK, len(samples)))
            inputs = [self._input(samples[index], prompts[index]) for index in part]
            outputs = self.engine.generate(inputs, self.params, use_tqdm=False)
            for index, output in zip(part, outputs, strict=True):
                yield index, self._completion(output.outputs[0])

    def _input(self, sample: Sample, prompt: Prompt) -> dict[str, Any]:
        text = self.processor.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        images = {"multi_modal_data": {"image": model_image(sample)}} if prompt.has_image else {}
        return {"prompt": text, **images}

    def _completion(self, output: Any) -> Completion:
        text = output.text
        for token in self.family.end_tokens:
            text = text.removesuffix(token)
        reason: FinishReason = "length" if output.finish_reason == "length" else "stop"
        if output.logprobs is None:
            return Completion(text, reason)
        pairs = [
            (token, found[token].logprob)
            for token, found in zip(output.token_ids, output.logprobs, strict=True)
            if token not in self.ends
        ]
        ids = [token for token, _ in pairs]
        ends = decoded_ends(self.tokenizer, ids, text)
        return TokenCompletion(text, reason, tuple(float(value) for _, value in pairs), ends)


def _changes_answers(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that an answer may depend on (quantization, dtype, revision, …)."""
    return {name: value for name, value in engine.items() if name not in _ONLY_SPEED}
