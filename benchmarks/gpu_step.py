"""What sharing prefixes saves on a GPU: shapes of Qwen2-VL-2B and Qwen2.5-VL-3B, random weights, bf16.

    python benchmarks/gpu_step.py [--models qwen2_5_vl_3b] [--groups 8 16] [--answers 24 350] [--out FILE.json]
    python benchmarks/gpu_step.py --try-out        # a tiny model on the CPU: does the script run?

Nothing is downloaded: the models are built from their published configurations, the image and the tokens are random.
For each model, group size and answer length it measures, plain and shared in turn and each in a process of its own,
forward and backward, and a whole step of TRL's unmodified trainer (generation by transformers, policy, AdamW), with one
image of about 1,000 tokens. It prints seconds, answers a second, the largest memory allocated, and the share of the
card's matrix rate: floating-point operations done in forward and backward (counted by torch) over time, against a
bf16 product of two 8,192² matrices on the same card in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

IMAGE = 896  # pixels a side: 64 × 64 patches, 1,024 image tokens
PROMPT = 1100
_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_ENDS = {"bos_token_id": 151643, "eos_token_id": 151645, "pad_token_id": 151643, "vocab_size": 151936}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2_vl_2b": {
        "text_config": {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_parameters": _ROPE, **_ENDS,
        },
        "vision_config": {
            "depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14,
        },
    },
    "qwen2_5_vl_3b": {
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 2, "max_position_embeddings": 128000, "rope_parameters": _ROPE, **_ENDS,
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
            "window_size": 112, "out_hidden_size": 2048, "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--groups", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--answers", nargs="+", type=int, default=[24, 350])
    parser.add_argument("--kinds", nargs="+", default=["step", "trainer"], choices=["step", "trainer"])
    parser.add_argument("--attention", default="sdpa", help="or flash_attention_2, where it is installed")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--try-out", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return
    import torch

    if not torch.cuda.is_available() and not args.try_out:
        raise SystemExit("error: no GPU (torch.cuda.is_available() is False); --try-out runs a tiny model on the CPU")
    card = "the CPU" if args.try_out else torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}, attention {args.attention}, checkpointing {args.checkpointing}")
    print("| | model | G | answer | | s | answers/s | GB | matrix rate | tokens in | forwarded |\n" + "|---" * 11 + "|")
    rows = []
    for kind in args.kinds:
        for name in args.models:
            for group in args.groups:
                for answer in args.answers:
                    for which in ("plain", "shared"):
                        task = {"kind": kind, "name": name, "group": group, "answer": answer, "which": which,
                                "attention": args.attention, "checkpointing": args.checkpointing,
                                "try_out": args.try_out}  # fmt: skip
                        rows.append({**task, **run(task)})
                        print(line(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"card": card, "torch": torch.__version__, "rows": rows}, indent=1))


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a new process; what went wrong where it did not end well (a model may not fit plain)."""
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    head = ["forward + backward" if row["kind"] == "step" else "TRL step", row["name"], row["group"], row["answer"]]
    if "failed" in row:
        cells = [*head, row["which"], row["failed"], *[""] * 5]
    else:
        rate = f"{row['rate']:.0%}" if row["rate"] else ""
        cells = [*head, row["which"], f"{row['seconds']:.2f}", f"{row['group'] / row['seconds']:.2f}",
                 f"{row['bytes'] / 2**30:.1f}", rate, row["tokens_in"], row["tokens_forwarded"]]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def child(
    *,
    kind: str,
    name: str,
    group: int,
    answer: int,
    which: str,
    attention: str,
    checkpointing: bool,
    try_out: bool,
) -> dict[str, Any]:
    """One measurement, in its own process."""
    import torch
    from prefix_model import Sizes

    from perception_r1 import shared_prefix

    torch.manual_seed(0)
    device = torch.device("cpu" if try_out else "cuda")
    sizes = Sizes(112, 60, group, min(answer, 8)) if try_out else Sizes(IMAGE, PROMPT, group, answer)
    model = build(name, attention, device, try_out)
    model.train()
    if kind == "trainer":
        return trainer_steps(model, sizes, device, shared=which == "shared", checkpointing=checkpointing)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    stats = shared_prefix.enable(model) if which == "shared" else shared_prefix.Stats()
    return forward_backward(model, sizes, device, stats)


def build(name: str, attention: str, device: Any, try_out: bool) -> Any:
    """The model in bf16 with random weights, made on the device."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
    )

    shape = json.loads(json.dumps(MODELS[name]))
    if try_out:
        shape["text_config"] |= {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 256,
                                 "num_attention_heads": 2}  # fmt: skip
        shape["vision_config"] |= {"depth": 2, "hidden_size": 256, "num_heads": 8}
        shape["vision_config"] |= {"embed_dim": 64} if name == "qwen2_vl_2b" else {
            "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 256, "fullatt_block_indexes": [1]
        }  # fmt: skip
    kinds = (Qwen2VLConfig, Qwen2VLForConditionalGeneration)
    if name == "qwen2_5_vl_3b":
        kinds = (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration)
    config = kinds[0](**shape, **_IDS, tie_word_embeddings=True)
    with device:
        return kinds[1]._from_config(config, attn_implementation=attention, dtype=torch.bfloat16)


def forward_backward(model: Any, sizes: Any, device: Any, stats: Any) -> dict[str, Any]:
    """Best of five; operations counted once."""
    import torch
    from prefix_model import answer_log_probs, build_batch
    from torch.utils.flop_counter import FlopCounterMode

    batch = {k: v.to(device) for k, v in build_batch(model.config, sizes, dtype=torch.bfloat16).items()}

    def step() -> None:
        model.zero_grad(set_to_none=False)
        answer_log_probs(model, batch, sizes.answer).mean().backward()

    step()
    stats.reset()
    with FlopCounterMode(display=False) as counter:
        step()
    tokens = stats.tokens_in or sizes.group * (sizes.prompt + sizes.answer)
    forwarded = stats.tokens_forwarded or tokens
    reset_peak(device)
    seconds = min(clock(step, device) for _ in range(5))
    return {
        "seconds": seconds, "bytes": peak(device), "rate": counter.get_total_flops() / seconds / matrix_rate(device),
        "tokens_in": tokens, "tokens_forwarded": forwarded,
    }  # fmt: skip


def trainer_steps(model: Any, sizes: Any, device: Any, *, shared: bool, checkpointing: bool) -> dict[str, Any]:
    """Four steps of TRL's trainer without a reference model; the best of the last three."""
    import torch
    from prefix_model import build_trainer
    from transformers import TrainerCallback

    from perception_r1 import shared_prefix
    from perception_r1.models.tiny import build_processor

    seconds: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(now() - self.began)

    processor = build_processor("qwen2_5_vl")
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            retarget(model, processor), processor, sizes, folder, steps=4, callback=Clock(), dtype=torch.bfloat16,
            use_cpu=device.type == "cpu", bf16=device.type == "cuda", beta=0.0, activation_checkpointing=checkpointing,
        )  # fmt: skip
        stats = shared_prefix.enable(trainer.model) if shared else shared_prefix.Stats()
        reset_peak(device)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        trainer.train()
        sys.stdout = sys.__stdout__
    return {
        "seconds": min(seconds[1:]), "bytes": peak(device), "rate": None,
        "tokens_in": stats.tokens_in // 4 or "", "tokens_forwarded": stats.tokens_forwarded // 4 or "",
    }  # fmt: skip


def retarget(model: Any, processor: Any) -> Any:
    """Give the model the special token ids of the benchmark's small tokenizer; its vocabulary stays 151,936."""
    tokenizer = processor.tokenizer
    for token in ("image_pad", "video_pad", "vision_start", "vision_end"):
        key = f"{token.removesuffix('_pad')}_token_id"
        setattr(model.config, key, tokenizer.convert_tokens_to_ids(f"<|{token}|>"))
    for config in (model.config.text_config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        config.bos_token_id = None
    return model


def clock(step: Callable[[], None], device: Any) -> float:
    """Seconds of a step, the device's work included."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rate(device: Any) -> float:
    """Floating-point operations a second of a large bf16 product."""
    import torch

    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 / min(clock(lambda: a @ b, device) for _ in range(20))


def reset_peak(device: Any) -> None:
    """Forget the largest allocation so far."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: Any) -> int:
    """Largest memory allocated on the device, in bytes; 0 on the CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
