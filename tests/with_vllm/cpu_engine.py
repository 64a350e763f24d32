"""vLLM's CPU build as these tests need it: plain float32 weights that can be synced, no compilation, little memory."""

from __future__ import annotations

import functools
import os
from typing import Any

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "gpu_memory_utilization": 0.1}


def keep_plain_weights() -> None:
    """Let linear layers use the weight that a sync writes to.

    The CPU kernels repack weights into buffers of their own when a model is loaded, which a later `load_weights` does
    not reach. A GPU build has nothing of the kind.
    """
    import torch
    from vllm.model_executor.layers import linear, utils

    def plain(layer: Any, remove_weight: bool = False) -> None:
        layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, layer.weight, bias)

    linear.dispatch_cpu_unquantized_gemm = utils.dispatch_cpu_unquantized_gemm = plain


def prepare() -> None:
    """Set up this process; TRL's engine gets the settings for which it has no argument."""
    os.environ.update(ENVIRONMENT)
    keep_plain_weights()
    from trl.generation import vllm_generation

    settings = {name: ENGINE[name] for name in ("dtype", "enforce_eager")}
    vllm_generation.LLM = functools.partial(vllm_generation.LLM, **settings)
