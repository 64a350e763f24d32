"""A whole GRPO step of a real verl on the CPU, from what `pr1 export verl` writes (`make test-verl`).

verl runs on GPUs and NPUs only. What stands in its way without one is in docs/engines.md; ``verl_on_cpu`` clears it
away: a platform for the CPU and rollouts by ``generate``. The rest is verl's own, and our data set, prompts and reward.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

from engine_data import make_recipe
from perception_r1.export import export
from perception_r1.models.tiny import build_tiny
from perception_r1.recipe.schema import Recipe

HERE = Path(__file__).resolve().parent
ONE_PROCESS_EACH = (
    "+ray_kwargs.ray_init.num_gpus=1",
    "ray_kwargs.ray_init.num_cpus=16",
    "+ray_kwargs.ray_init.include_dashboard=false",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "reward.num_workers=1",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "data.dataloader_num_workers=0",
)
CPU = (
    "trainer.device=cpu",
    "actor_rollout_ref.rollout.name=generate",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.model.use_remove_padding=false",
)


def read_text(folder: Path, model: str) -> Recipe:
    """Reading: edit similarity tells random answers apart, so that a group has advantages."""
    make_recipe(folder, model)  # for its pictures
    rows = [{"image": f"train{i}.jpg", "task": "ocr", "text": f"{i} times the lazy dog"} for i in range(8)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    sources = [{"source": "jsonl", "path": str(folder / "text.jsonl")}]
    return make_recipe(folder, model, task="ocr", data={"train": sources, "eval": sources})


@pytest.mark.timeout(1800)
def test_two_steps_of_a_real_training(tmp_path: Path) -> None:
    model, processor = build_tiny("qwen2_5_vl")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    export(read_text(tmp_path / "data", str(tmp_path / "model")), "verl", tmp_path / "out", gpus=1)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu",
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",  # the engine that verl registers for GPUs
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_COLOR_PREFIX": "0",
    }
    command = ["bash", str(tmp_path / "out" / "launch.sh"), *ONE_PROCESS_EACH, *CPU]
    command += ["trainer.total_training_steps=2", "trainer.save_freq=-1", "trainer.test_freq=-1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1700)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    steps = re.findall(r"step:(\d+) - (.*)", log)
    assert [int(number) for number, _ in steps] == [1, 2]
    for _, line in steps:
        values = dict(re.findall(r"([\w/.@-]+):(?:np\.\w+\()?([-+\d.e]+|nan|inf)", line))
        assert float(values["critic/rewards/max"]) > float(values["critic/rewards/min"])
        assert float(values["actor/grad_norm"]) > 0
        assert abs(float(values["actor/kl_loss"])) < 0.1
        # The rollouts are the policy's, before the first update and after it.
        assert float(values["training/rollout_actor_probs_pearson_corr"]) > 0.9
