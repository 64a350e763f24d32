"""A short GRPO run of TRL's unmodified trainer on a tiny model; as a script, one of several processes.

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/shared_prefix/trl_run.py MODEL OUT ddp [frozen]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

KEYS = ("loss", "kl", "grad_norm", "reward", "entropy")


def rows(count: int) -> Any:
    """Prompts with small random images of two sizes."""
    import numpy as np
    from datasets import Dataset
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        size = (56, 56) if index % 2 else (84, 56)
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        question = "How many digits?" if index % 3 else "Point at the 7."
        found.append({"prompt": [{"role": "user", "content": question}], "image": image})
    return Dataset.from_list(found)


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some function of the tokens that differs within groups."""
    return [sum(token % 7 for token in tokens) / 7 / max(1, len(tokens)) for tokens in completion_ids]


def fsdp_on_the_cpu() -> None:
    """accelerate turns FSDP on the CPU into DDP without a word; put it right."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if self.distributed_type == DistributedType.MULTI_CPU and plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = init  # type: ignore[method-assign]


def deepspeed_on_the_cpu() -> None:
    """accelerate names no backend for DeepSpeed without a GPU, and then counts one process."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.NO)  # type: ignore[method-assign]


def run(
    model_path: str, out: str, *, shared: bool, prepare: Any = None, steps: int = 5, **config: Any
) -> dict[str, Any]:
    """Train and return the logs, the final weights' norm and what was shared."""
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer

    from perception_r1 import shared_prefix
    from perception_r1.models.processors import load_processor

    settings = {
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 12,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "beta": 0.1,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
        "steps_per_generation": 1,
    }
    processor = load_processor(model_path)
    model = AutoModelForImageTextToText.from_pretrained(model_path)
    if prepare is not None:
        prepare(model)
    peft_config = config.pop("peft_config", None)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=out, **{**settings, **config}),
        train_dataset=rows(12),
        processing_class=processor,
        peft_config=peft_config,
    )
    stats = shared_prefix.enable(trainer.model, trainer.ref_model) if shared else None
    trainer.train()
    if shared:
        shared_prefix.disable(trainer.model, trainer.ref_model)
    logs = [{k: entry[k] for k in KEYS if k in entry} for entry in trainer.state.log_history if "loss" in entry]
    return {
        "logs": logs,
        "distributed": str(trainer.accelerator.distributed_type).rpartition(".")[2],
        "processes": trainer.accelerator.num_processes,
        "stats": vars(stats) if stats else None,
    }


def main() -> None:
    model_path, out, kind = sys.argv[1:4]
    torch.set_num_threads(1)
    config: dict[str, Any] = {}
    if kind == "fsdp2":
        fsdp_on_the_cpu()
    elif kind == "zero3":
        deepspeed_on_the_cpu()
        config["use_cpu"] = False  # or accelerate leaves DeepSpeed out
        config["deepspeed"] = {
            "zero_optimization": {"stage": 3},
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "train_batch_size": "auto",
            "gradient_clipping": "auto",
        }

    def prepare(model: Any) -> None:
        if "frozen" in sys.argv:
            model.model.visual.requires_grad_(False)

    results = [run(model_path, out, shared=shared, prepare=prepare, steps=3, **config) for shared in (False, True)]
    if int(os.environ["RANK"]) == 0:
        Path(out, "result.json").write_text(json.dumps(results))
    torch.distributed.barrier()  # gloo aborts a process whose peer is gone
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
