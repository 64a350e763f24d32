"""How far off `pr1 plan` is: its operations and bytes against those that torch counts and the process uses, on the CPU.

    python benchmarks/plan.py [--quick] [--workloads grounding detection] [--out FILE.json]
    python benchmarks/plan.py --recorded docs/bench_prefix.json     # against measured steps; nothing is run

The model is that of the shared-prefix benchmark (31 million parameters, 448 × 448 image, G = 8). For each workload,
plain and shared: operations of a forward pass (torch's counter), bytes of tensors kept for the backward pass, and
processor seconds of forward and backward. The last are compared as the share of the processor's matrix rate that they
come to: where it is the same for all, times follow the plan.

With ``--recorded``: seconds and resident bytes that the shared-prefix benchmark measured, for forward and backward and
for whole TRL steps. One number is fitted, the rate of the processor (the median over forward and backward).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

GROUP = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["grounding", "detection"])
    parser.add_argument("--quick", action="store_true", help="a tiny model: does the benchmark run?")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--recorded", type=Path, help="figures of the shared-prefix benchmark to compare with")
    args = parser.parse_args()
    if args.recorded:
        compare(json.loads(args.recorded.read_text()))
        return 0
    import torch

    torch.set_num_threads(1)
    rate = matrix_rate()
    print(f"one thread, {rate / 1e9:.0f} G operations a second in a matrix product")
    print("| workload | | operations (G): plan | counted | off | kept (MB): plan | counted | off | s | share of rate |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for workload in args.workloads:
        for shared in (False, True):
            rows.append(measure(workload, shared, rate, args.quick))
            print(line(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    return 0


def compare(recorded: dict[str, Any]) -> None:
    """Print the plan beside measured steps."""
    from prefix_model import IMAGE_SIZE, PROMPT_TOKENS, WORKLOADS, build_model

    from perception_r1.plan import Batch, Device, Setup, shape_of
    from perception_r1.plan.estimate import estimate, forward_operations
    from perception_r1.plan.memory import kept_activations

    shape = shape_of(build_model()[0].config)
    image, prompt = (IMAGE_SIZE // 28) ** 2, PROMPT_TOKENS
    cases = []
    for part in recorded.values():
        for row in part["rows"]:
            answer, group = WORKLOADS[row["workload"]], row["group"]
            for name in ("plain", "shared"):
                batch = Batch(group, group, prompt, prompt, image, image, answer, answer, name == "shared")
                cases.append((row, name, batch))
    passes = [case for case in cases if case[0]["kind"] == "step"]
    rate = statistics.median(3 * forward_operations(shape, batch) / row[name]["seconds"] for row, name, batch in passes)
    processor = Device("processor", 16 * 2.0**30, rate, 10e9, 1.0)
    print(f"rate of the processor, fitted: {rate / 1e9:.0f} G operations a second")
    print("| | workload | G | | s: plan | measured | off | MB: plan | measured | off |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row, name, batch in cases:
        found = row[name]
        if row["kind"] == "step":
            seconds = 3 * forward_operations(shape, batch) / rate
            kept = kept_activations(shape, batch, Setup(checkpointing=False, compute_bytes=4.0))
        else:
            plan = estimate(shape, batch, Setup(reference=True, compute_bytes=4.0, efficiency=1.0), processor)
            seconds, kept = plan.total_seconds, plan.total_memory
        label = "forward + backward" if row["kind"] == "step" else "TRL step"
        print(
            f"| {label} | {row['workload']} | {row['group']} | {name} | {seconds:.1f} | {found['seconds']:.1f} | "
            f"{off(seconds, found['seconds'])} | {kept / 2**20:.0f} | {found['memory'] / 2**20:.0f} | "
            f"{off(kept, found['memory'])} |"
        )


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"| {row['workload']} | {'shared' if row['shared'] else 'plain'} | {row['plan_ops'] / 1e9:.1f} | "
        f"{row['ops'] / 1e9:.1f} | {off(row['plan_ops'], row['ops'])} | {row['plan_bytes'] / 2**20:.0f} | "
        f"{row['bytes'] / 2**20:.0f} | {off(row['plan_bytes'], row['bytes'])} | {row['seconds']:.1f} | "
        f"{row['efficiency']:.2f} |"
    )


def off(plan: float, found: float) -> str:
    """How far a plan's figure is from what was found, in percent."""
    return f"{100 * (plan / found - 1):+.0f} %"


def measure(workload: str, shared: bool, rate: float, quick: bool) -> dict[str, Any]:
    """One forward and backward of a group."""
    import torch
    from prefix_model import IMAGE_SIZE, PROMPT_TOKENS, WORKLOADS, Sizes, answer_log_probs, build_batch, build_model
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from perception_r1 import shared_prefix
    from perception_r1.plan import Batch, Setup, shape_of
    from perception_r1.plan.estimate import forward_operations
    from perception_r1.plan.memory import kept_activations

    model, _ = build_model(small=quick)
    model.train()
    sizes = Sizes(IMAGE_SIZE, PROMPT_TOKENS, GROUP, WORKLOADS[workload])
    if quick:
        sizes = Sizes(112, 60, GROUP, WORKLOADS[workload] // 6)
    if shared:
        shared_prefix.enable(model)
    shape = shape_of(model.config)
    image = (sizes.image // 28) ** 2
    batch = Batch(GROUP, GROUP, sizes.prompt, sizes.prompt, image, image, sizes.answer, sizes.answer, shared)
    inputs = build_batch(model.config, sizes)
    storages: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The counter knows attention only as the products that it is made of.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        answer_log_probs(model, inputs, sizes.answer)
    operations = counter.get_total_flops()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        total = answer_log_probs(model, inputs, sizes.answer).sum()
    total.backward()
    began = time.process_time()
    answer_log_probs(model, inputs, sizes.answer).sum().backward()
    seconds = time.process_time() - began
    plan = forward_operations(shape, batch)
    setup = Setup(checkpointing=False, compute_bytes=4.0)
    return {
        "workload": workload,
        "shared": shared,
        "plan_ops": plan,
        "ops": operations,
        "plan_bytes": kept_activations(shape, batch, setup),
        "bytes": sum(storages.values()),
        "seconds": seconds,
        "efficiency": 3 * plan / seconds / rate,
    }


def matrix_rate() -> float:
    """Operations a processor second of a product of two 1,024² matrices in float32."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(5):
        began = time.process_time()
        a @ b
        best = max(best, 2 * 1024**3 / (time.process_time() - began))
    return best


if __name__ == "__main__":
    sys.exit(main())
