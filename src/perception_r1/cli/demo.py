"""``pr1 demo``: the whole product on handwritten digits, on two CPU cores, in minutes."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DemoTask(StrEnum):
    """The tasks that the digit scenes have an instance of."""

    counting = "counting"
    grounding = "grounding"
    detection = "detection"
    ocr = "ocr"


def demo(
    task: Annotated[DemoTask, typer.Option("--task", "-t", help="What to teach.")] = DemoTask.counting,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/demo-TASK")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the training scenes, SFT and GRPO.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier demo in --out.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Train the warm start from scratch too, instead of the packaged weights.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a value of the demo's recipe, e.g. --set grpo.max_steps=20.", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a tiny model to see handwritten digits better, and lay the evidence open in report.html.

    A tiny Qwen3-VL that was warm-started on scenes of one to three digits meets scenes of two to five: once with
    supervised fine-tuning (the honest rival), once with GRPO on the robust reward. All three are evaluated greedily on
    held-out scenes whose digits no training saw. No GPU, no download.
    """
    from perception_r1.demo import run_demo

    folder = out or Path("runs") / f"demo-{task.value}"
    if fresh and not resume:
        remove_demo(folder)

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    result = run_demo(
        task.value,
        folder,
        seed=seed,
        resume=resume,
        rebuild=rebuild,
        overrides=tuple(override or ()),
        show_progress=not quiet,
        say=say,
    )
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    from perception_r1.progress import format_duration

    gain = result.gain
    say(
        f"GRPO changed {result.primary} by {gain['value']:+.3f} (95 %: {gain['low']:+.3f} to {gain['high']:+.3f}), "
        f"in {format_duration(result.seconds)}"
    )
    say(f"open {result.report}")


def remove_demo(folder: Path) -> None:
    """Remove an earlier demo; a folder that is not a demo is left alone."""
    import shutil

    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("stage") == "demo":
        shutil.rmtree(folder)
