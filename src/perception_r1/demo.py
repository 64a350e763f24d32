"""The main job in miniature: a tiny Qwen3-VL learns to see handwritten digits better, and the evidence is laid open.

Warm start (packaged weights, or trained anew) → SFT, the honest rival, and GRPO, both from the warm start on the same
scenes → greedy evaluation of all three on held-out scenes → ``report.html``. Everything goes through the same recipe,
trainer, scoring path and report as a real run; only model and data are small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from perception_r1.progress import format_duration
from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe, load_recipe

STAGES = ("warm-start", "sft", "rl")
_WORDS = {
    "counting": "how many handwritten digits?",
    "grounding": "where is the digit?",
    "detection": "every handwritten digit and its box",
    "ocr": "read the handwritten digits",
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came out: ``metrics`` by stage (as in ``metrics.json``), the gain of RL, and the report's place."""

    task: str
    seed: int
    primary: str
    metrics: dict[str, dict[str, Any]]
    gain: dict[str, float]
    report: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return {
            "task": self.task,
            "seed": self.seed,
            "primary": self.primary,
            **{stage: self.metrics[stage]["metrics"][self.primary] for stage in STAGES},
            "gain": self.gain,
            "report": str(self.report),
            "seconds": round(self.seconds, 1),
        }


def demo_recipe(task: str, out: Path, seed: int, overrides: tuple[str, ...] = ()) -> Recipe:
    """The packaged recipe of a task, with its model and scenes in the run's folder."""
    recipe = load_recipe(Path(str(files("perception_r1") / "assets" / "demo" / f"{task}.yaml")), overrides)
    return recipe.model_copy(
        update={
            "model": str(out / "warm-start"),
            "path": None,
            "data": recipe.data.model_copy(
                update={
                    "train": tuple(_placed(source, out, 1000 + seed) for source in recipe.data.train),
                    "eval": tuple(_placed(source, out, None) for source in recipe.data.eval),
                    "seed": seed,
                }
            ),
            "grpo": {**(recipe.grpo or {}), "seed": seed},
            "sft": {**(recipe.sft or {}), "seed": seed},
        }
    )


def run_demo(
    task: str,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    rebuild: bool = False,
    overrides: tuple[str, ...] = (),
    show_progress: bool = True,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Run the demo of ``task`` in the folder ``out``.

    Args:
        task: grounding, counting, detection or ocr.
        out: the run's folder; with ``resume`` each stage that is done is kept and a broken one goes on.
        seed: of RL, SFT and their scenes; held-out scenes are the same for every seed.
        resume: go on with what is in ``out``.
        rebuild: train the warm start anew instead of taking the packaged weights.
        overrides: changes of the recipe, ``key.sub=value``.
        show_progress: progress on standard error.
        say: takes a line for the user.

    Raises:
        UserError: ``out`` holds another run.
    """
    import torch

    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.evaluate.metrics import compare
    from perception_r1.evaluate.results import read_results
    from perception_r1.evaluate.run import evaluate
    from perception_r1.models.identity import model_identity
    from perception_r1.models.load import load_model
    from perception_r1.report import write_report
    from perception_r1.train import run_folder, setup
    from perception_r1.train.grpo import train_grpo
    from perception_r1.train.sft import train_sft

    began = time.monotonic()
    setup.quiet_libraries()
    # For so small a model a second thread gains a quarter, and costs tenfold as soon as anything else runs beside it.
    torch.set_num_threads(1)
    recipe = demo_recipe(task, out, seed, overrides)
    run_folder.open_run(out, {**recipe.model_dump_plain(), "stage": "demo"}, resume=resume)
    (out / "scenes").mkdir(exist_ok=True)  # a source's folder must exist
    warm_start(out / "warm-start", rebuild=rebuild, show_progress=show_progress, say=say)

    family = build.recipe_family(recipe)
    scored_by = build.recipe_task(recipe, family)
    held_out = build.recipe_samples(recipe, recipe.data.eval, family)

    def evaluated(stage: str, folder: Path) -> dict[str, Any]:
        model, processor = load_model(folder, dtype="float32")
        generator = TransformersGenerator(model, processor, family, **recipe.eval.model_dump())
        return evaluate(
            scored_by,
            held_out,
            generator,
            out / "eval" / stage,
            model_name=stage,
            identity=model_identity(folder),
            others="replace",
            progress=show_progress,
            label=f"evaluating {stage}",
        )

    metrics: dict[str, dict[str, Any]] = {}

    def tell(stage: str, folder: Path) -> None:
        metrics[stage] = evaluated(stage, folder)
        primary = metrics[stage]["primary"]
        figure = metrics[stage]["metrics"][primary]
        say(f"  {stage:<10}  {primary} {figure['value']:.3f}  (95 %: {figure['low']:.3f} to {figure['high']:.3f})")

    n_train = sum(source.options["n"] for source in recipe.data.train)
    say(f"{task}: {n_train} training scenes, {len(held_out)} held-out scenes of unseen digits (seed {seed})")
    tell("warm-start", out / "warm-start")
    again = {"resume": resume, "show_progress": show_progress}
    tell("sft", train_sft(recipe, out / "sft", **_resumed(out / "sft", again)))
    tell("rl", train_grpo(recipe, out / "grpo", **_resumed(out / "grpo", again)))

    primary = metrics["rl"]["primary"]
    before, after = (read_results(out / "eval" / stage) for stage in ("warm-start", "rl"))
    gain = compare(task, [(r.sample, r.record) for r in before], [(r.sample, r.record) for r in after], seed=seed)[
        primary
    ]
    seconds = time.monotonic() - began
    report = write_report(
        [out],
        title=f"Learning to see: {_WORDS[task]}",
        subtitle="A tiny Qwen3-VL, warm-started on mostly one to three handwritten digits a scene, meets more.",
        facts={
            "Training scenes": f"{n_train}, the same for SFT and GRPO, of digits from the training split",
            "Evaluation": f"{len(held_out)} scenes of held-out digits, greedy, the same for every model and seed",
            "Seed": str(seed),
            "Whole demo": format_duration(seconds),
        },
        unit="held-out scenes",
        seed=seed,
    )
    return DemoResult(task, seed, primary, metrics, gain, report, seconds)


def warm_start(folder: Path, *, rebuild: bool, show_progress: bool = True, say: Callable[[str], None] = print) -> None:
    """Put the warm-started model into ``folder`` (unless it is there): the packaged weights, or trained anew."""
    if (folder / "config.json").is_file():
        return
    building = folder.with_name(f".{folder.name}")
    if rebuild:
        from perception_r1.train.warm_start import build_warm_start

        say("building the warm start from scratch (scenes of one to three digits, all four tasks)")
        build_warm_start(building, show_progress=show_progress)
    else:
        from perception_r1.train.warm_start import unpack_warm_start

        unpack_warm_start(building)
    building.rename(folder)


def _placed(source: Any, out: Path, seed: int | None) -> Any:
    """A digits source with its pictures in the run's folder and, for training, the run's own seed."""
    options = dict(source.options) if seed is None else {**source.options, "seed": seed}
    return source.model_copy(update={"path": str(out / "scenes"), "options": options})


def _resumed(folder: Path, again: dict[str, Any]) -> dict[str, Any]:
    return {**again, "resume": again["resume"] and (folder / "config.json").is_file()}
