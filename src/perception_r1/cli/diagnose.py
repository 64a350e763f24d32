"""``pr1 diagnose``: would reinforcement learning help here, or fine-tuning, or nothing?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def diagnose(
    source: Annotated[
        Path,
        typer.Argument(help="A recipe, or a run whose rollouts are looked at instead of sampling.", show_default=False),
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model than the recipe's.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Questions, drawn at random.")] = 200,
    generations: Annotated[int, typer.Option("--generations", "-G", min=2, help="Answers a question.")] = 8,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01)] = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, show_default="the recipe's max_completion_length")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at a time.")] = 8,
    data_only: Annotated[bool, typer.Option("--data-only", help="Look at the data alone; no model is needed.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results.", show_default="runs/diagnose-NAME")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw and of the sampling.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers in --out.")] = False,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the recipe.", metavar="KEY=VALUE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Say whether to use RL, SFT or other data, and why.

    The perceptual perplexity of the data (n! ways to match n targets: mean, median, log), the model's own perplexity of
    the right answers, and what its sampled answers say: pass@k, the spread of the reward in a group, the headroom above
    the mean. The answers are kept as rollouts: pr1 report, pr1 replay and pr1 curriculum read them.
    """
    import json
    import random

    from perception_r1.analysis.diagnose import advise, diagnose_groups
    from perception_r1.analysis.perplexity import perceptual_perplexity
    from perception_r1.analysis.runs import best_reward
    from perception_r1.errors import UserError

    gold = groups = folder = None
    if source.is_dir():
        given = {"--model": model, "--set": override, "--out": out, "--data-only": data_only, "--resume": resume}
        if any(given.values()):
            name = next(name for name, value in given.items() if value)
            raise UserError(f"{source}: a run's answers are looked at as they are; {name} is for a recipe")
        from perception_r1.analysis.rollouts import read_groups
        from perception_r1.analysis.runs import run_recipe
        from perception_r1.recipe.build import recipe_task

        recipe = run_recipe(source)
        task = recipe_task(recipe)
        found = list({group.sample.id: group for group in read_groups(source)}.values())  # the latest of each question
        samples = [group.sample for group in found]
        groups = diagnose_groups(found, most=best_reward(task, samples), seed=seed)
    else:
        from perception_r1.recipe.build import recipe_family, recipe_samples, recipe_task
        from perception_r1.recipe.schema import load_recipe

        recipe = load_recipe(source, override or ())
        if model is not None:
            recipe = recipe.model_copy(update={"model": model})
        family = recipe_family(recipe)
        task = recipe_task(recipe, family)
        samples = recipe_samples(recipe, recipe.data.train, family)
        if not data_only:
            folder = out or Path("runs") / f"diagnose-{recipe.name}"
            chosen = samples if limit >= len(samples) else random.Random(seed).sample(samples, limit)
            gold, found = _ask(
                recipe,
                task,
                chosen,
                folder,
                generations,
                temperature,
                max_new_tokens,
                batch_size,
                seed,
                resume,
                not quiet,
            )
            groups = diagnose_groups(found, most=best_reward(task, chosen), seed=seed)
    perplexity = perceptual_perplexity(samples)
    result = {
        "task": task.name,
        "model": None if data_only else recipe.model,
        "perceptual_perplexity": perplexity,
        "gold": gold,
        "groups": groups,
        **advise(perplexity, groups, gold),
    }
    if folder is not None:
        from perception_r1.train.run_folder import write_json

        write_json(folder / "diagnose.json", result)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo("\n".join(table(result)))
    if folder is not None:
        typer.echo(f"\nresults: {folder}   next: pr1 report {folder}   pr1 curriculum {source} --run {folder}")


def _ask(
    recipe: Any,
    task: Any,
    samples: Any,
    folder: Path,
    size: int,
    temperature: float,
    tokens: int | None,
    batch: int,
    seed: int,
    resume: bool,
    show: bool,
) -> tuple[dict[str, Any], Any]:
    """The model's perplexity of the gold answers, and its sampled groups."""
    import json
    import math
    import statistics

    import torch

    from perception_r1.analysis.perplexity import gold_log_likelihood
    from perception_r1.analysis.sampling import sample_groups, sampling_generator
    from perception_r1.models.load import load_model
    from perception_r1.progress import progress
    from perception_r1.train import run_folder, setup

    setup.quiet_libraries()
    limit = tokens or (recipe.grpo or {}).get("max_completion_length") or recipe.eval.max_new_tokens
    settings = {
        "group_size": size,
        "temperature": temperature,
        "max_new_tokens": limit,
        "seed": seed,
        "n": len(samples),
        "batch_size": batch,  # a batch is a step of the rollouts
    }
    config = {**recipe.model_dump_plain(), "stage": "diagnose", "sampling": settings}
    run_folder.open_run(folder, {**config, "inputs": setup.run_inputs(recipe.model, samples)}, resume=resume)
    model, processor = load_model(recipe.model, device="cuda" if torch.cuda.is_available() else "cpu")
    generator = sampling_generator(
        model, processor, task.family, group_size=size, temperature=temperature, max_new_tokens=limit, batch_size=batch
    )
    with progress("reading the right answers", len(samples), unit="answers", enabled=show) as advance:
        scores = gold_log_likelihood(model, processor, task, samples, batch_size=batch, advance=advance)
    groups = sample_groups(task, samples, generator, folder, group_size=size, seed=seed, show_progress=show)
    tokens_in_all = sum(n for _, n in scores)
    gold = {
        "n": len(scores),
        "perplexity": math.exp(-sum(value for value, _ in scores) / tokens_in_all),
        "median_perplexity": math.exp(statistics.median(-value / n for value, n in scores)),
        "log_likelihood": statistics.fmean(value for value, _ in scores),
    }
    by_step: dict[int, list[float]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).extend(group.rewards)
    logs = [{"step": step, "reward": statistics.fmean(found)} for step, found in by_step.items() if found]
    run_folder.write_text(folder / "metrics.jsonl", "".join(json.dumps(log) + "\n" for log in logs))
    return gold, groups


def table(result: dict[str, Any]) -> list[str]:
    """The diagnosis for a reader."""
    found = result["perceptual_perplexity"]
    lines = [f"{result['task']}, {found['n']} questions", ""]
    if found["n"]:
        objects = found["objects"]
        lines += [
            f"  objects a question              mean {objects['mean']:.2f}, median {objects['median']:g}, "
            f"most {objects['max']}",
            f"  perceptual perplexity (n!)      mean {_large(found['mean'], found['log_mean'])}, "
            f"median {_large(found['median'], found['log_median'])}",
            f"  log n!                          mean {found['mean_log']:.2f}, median {found['median_log']:.2f}",
        ]
    if result["gold"]:
        gold = result["gold"]
        lines.append(
            f"  the model's perplexity of gold  {gold['perplexity']:.3f} a token "
            f"(median answer {gold['median_perplexity']:.3f})"
        )
    groups = result["groups"]
    if groups:
        lines += ["", f"  {groups['n']} questions, {groups['group_size']} answers each"]
        for key, name in (
            ("reward", "mean reward"),
            ("best_reward", "best of the group"),
            ("headroom", "headroom (best − mean)"),
            ("spread", "spread in a group"),
            ("metric", "metric, mean"),
            ("best_metric", "metric, best of the group"),
            *((key, f"right at least once ({key})") for key in groups if key.startswith("pass@")),
            ("zero_spread", "questions without a spread"),
            ("all_zero", "questions that earn nothing"),
            ("solved", "questions right by the metric"),
        ):
            entry = groups[key]
            lines.append(f"  {name:<30}  {entry['value']:.3f}   ({entry['low']:.3f} to {entry['high']:.3f})")
        if groups["reasons"]:
            lines.append(
                "  answers that earned nothing:    " + "; ".join(f"{r} {n}" for r, n in groups["reasons"].items())
            )
    advice = {"rl": "use RL", "sft": "use SFT first", "drop": "drop these data", None: "no advice without a model"}
    lines += ["", f"advice: {advice[result['advice']]}"]
    return lines + [f"  - {reason}" for reason in result["reasons"]]


def _large(value: float | None, log: float) -> str:
    return f"e^{log:.1f}" if value is None else f"{value:.4g}"
