"""`make bench-prefix`: what sharing prefixes saves in GRPO, against TRL without it, on this machine's CPU.

    python benchmarks/prefix_step.py [--quick] [--workloads grounding] [--groups 8] [--out FILE.json]

For each workload (prompts of 330 tokens with a 448 × 448 image; answers of 24, 350 or 700 tokens) and group size it
measures forward and backward, and a whole step of TRL's unmodified trainer (generation, reference, policy, optimizer).
Each figure comes from a process of its own, plain and shared in turn, `--rounds` times; the best time counts, since
other work on the machine can only add to it. Memory is the largest resident size above that before the step. The error
is the largest difference of a log-probability and the relative one of the whole gradient (for the trainer: of loss, KL
and gradient norm). Exit code 1 when a promised figure is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

# Times faster than plain; detection and OCR as a whole step come out as they come out.
PROMISED = {
    ("step", "grounding", 8): 5.0,
    ("step", "grounding", 16): 8.0,
    ("step", "detection", 8): 1.8,
    ("step", "ocr", 8): 1.4,
    ("trainer", "grounding", 8): 3.5,
    ("trainer", "grounding", 16): 5.0,
}
PROMISED_MEMORY = 0.5  # of plain, grounding at G = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["grounding", "detection", "ocr"])
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--kinds", nargs="+", default=["step", "trainer"], choices=["step", "trainer"])
    parser.add_argument("--rounds", type=int, default=2, help="processes for each figure")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--frozen", action="store_true", help="with a frozen vision tower")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does the benchmark run?")
    parser.add_argument("--out", type=Path, help="write the raw figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return 0

    import torch
    import transformers
    import trl

    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, trl {trl.__version__}"
    )
    print(HEAD)
    rows, missed = [], []
    for kind in args.kinds:
        for workload in args.workloads:
            for group in args.groups:
                row = measure(kind, workload, group, args)
                rows.append(row)
                print(line(row), flush=True)
                promised = PROMISED.get((kind, workload, group))
                if promised is not None and not args.quick and not args.frozen and row["faster"] < promised:
                    missed.append(f"{kind} {workload} G={group}: {row['faster']:.2f} times, promised {promised}")
                if (kind, workload, group) == ("step", "grounding", 8) and row["memory_ratio"] > PROMISED_MEMORY:
                    missed.append(f"memory of {workload} G={group}: {row['memory_ratio']:.2f} of plain")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"threads": args.threads, "torch": torch.__version__, "rows": rows}, indent=1))
    if missed and not args.quick:
        print("missed: " + "; ".join(missed))
        return 1
    return 0


HEAD = (
    "| | workload | G | plain s | shared s | faster | tokens in | forwarded | images | plain MB | shared MB | error |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
NAMES = {"step": "forward + backward", "trainer": "TRL step"}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    plain, shared, stats = row["plain"], row["shared"], row["shared"]["stats"]
    cells = [
        NAMES[row["kind"]],
        row["workload"],
        row["group"],
        f"{plain['seconds']:.2f}",
        f"{shared['seconds']:.2f}",
        f"{row['faster']:.2f}",
        f"{stats['tokens_in']:,}",
        f"{stats['tokens_forwarded']:,}",
        f"{stats['images_in']} → {stats['images_encoded']}",
        f"{plain['memory'] / 2**20:.0f}",
        f"{shared['memory'] / 2**20:.0f}",
        row["error"],
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def measure(kind: str, workload: str, group: int, args: argparse.Namespace) -> dict[str, Any]:
    """Plain and shared in turn, each in a new process."""
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for which in ("plain", "shared"):
                task = {
                    "kind": kind,
                    "workload": workload,
                    "group": group,
                    "which": which,
                    "folder": folder,
                    "threads": args.threads,
                    "quick": args.quick,
                    "frozen": args.frozen,
                }
                command = [sys.executable, __file__, "--child", json.dumps(task)]
                environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false"}
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{task}\n{done.stderr[-4000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                if which not in best or found["seconds"] < best[which]["seconds"]:
                    best[which] = found
        error = compare(kind, Path(folder), best)
    return {
        "kind": kind,
        "workload": workload,
        "group": group,
        **best,
        "error": error,
        "faster": best["plain"]["seconds"] / best["shared"]["seconds"],
        "memory_ratio": best["shared"]["memory"] / best["plain"]["memory"],
    }


def compare(kind: str, folder: Path, best: dict[str, dict[str, Any]]) -> str:
    """How far the two results are apart."""
    import torch

    if kind == "trainer":
        pairs = zip(best["plain"]["logs"], best["shared"]["logs"], strict=True)
        # The loss of a first step is 0 up to rounding: differences below 1e-5 count as such.
        worst = max(abs(a[k] - b[k]) / max(abs(a[k]), 0.1) for a, b in pairs for k in a)
        return f"{worst:.0e}"
    plain, shared = (torch.load(folder / f"{which}.pt") for which in ("plain", "shared"))
    log_probs = float((plain["log_probs"] - shared["log_probs"]).abs().max())
    squares = [
        (float((plain[n] - shared[n]).norm() ** 2), float(plain[n].norm() ** 2)) for n in plain if n != "log_probs"
    ]
    return f"{log_probs:.0e}, {math.sqrt(sum(s[0] for s in squares) / sum(s[1] for s in squares)):.0e}"


def child(
    *, kind: str, workload: str, group: int, which: str, folder: str, threads: int, quick: bool, frozen: bool
) -> dict[str, Any]:
    """One measurement, in its own process."""
    import torch
    from prefix_model import IMAGE_SIZE, PROMPT_TOKENS, WORKLOADS, Sizes, build_model

    torch.set_num_threads(threads)
    model, processor = build_model(small=quick)
    sizes = Sizes(IMAGE_SIZE, PROMPT_TOKENS, group, WORKLOADS[workload])
    if quick:
        sizes = Sizes(112, 60, group, WORKLOADS[workload] // 6)
    if frozen:
        model.model.visual.requires_grad_(False)
    if kind == "trainer":
        return trainer_steps(model, processor, sizes, folder, which == "shared", frozen)
    return forward_backward(model, sizes, folder, which)


def forward_backward(model: Any, sizes: Any, folder: str, which: str) -> dict[str, Any]:
    """Log-probabilities of the answers and the gradient of their weighted sum."""
    import torch
    from prefix_model import answer_log_probs, build_batch

    from perception_r1 import shared_prefix

    model.train()
    batch = build_batch(model.config, sizes)
    weights = torch.randn(sizes.group, sizes.answer, generator=torch.Generator().manual_seed(2))
    stats = shared_prefix.enable(model) if which == "shared" else shared_prefix.Stats()

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=False)
        log_probs = answer_log_probs(model, batch, sizes.answer)
        (log_probs * weights).mean().backward()
        return log_probs.detach()

    # Gradients and the libraries' own buffers exist before anything is measured.
    small = build_batch(model.config, sizes._replace(group=2, answer=2))
    (answer_log_probs(model, small, 2)).sum().backward()
    stats.reset()
    with peak_memory() as memory:
        log_probs = step()
    once = vars(stats).copy()
    seconds = []
    while len(seconds) < 2 or (sum(seconds) < 10 and len(seconds) < 10):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    kept = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.save({"log_probs": log_probs, **kept}, Path(folder) / f"{which}.pt")
    tokens = sizes.group * (sizes.prompt + sizes.answer)
    if which == "plain":
        once = {
            "tokens_in": tokens,
            "tokens_forwarded": tokens,
            "images_in": sizes.group,
            "images_encoded": sizes.group,
        }
    return {"seconds": min(seconds), "memory": memory[0], "stats": once}


def trainer_steps(model: Any, processor: Any, sizes: Any, folder: str, shared: bool, frozen: bool) -> dict[str, Any]:
    """Three steps of the trainer; the best of the last two, from the drawing of a batch to the optimizer."""
    from prefix_model import build_trainer
    from transformers import TrainerCallback

    from perception_r1 import shared_prefix

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    trainer = build_trainer(model, processor, sizes, str(Path(folder) / "model"), steps=3, callback=Clock())
    if frozen:
        trainer.model.model.visual.requires_grad_(False)
    stats = shared_prefix.enable(trainer.model, trainer.ref_model) if shared else shared_prefix.Stats()
    with peak_memory() as memory, Path(os.devnull).open("w") as silence:
        shown, sys.stdout = sys.stdout, silence
        try:
            trainer.train()
        finally:
            sys.stdout = shown
    logs = [{k: e[k] for k in ("loss", "kl", "grad_norm")} for e in trainer.state.log_history if "loss" in e]
    per_step = {k: v // 3 for k, v in vars(stats).items() if isinstance(v, int)}
    return {"seconds": min(seconds[1:]), "memory": memory[0], "stats": per_step, "logs": logs}


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Largest resident size of this process above that at the start, in bytes, looked up every 2 ms."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    found, base, done = [0], resident(), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found[0] = max(found[0], resident() - base)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        found[0] = max(found[0], resident() - base)
        done.set()
        watcher.join()


if __name__ == "__main__":
    sys.exit(main())
