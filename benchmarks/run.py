"""`make bench`: the project's speed figures as one table, each beside what is promised.

    python benchmarks/run.py [--demo]

Wall times are the best of several runs (other work on the machine can only add to them); rates are CPU time of one
core. ``--demo`` also times `pr1 demo`, which takes minutes. Exit code 1 when a figure misses its promise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

PR1 = [sys.executable, "-m", "perception_r1"]
ROW = '{"response": "(100,100),(500,500)", "boxes": [[64, 48, 320, 240]], "width": 640, "height": 480}\n'


class Figure(NamedTuple):
    """One measured figure; ``promised`` None where nothing is; ``note`` is printed beside it."""

    name: str
    value: float
    unit: str
    promised: float | None
    more_is_better: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        if self.promised is None:
            return True
        return self.value >= self.promised if self.more_is_better else self.value <= self.promised


def started(
    name: str, command: list[str], promised: float | None, *, runs: int = 5, stdin: str | None = None
) -> Figure:
    """Shortest wall time of a process from start to end, with its CPU time (which other work does not lengthen)."""
    wall = cpu = float("inf")
    for _ in range(runs):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
        wall = min(wall, time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = min(cpu, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Figure(name, wall, "s", promised, note=f"CPU time {cpu:.2f} s")


def loaded(code: str) -> int:
    """Number of heavy packages in ``sys.modules`` after ``code``."""
    heavy = {"torch", "transformers", "trl", "datasets", "matplotlib", "sklearn"}
    script = f"{code}\nimport sys; print(len({heavy!r} & {{name.split('.')[0] for name in sys.modules}}))"
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def start_up() -> Iterator[Figure]:
    """How long the light commands take, process start included."""
    yield started("pr1 --help", [*PR1, "--help"], 0.5)
    score = [*PR1, "score", "--task", "grounding", "--family", "qwen2_vl", "-"]
    yield started("pr1 score, one line", score, 1.0, stdin=ROW)
    yield started("import perception_r1", [sys.executable, "-c", "import perception_r1"], None)
    code = "import perception_r1; perception_r1.score; import perception_r1.tasks"
    yield Figure("… heavy packages loaded by it", loaded(code), "", 0)
    yield started("pr1 doctor", [*PR1, "doctor", "--json"], None, runs=2)


def scoring() -> Iterator[Figure]:
    """Answers a second from text to record on one core (see ``benchmarks/scoring.py``)."""
    import scoring as speed  # type: ignore[import-not-found]

    for task, family, rate, needed in speed.measure():
        what = "1 box" if task == "grounding" else "20 boxes against 20"
        yield Figure(f"score {task}, {what}, {family}", rate, "/s", needed, more_is_better=True)


def round_trips() -> Iterator[Figure]:
    """Right answers of every task × family × image size, in their share of what rounding leaves."""
    import random

    from perception_r1.check import least_reward
    from perception_r1.data.images import prepare
    from perception_r1.families import FAMILIES
    from perception_r1.tasks import TASKS, make_task
    from perception_r1.types import AnswerTarget, BoxTarget, Sample, Target, TextTarget

    others: dict[str, Target] = {"ocr": TextTarget("some text\nof two lines"), "geometry": AnswerTarget("2\\sqrt{3}")}
    draw = random.Random(0)
    sizes = [(17, 23), (333, 501), (640, 480), (1023, 767), (4096, 2304)]
    n = below = 0
    for name in TASKS:
        for family in FAMILIES.values():
            task = make_task(name, family=family)
            for width, height in sizes * 20:
                x, y = draw.uniform(0, 0.5) * width, draw.uniform(0, 0.5) * height
                box = (x, y, x + draw.uniform(0.2, 0.5) * width, y + draw.uniform(0.2, 0.5) * height)
                target = others.get(name, BoxTarget((box,), ("cat",)))
                sample = prepare(Sample("1", name, "cat", target, image_size=(width, height)), family)  # type: ignore[arg-type]
                reward = task.score(sample, task.gold(sample)).reward
                n += 1
                below += reward is None or reward < least_reward(sample, family) - 1e-9
    yield Figure(f"right answers below their bound (of {n:,})", below, "", 0)


def checking() -> Iterator[Figure]:
    """`pr1 check` as a library over many detection rows of seven boxes each."""
    import random

    from perception_r1.check.gold import check_gold
    from perception_r1.data.images import prepare
    from perception_r1.tasks import make_task
    from perception_r1.types import BoxTarget, Sample

    draw, rows = random.Random(0), []
    for number in range(1000):
        corners = [(draw.uniform(0, 500), draw.uniform(0, 380)) for _ in range(7)]
        boxes = tuple((x, y, x + draw.uniform(20, 140), y + draw.uniform(20, 100)) for x, y in corners)
        target = BoxTarget(boxes, tuple(draw.choice(("cat", "dog")) for _ in boxes))
        sample = Sample(str(number), "detection", "", target, image_size=(640, 480), categories=("cat", "dog"))
        rows.append(prepare(sample, "qwen2_5_vl"))
    start = time.process_time()
    check_gold(make_task("detection", family="qwen2_5_vl"), rows)
    yield Figure("check right answers, detection, 7 boxes", 1000 / (time.process_time() - start), "/s", None, True)


def evaluation() -> Iterator[Figure]:
    """Evaluation beside the usual ways (see ``benchmarks/evaluation.py``)."""
    import evaluation as speed  # type: ignore[import-not-found]

    for name, value, unit, needed, note in speed.measure():
        yield Figure(name, value, unit, needed, more_is_better=True, note=note)


def demo() -> Iterator[Figure]:
    """`pr1 demo` on an installed environment, and the most memory that it took."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [*PR1, "demo", "--out", f"{folder}/demo", "--json"], stdout=subprocess.PIPE, text=True, check=True
        )
        yield Figure("pr1 demo", (time.perf_counter() - start) / 60, "min", 5.0)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    yield Figure("… peak memory", peak, "GiB", 4.0)
    print(json.dumps(json.loads(done.stdout), indent=2), file=sys.stderr)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The project's speed figures as one table.")
    parser.add_argument("--demo", action="store_true", help="also run pr1 demo (minutes)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")
    args = parser.parse_args()
    parts: list[Callable[[], Iterator[Figure]]] = [start_up, scoring, round_trips, checking, evaluation]
    figures: list[Figure] = []
    if not args.json:
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            print(f"Other work is going on (load {os.getloadavg()[0]:.1f}): wall times are longer than they would be.")
        print(f"\n{'figure':<48}{'measured':>12}  {'promised':<14}")
    for part in [*parts, *([demo] if args.demo else [])]:
        for figure in part():
            figures.append(figure)
            if not args.json:
                print(_line(figure), flush=True)
    if args.json:
        print(json.dumps([{**figure._asdict(), "met": figure.met} for figure in figures], indent=2))
    return 0 if all(figure.met for figure in figures) else 1


def _line(figure: Figure) -> str:
    def shown(value: float) -> str:
        number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
        return f"{number} {figure.unit}".replace(" /s", "/s").strip()

    promised = "" if figure.promised is None else f"{'≥' if figure.more_is_better else '≤'} {shown(figure.promised)}"
    return f"{figure.name:<48}{shown(figure.value):>12}  {promised:<14}{figure.note}{'' if figure.met else '  missed'}"


if __name__ == "__main__":
    sys.exit(main())
