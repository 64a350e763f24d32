"""What verl needs to take a GRPO step without a GPU: a platform for the CPU, and rollouts by ``generate``.

verl imports it in each of its processes (``VERL_USE_EXTERNAL_MODULES=verl_on_cpu VERL_PLATFORM=cpu``). Data, reward,
advantages, FSDP2 engine, loss and optimizer are verl's own. Three names of verl are replaced below, with the reason.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import ray
import torch
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import AutoProcessor
from verl.plugin.platform import PlatformBase, PlatformRegistry

from perception_r1.models.load import load_model
from perception_r1.models.processors import load_processor

NAMES = ("is_available", "device_count", "synchronize", "set_device", "current_stream", "stream")


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """The processor as an accelerator; Ray counts it as one GPU, since verl counts GPUs and NPUs only."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = SimpleNamespace(
        **{name: getattr(torch.cpu, name) for name in NAMES},
        current_device=lambda: "cpu",
        get_device_name=lambda *_: "CPU",
        empty_cache=lambda: None,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        memory_allocated=lambda *_: 0,
        memory_reserved=lambda *_: 0,
        max_memory_allocated=lambda *_: 0,
        max_memory_reserved=lambda *_: 0,
        reset_peak_memory_stats=lambda *_: None,
        mem_get_info=lambda *_: (1 << 34, 1 << 34),
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        ipc_collect=lambda: None,
    )

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Any:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


# verl's modules ask for the platform when they are imported, so they come after it.
from verl.utils import distributed, fsdp_utils  # noqa: E402

# Replaced: "cpu:gloo,cpu:gloo", which torch refuses.
distributed.initialize_global_process_group_ray = partial(
    distributed.initialize_global_process_group_ray, backend="gloo"
)
# Replaced: pinned memory, which needs an accelerator.
fsdp_utils.CPUOffloadPolicy = lambda **_: CPUOffloadPolicy(pin_memory=False)
# Replaced: processors with a video part, which needs torchvision.
AutoProcessor.from_pretrained = staticmethod(lambda path, **_: load_processor(path))

from verl.workers.rollout import base  # noqa: E402
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput  # noqa: E402


@ray.remote(num_cpus=0)
class GenerateServer:
    """A copy of the policy that answers verl's agent loop, one request after another."""

    def __init__(self, path: str) -> None:
        self.model, self.processor = load_model(path, dtype="float32")
        self.lock = asyncio.Lock()
        self.step: int | None = None
        self.answers = 0

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], image_data: Any, **_: Any
    ) -> TokenOutput:
        async with self.lock:
            ids, log_probs = await asyncio.to_thread(self._sample, list(prompt_ids), sampling_params, image_data)
        return TokenOutput(
            token_ids=ids, log_probs=log_probs, stop_reason="completed", extra_fields={"global_steps": self.step}
        )

    @torch.no_grad()
    def _sample(self, prompt: list[int], params: dict[str, Any], images: Any) -> tuple[list[int], list[float]]:
        ids = torch.tensor([prompt])
        self.answers += 1
        image_id = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        inputs = {} if not images else dict(self.processor.image_processor(images, return_tensors="pt"))
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == image_id).long(),
            **inputs,
            do_sample=params.get("temperature", 1.0) > 0,
            temperature=params.get("temperature") or 1.0,
            top_k=0,
            max_new_tokens=8 + self.answers % 5,  # of different lengths: see docs/engines.md
            suppress_tokens=[image_id],
            output_logits=True,
            return_dict_in_generate=True,
        )
        answer = out.sequences[0, len(prompt) :]
        log_probs = torch.stack(out.logits)[:, 0].log_softmax(-1)
        return answer.tolist(), log_probs.gather(1, answer[: len(log_probs), None])[:, 0].tolist()

    async def load_weights(self, weights: dict[str, torch.Tensor], step: int | None) -> None:
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected, unexpected[:3]
        assert set(missing) <= {"lm_head.weight"}, missing[:3]
        self.step = step

    async def no_op(self, *_: Any, **__: Any) -> None: ...

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = no_op
    start_profile = stop_profile = abort_all_requests = resume_generation = no_op


class GenerateAdapter(base.BaseRollout):
    """The side of the training process: hands the policy's weights to the server."""

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        server = ray.get_actor("generate_server_0")
        await server.load_weights.remote({name: value.detach().cpu() for name, value in weights}, global_steps)


class GenerateReplica(RolloutReplica):
    """The side of verl's trainer: starts the server."""

    async def launch_servers(self) -> None:
        server = GenerateServer.options(name="generate_server_0", max_concurrency=64).remote(self.model_config.path)
        self.servers.append(server)
        self._server_handle, self._server_address = server, "in-process:0"


base._ROLLOUT_REGISTRY["generate", "async"] = f"{__name__}.GenerateAdapter"
RolloutReplicaRegistry.register("generate", lambda: GenerateReplica)
