from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

EVIL = '<script>document.title="hacked"</script><img src=x onerror="document.title=\'hacked\'">'


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run as the demo leaves it: real scenes and real scoring; the answers are gold ones with objects left out."""
    pytest.importorskip("sklearn")
    pytest.importorskip("jinja2")
    from perception_r1.data.digits import make_scenes
    from perception_r1.evaluate.run import evaluate
    from perception_r1.tasks import make_task
    from perception_r1.types import BoxTarget, Completion

    out = tmp_path_factory.mktemp("run") / "demo"
    samples = make_scenes("counting", 40, seed=3, split="heldout", min_digits=2, max_digits=4, out_dir=out / "scenes")
    task = make_task("counting", family="qwen3_vl")

    def answer(index: int, sample, forget: int) -> Completion:
        boxes = sample.target.boxes_xyxy[1 if index % forget == 0 else 0 :]
        text = task.gold(replace(sample, target=BoxTarget(boxes)))
        if index == 5:
            text = EVIL + text + "</pre>\ud800"
        return Completion(text, "stop")

    for name, forget in (("rl", 8), ("warm-start", 2), ("sft", 3)):
        answers = {sample.id: answer(i, sample, forget) for i, sample in enumerate(samples)}
        if name == "rl":
            answers[samples[1].id] = Completion("</script><b>no</b>", "length")
        folder = out / "eval" / name
        evaluate(task, samples, answers, folder, model_name=name, progress=False, resamples=200)
    logs = [
        {
            "step": i,
            "loss": 0.0,
            "reward": 0.4 + 0.3 * (1 - math.exp(-i / 9)),
            "reward_std": 0.2,
            "kl": 0.01 * i,
            "entropy": 0.5,
            "completions/mean_length": 40 + i,
            "grad_norm": 1.0,
            "components/count": 0.6,
            "components/share_malformed": 0.01,
        }
        for i in range(1, 31)
    ]
    evaluated = [{"step": i, "eval_reward": 0.3 + 0.01 * i, "eval_loss": 0.0} for i in (10, 20, 30)]
    for name, rows in (
        ("grpo", [*logs, *evaluated, {"step": 30, "train_runtime": 61.0}]),
        ("sft", [{"step": 1, "loss": 0.7}] * 2),
    ):
        folder = out / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 31, "los')
        (folder / "config.json").write_text(json.dumps({"name": "demo", "grpo": {"learning_rate": 1e-4, "seed": 7}}))
    return out
