"""One of several processes on the CPU: the product's own GRPO stage, on completions that depend on the question only.

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/engines/gloo_run.py RECIPE OUT KIND [key=value …]

KIND: plain, fsdp2, zero2 or zero3. The first process writes OUT/seen.json: who took part, and the size of the weights.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def fixed_rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """TRL's ``rollout_func``: answers that are a function of the question and the place in its group."""
    processor, group = trainer.processing_class, trainer.num_generations
    offset = trainer.accelerator.process_index * len(prompts)
    prompt_ids, completion_ids = [], []
    for i, prompt in enumerate(prompts):
        encoded = processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=True, return_dict=True)
        ids = list(encoded["input_ids"][0])
        seed = zlib.crc32(json.dumps([ids, (offset + i) % group]).encode())
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(100, 900, (8,), generator=generator).tolist()
        boxes = [{"bbox_2d": sorted(places[k : k + 4]), "label": "digit"} for k in (0, 4)][: 1 + seed % 2]
        answer = processor.tokenizer(json.dumps(boxes), add_special_tokens=False)["input_ids"]
        prompt_ids.append(ids)
        completion_ids.append([*answer, processor.tokenizer.eos_token_id])
    return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}


def metrics(folder: Path) -> list[dict[str, float]]:
    """The steps of a run's metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def fsdp_on_the_cpu() -> None:
    """accelerate turns FSDP on the CPU into DDP without a word; put it right, for tests only."""
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


def run(recipe_file: str, out: str, kind: str, overrides: list[str], *, resume: bool = False) -> dict[str, Any]:
    """Train; returns what this process saw."""
    import trl

    from perception_r1.recipe.schema import load_recipe
    from perception_r1.train.run import run_grpo

    seen: dict[str, Any] = {}

    class Trainer(trl.GRPOTrainer):  # type: ignore[misc, name-defined]
        """TRL's, told what the answers are; and a look at who takes part."""

        def train(self, *args: Any, **kwargs: Any) -> Any:
            done = super().train(*args, **kwargs)
            state = self.accelerator.state
            seen["distributed_type"] = str(state.distributed_type).rpartition(".")[2]
            seen["num_processes"] = state.num_processes
            kinds = {type(parameter).__name__ for parameter in self.model_wrapped.parameters()}
            seen["parameters"] = sorted(kinds)
            return done

    original, trl.GRPOTrainer = trl.GRPOTrainer, functools.partial(Trainer, rollout_func=fixed_rollouts)
    try:
        run_grpo(load_recipe(recipe_file, overrides), Path(out), resume=resume, show_progress=False)
    finally:
        trl.GRPOTrainer = original
    return seen


def main() -> None:
    recipe_file, out, kind, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    if kind == "fsdp2":
        os.environ.update(FSDP2)
        fsdp_on_the_cpu()
    elif kind.startswith("zero"):
        deepspeed_on_the_cpu()
        zero = {"stage": int(kind[-1]), "stage3_gather_16bit_weights_on_model_save": True}
        settings = {
            "zero_optimization": zero,
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_clipping": "auto",
            "gradient_accumulation_steps": "auto",
            "train_batch_size": "auto",
        }
        overrides += ["grpo.use_cpu=false", f"grpo.deepspeed={json.dumps(settings)}"]
    from perception_r1.train.distributed import run_guarded

    resume = "--resume" in overrides
    seen = run_guarded(
        lambda: run(recipe_file, out, kind, [item for item in overrides if item != "--resume"], resume=resume)
    )
    from torch.nn.parallel import DistributedDataParallel

    seen["wrappers_left"] = sum(isinstance(each, DistributedDataParallel) for each in gc.get_objects())
    if os.environ.get("RANK", "0") == "0":
        Path(out, "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
