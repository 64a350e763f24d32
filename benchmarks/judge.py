"""The judge's client: speed of a training batch, and a long run against a server that fails.

    python benchmarks/judge.py                # 128 prompts × 8 responses, then 2,000 requests with 20 % faults
    python benchmarks/judge.py --out FILE.json

Both against `judge_server.py` on this machine, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np

from perception_r1.data.geometry import diagram
from perception_r1.judge import ChatJudge, gather_evidence
from perception_r1.tasks import make_task
from perception_r1.types import Completion

LATENCY_S, AT_ONCE = 0.2, 256


def responses(n_prompts: int, group: int, seed: int, same: float = 0.0) -> tuple[list, list]:
    """Samples and responses that state some of the facts each; a share ``same`` repeats the one before it."""
    rng = np.random.default_rng(seed)
    samples, completions = [], []
    for index in range(n_prompts):
        _, sample = diagram(rng, size=64, id=str(index))
        facts = sample.target.visual_annotations
        for k in range(group):
            said = [fact for fact in facts if rng.random() < 0.6]
            seen = f"{'. '.join(said)}. Attempt {rng.integers(10**9)}."
            text = f"<think>\n{seen}\n</think>\n<answer>\n\\boxed{{1}}\n</answer>"
            if k and rng.random() < same:
                text = completions[-1].text
            samples.append(sample)
            completions.append(Completion(text, "stop"))
    return samples, completions


class Server:
    """`judge_server.py` in a process of its own."""

    def __init__(self, **options: float) -> None:
        words = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        script = Path(__file__).with_name("judge_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--port", "0", *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(self.url.removesuffix("/v1"), timeout=10) as answer:
            return json.load(answer)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()


def judged(url: str, samples: list, completions: list, **options: object) -> tuple[list, float, dict, float]:
    """Rewards, seconds of wall time, the judge's counters, and seconds of processor time."""
    task = make_task("geometry", family="qwen2_5_vl")
    options = {"concurrency": AT_ONCE, **options}
    judge = ChatJudge(url, "judge", **options)  # type: ignore[arg-type]

    async def go() -> list:
        evidence = await gather_evidence(judge, task, samples, completions)
        stats.update(judge.stats())
        await judge.close()
        return evidence

    stats: dict[str, float] = {}
    began, busy = time.monotonic(), time.process_time()
    evidence = asyncio.run(go())
    seconds, busy = time.monotonic() - began, time.process_time() - busy
    rewards = [task.score(*pair, evidence=e).reward for *pair, e in zip(samples, completions, evidence, strict=True)]
    return rewards, seconds, stats, busy


def batch() -> dict:
    """A training step's batch: 128 prompts × 8, all different; then the same batch with half the responses equal."""
    rows = {}
    with Server(latency=LATENCY_S, at_once=AT_ONCE) as server:
        judged(server.url, *responses(4, 8, 99))  # imports and the first connection
        for name, same in (("all different", 0.0), ("half equal", 0.5)):
            samples, completions = responses(128, 8, 1, same)
            _, seconds, stats, busy = judged(server.url, samples, completions)
            ideal = LATENCY_S * -(-int(stats["requests"]) // AT_ONCE)
            rows[name] = {
                "responses": len(samples),
                "requests": int(stats["requests"]),
                "seconds": round(seconds, 2),
                "ideal_s": round(ideal, 2),
                "beyond_ideal_s": round(seconds - ideal, 2),
                "cpu_s": round(busy, 2),
            }
    return rows


def faults(n: int, share: float, concurrency: int) -> dict:
    """``n`` requests against a server that fails a share of them: what is lost, and what is scored otherwise."""
    samples, completions = responses(n, 1, 2)
    with Server(latency=0.02, at_once=AT_ONCE) as server:
        well, *_ = judged(server.url, samples, completions, concurrency=concurrency)
    with Server(latency=0.02, at_once=AT_ONCE, faults=share, stall=90.0) as server:
        ill, seconds, stats, _ = judged(server.url, samples, completions, timeout_s=30.0, concurrency=concurrency)
        counts = server.counts()
    return {
        "cases": n,
        "requests": int(stats["requests"]),
        "faults": {k: v for k, v in counts.items() if k != "well"},
        "share_of_faults": round(1 - counts["well"] / sum(counts.values()), 3),
        "not_scored": sum(reward is None for reward in ill),
        "scored_otherwise": sum(a != b for a, b in zip(well, ill, strict=True) if b is not None),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=AT_ONCE, help="of the run with faults")
    parser.add_argument("--batch-only", action="store_true")
    parser.add_argument("--faults-only", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = (
        {"faults": faults(arguments.n, arguments.share, arguments.concurrency)}
        if arguments.faults_only
        else {"batch": batch()}
    )
    if not arguments.faults_only and not arguments.batch_only:
        found["faults"] = faults(arguments.n, arguments.share, arguments.concurrency)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
