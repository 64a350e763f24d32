"""The reward in miniature: GRPO with and without the visual component from one start, compared by exact McNemar.

A tiny Qwen3-VL is taught the form of the answer on generated diagrams (and stops before it reads them well), then
trained twice with the same rows, seed and steps: once with the whole reward, once without its visual part. Both are
asked the same held-out diagrams; *perception* is right where every visual fact is stated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from perception_r1.recipe import build
from perception_r1.recipe.schema import Recipe, Reward, load_recipe
from perception_r1.tasks import reward_spec
from perception_r1.types import RewardRecord

ARMS = ("visual", "accuracy")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same samples: how many each has right, discordant pairs, exact two-sided p."""

    what: str
    n: int
    first_right: int
    second_right: int
    only_first: int
    only_second: int
    p: float


def demo_recipe(out: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The packaged recipe, its model and pictures in ``out``."""
    path = Path(str(files("perception_r1") / "assets" / "vpr" / "tiny.yaml"))
    recipe = load_recipe(path, [f"model={out / 'warm-start'}", *overrides])

    def placed(sources: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(source.model_copy(update={"path": str(out / "diagrams")}) for source in sources)

    data = recipe.data.model_copy(update={"train": placed(recipe.data.train), "eval": placed(recipe.data.eval)})
    return recipe.model_copy(update={"path": None, "data": data})


def run_demo(
    out: Path,
    *,
    resume: bool = False,
    overrides: tuple[str, ...] = (),
    show_progress: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run all stages in ``out``; each that is done is kept with ``resume``.

    Returns:
        What ``comparison.json`` holds: figures of the three models, and the comparisons.

    Raises:
        UserError: ``out`` holds another run.
    """
    import torch

    from perception_r1.demo import warm_start
    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.evaluate.results import read_results
    from perception_r1.evaluate.run import evaluate
    from perception_r1.models.identity import model_identity
    from perception_r1.models.load import load_model
    from perception_r1.train import run_folder, setup
    from perception_r1.train.grpo import train_grpo
    from perception_r1.train.sft import train_sft

    began = time.monotonic()
    setup.quiet_libraries()
    torch.set_num_threads(1)
    recipe = demo_recipe(out, overrides)
    run_folder.open_run(out, {**recipe.model_dump_plain(), "stage": "vpr-demo"}, resume=resume)
    (out / "diagrams").mkdir(exist_ok=True)
    warm_start(out / "warm-start", rebuild=False, say=say)
    family = build.recipe_family(recipe)
    task = build.recipe_task(recipe, family)
    held_out = build.recipe_samples(recipe, recipe.data.eval, family)
    records: dict[str, dict[str, RewardRecord]] = {}

    def again(folder: Path) -> dict[str, Any]:
        return {"resume": resume and (folder / "config.json").is_file(), "show_progress": show_progress}

    def tell(stage: str, folder: Path) -> None:
        model, processor = load_model(folder, dtype="float32")
        answers = TransformersGenerator(model, processor, family, **recipe.eval.model_dump())
        evaluate(
            task,
            held_out,
            answers,
            out / "eval" / stage,
            model_name=stage,
            identity=model_identity(folder),
            others="replace",
            progress=show_progress,
            label=f"evaluating {stage}",
        )
        records[stage] = {row.sample.id: row.record for row in read_results(out / "eval" / stage)}
        figures = figures_of(list(records[stage].values()))
        say(f"  {stage:<9} " + "   ".join(f"{name} {value:.3f}" for name, value in figures.items()))

    start = train_sft(recipe, out / "sft", **again(out / "sft"))
    tell("start", start)
    for arm in ARMS:
        model = train_grpo(arm_of(recipe, arm), out / arm, model_path=start, **again(out / arm))
        tell(arm, model)
    compared = [compare(what, records["accuracy"], records["visual"]) for what in ("perception", "answer")]
    compared += [compare(what, records["start"], records["visual"]) for what in ("perception", "answer")]
    names = [("accuracy", "visual")] * 2 + [("start", "visual")] * 2
    result = {
        "models": {stage: figures_of(list(found.values())) for stage, found in records.items()},
        "comparisons": [{"first": a, "second": b, **asdict(one)} for (a, b), one in zip(names, compared, strict=True)],
        "seconds": round(time.monotonic() - began, 1),
    }
    run_folder.write_json(out / "comparison.json", result)
    return result


def arm_of(recipe: Recipe, arm: str) -> Recipe:
    """``visual``: the whole reward; ``accuracy``: its visual component is measured, and pays nothing."""
    if arm == "visual":
        return recipe
    preset = recipe.reward.preset
    weights = dict(recipe.reward.components or reward_spec("geometry", preset).components)
    weights["visual"] = 0.0
    return recipe.model_copy(update={"reward": Reward(preset=preset, components=weights)})


def figures_of(records: list[RewardRecord]) -> dict[str, float]:
    """Means over some answers: visual facts stated, all of them stated, right answers, right form."""
    n = max(1, len(records))
    return {
        "visual": sum(record.components.get("visual", 0.0) for record in records) / n,
        "perception": sum(map(sees, records)) / n,
        "answer": sum(record.components.get("accuracy", 0.0) for record in records) / n,
        "format": sum(record.components.get("format", 0.0) for record in records) / n,
    }


def sees(record: RewardRecord) -> bool:
    """Whether every visual fact is stated."""
    return record.n_target > 0 and record.n_valid == record.n_target


def compare(what: str, first: dict[str, RewardRecord], second: dict[str, RewardRecord]) -> Comparison:
    """Exact McNemar on ``perception`` (every fact stated) or ``answer`` (the final answer is right)."""
    from perception_r1.stats import mcnemar_exact

    def right(record: RewardRecord) -> bool:
        return sees(record) if what == "perception" else record.components.get("accuracy") == 1.0

    pairs = [(right(first[key]), right(second[key])) for key in first if key in second]
    b, c = sum(one and not two for one, two in pairs), sum(two and not one for one, two in pairs)
    return Comparison(
        what, len(pairs), sum(one for one, _ in pairs), sum(two for _, two in pairs), b, c, mcnemar_exact(b, c)
    )


def visual_by_step(folder: Path) -> list[tuple[int, float]]:
    """(step, mean visual component of the rollouts) of a training, from its metrics."""
    found = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "components/visual" in row:
            found.append((row["step"], row["components/visual"]))
    return found
