"""GRPO steps of Qwen2.5-VL-3B on one GPU beside what `pr1 plan` says: memory and seconds.

    python benchmarks/gpu_step.py [--out docs/gpu_step.json]     # one GPU of 80 GB, under ten minutes
    python benchmarks/gpu_step.py --try-out --out FILE.json      # a tiny model on the CPU: does the script run?

LoRA and full, with shared prefixes and without. Nothing is downloaded. The model has the published shapes and random
weights in bfloat16, its tokenizer pads on the right as the published one does, pictures are random (896 × 896, 1,024
tokens), questions of different lengths. Each case is a process of its own that runs five steps of `pr1 train`'s GRPO
stage on a recipe, without saving the model at the end. The JSON is written anew after each case. For a machine without
a network `make gpu-wheels` collects what it lacks (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
ADAPTERS = {"r": 64, "lora_alpha": 128, "target_modules": ".*language_model.*(q|k|v|o|gate|up|down)_proj"}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"freeze_vision": True, "lora": ADAPTERS, "grpo": {"learning_rate": 1e-5, "beta": 0.04}},
    "full": {"grpo": {"learning_rate": 1e-6, "beta": 0.0}},
}
GIB = 2.0**30
REWARDS = random.Random(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--answer", type=int, default=256, help="tokens of every answer")
    parser.add_argument("--seconds", type=float, default=200.0, help="limit of a case")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu_step.json")
    parser.add_argument("--try-out", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        task = json.loads(args.child)
        print(json.dumps(build(**task) if "build" in task else measure(**task)))
        return 0
    import torch

    if not torch.cuda.is_available() and not args.try_out:
        print(
            "error: no GPU (torch.cuda.is_available() is False); --try-out runs a tiny model on the CPU",
            file=sys.stderr,
        )
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        result = {**run({"build": folder, "try_out": args.try_out}, args.seconds), "rows": []}
        if "failed" in result:
            print(f"error: {result['failed']}", file=sys.stderr)
            return 1
        print(f"{result['card']}, torch {result['torch']}, transformers {result['transformers']}, trl {result['trl']}")
        print("| | | GiB: plan | allocated | reserved | s a step: plan | measured |\n" + "|---" * 7 + "|")
        for case in args.cases:
            for shared in (True, False):
                recipe = recipe_of(
                    work, case, shared=shared, steps=args.steps, answer=args.answer, try_out=args.try_out
                )
                row = {
                    "case": case,
                    "shared": shared,
                    **run({"recipe": str(recipe), "card": result["card"]}, args.seconds),
                }
                result["rows"].append(row)
                print(line(row), flush=True)
                result["seconds"] = round(time.monotonic() - began, 1)
                args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if any("failed" in row for row in result["rows"]) else 0


def run(task: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One task in a new process; ``failed`` is the last line of one that did not end well."""
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line(row: dict[str, Any]) -> str:
    """A row of the table; the first step, which warms up, is left out of the time."""
    head = f"| {row['case']} | {'shared' if row['shared'] else 'plain'} | "
    if "failed" in row:
        return head + row["failed"] + " | | | | |"
    plan, seconds = row["plan"], row["step_seconds"][1:] or row["step_seconds"]
    memory = [sum(plan["memory_bytes"].values()), row["allocated_bytes"], row["reserved_bytes"]]
    cells = [f"{value / GIB:.1f}" for value in memory]
    cells += [f"{sum(plan['seconds'].values()):.1f}", f"{statistics.median(seconds):.1f}"]
    return head + " | ".join(cells) + " |"


def build(*, build: str, try_out: bool) -> dict[str, Any]:
    """Write model, processor, pictures and rows into a folder; returns the versions and the card."""
    from importlib.metadata import version

    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText

    from perception_r1.models.tiny import build_processor

    configs = json.loads((ROOT / "src/perception_r1/assets/models/configs.json").read_text(encoding="utf-8"))
    values = configs[MODEL]
    if try_out:
        values["text_config"] |= {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 2000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        }
        values["vision_config"] |= {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        }
    processor = build_processor("qwen2_5_vl")
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "right"
    config = AutoConfig.for_model(**values)
    for token in ("image_pad", "video_pad", "vision_start", "vision_end"):
        key = f"{token.removesuffix('_pad')}_token_id"
        setattr(config, key, tokenizer.convert_tokens_to_ids(f"<|{token}|>"))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    for key, value in ends.items():
        setattr(config.text_config, key, value)
    torch.manual_seed(0)
    with torch.device("cpu" if try_out else "cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    for key, value in ends.items():
        setattr(model.generation_config, key, value)
    folder = Path(build)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    side, rng = 112 if try_out else 896, np.random.default_rng(0)
    rows = []
    for number in range(8):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        question = "the brown dog" + " beside the red chair" * number
        rows.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "question": question,
                "boxes": [[10, 10, 60, 60]],
                "width": side,
                "height": side,
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = ("torch", "transformers", "trl", "accelerate", "peft")
    card = "cpu" if try_out else torch.cuda.get_device_name()
    return {"card": card, **{name: version(name) for name in names}, "model": MODEL, "try_out": try_out}


def recipe_of(folder: Path, case: str, *, shared: bool, steps: int, answer: int, try_out: bool) -> Path:
    """Write the recipe of a case: one prompt with eight answers a step, of exactly ``answer`` tokens."""
    answer = min(answer, 8) if try_out else answer
    grpo = {
        "max_steps": steps,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "max_completion_length": answer,
        "generation_kwargs": {"min_new_tokens": answer},
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "bf16": True,
        "use_cpu": try_out,
        "activation_checkpointing": True,
        **CASES[case]["grpo"],
    }
    values = {
        **CASES[case],
        "name": f"{case}-{'shared' if shared else 'plain'}",
        "task": "grounding",
        "model": str(folder / "model"),
        "shared_prefix": shared,
        "reward": {"function": "gpu_step:score"},
        "data": {"train": [{"source": "jsonl", "path": str(folder / "rows.jsonl"), "images": str(folder)}]},
        "grpo": grpo,
    }
    path = folder / f"{values['name']}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def score(sample: Any, completion: Any, parsed: Any, match: Any) -> float:
    """A reward that differs in each group: a model with random weights earns none of the task's."""
    return REWARDS.random()


def measure(*, recipe: str, card: str) -> dict[str, Any]:
    """Plan the recipe, train it, and return both: bytes, seconds of each step, and what was logged."""
    import torch

    sys.path.insert(0, str(Path(__file__).parent))  # the recipe names our reward
    from perception_r1.plan import DEVICES, plan_recipe
    from perception_r1.recipe.schema import load_recipe
    from perception_r1.train import grpo

    loaded = load_recipe(recipe)
    device = next((name for name in DEVICES if name.partition("-")[0].upper() in card.upper()), "h100")
    answer = (loaded.grpo or {})["max_completion_length"]
    plan = plan_recipe(loaded, device=device, answer_tokens=answer).plan
    grpo.finish = lambda trainer, processor, out, *_, **__: out / "model"  # type: ignore[assignment]
    out = Path(recipe).with_suffix("")
    grpo.train_grpo(loaded, out, show_progress=False)
    logged = [json.loads(text) for text in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in logged if "step_time" in row]
    gpu = torch.cuda.is_available()
    return {
        "plan": {"device": device, "phase": plan.phase, "memory_bytes": plan.memory, "seconds": plan.seconds},
        "allocated_bytes": torch.cuda.max_memory_allocated() if gpu else 0,
        "reserved_bytes": torch.cuda.max_memory_reserved() if gpu else 0,
        "step_seconds": [row["step_time"] for row in steps],
        "logged": [{key: row.get(key) for key in ("loss", "grad_norm", "reward", "kl")} for row in steps],
    }


if __name__ == "__main__":
    sys.exit(main())
