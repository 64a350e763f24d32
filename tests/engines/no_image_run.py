"""Two processes, of which the second never has an image: TRL's trainer with `vision_sync`, on the CPU.

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/engines/no_image_run.py MODEL OUT KIND
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gloo_run
import torch


def rows() -> Any:
    """Questions with a picture and without in turn; each process draws every second one."""
    import numpy as np
    from datasets import Dataset
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]

    def draw(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {
            "prompt": [[{"role": "user", "content": f"How many digits? {i}"}] for i in batch["index"]],
            "images": [[] if i % 2 else [pictures[i // 2]] for i in batch["index"]],
        }

    return Dataset.from_dict({"index": list(range(8))}).with_transform(draw)


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some function of the tokens that differs within groups."""
    return [sum(token % 7 for token in tokens) / 7 / max(1, len(tokens)) for tokens in completion_ids]


def train(model_path: str, out: str, kind: str) -> None:
    """Two steps."""
    torch.set_num_threads(1)
    if kind == "fsdp2":
        os.environ.update(gloo_run.FSDP2)
        gloo_run.fsdp_on_the_cpu()
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer

    from perception_r1.models.processors import load_processor
    from perception_r1.train import vision_sync

    settings = {
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "max_steps": 2,
        "beta": 0.1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": 3,
        "save_strategy": "no",
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        "gradient_checkpointing": kind == "ddp",
        "log_multimodal": False,
    }
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(model_path),
        reward_funcs=reward,
        args=GRPOConfig(output_dir=out, **settings),
        train_dataset=rows(),
        processing_class=load_processor(model_path),
    )
    for model in (trainer.model, trainer.ref_model):
        vision_sync.enable(model)
    trainer.train()
    if int(os.environ["RANK"]) == 0:
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        kind_seen = str(trainer.accelerator.distributed_type).rpartition(".")[2]
        Path(out, "seen.json").write_text(json.dumps({"distributed_type": kind_seen, "logs": logs}))


if __name__ == "__main__":
    from perception_r1.train.distributed import run_guarded

    run_guarded(lambda: train(*sys.argv[1:4]))
