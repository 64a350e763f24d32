"""``pr1 replay``: what another reward would have made of the rollouts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def replay(
    run: Annotated[Path, typer.Argument(help="A run with rollouts (pr1 train or pr1 diagnose).", show_default=False)],
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="The other reward: robust or released.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="The other reward: this recipe's.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change the run's reward, e.g. --set reward.matching=sequential.", metavar="KEY=VALUE"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also save the rollouts as the other reward scores them.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="About that many rollouts, of steps spread over the run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score a run's saved rollouts under another reward and say whether it would have pushed the policy the same way.

    Within each group: how far both rewards order the answers alike (Kendall's τ-b), how many groups have no spread
    (and so give no gradient), and how many answers' advantages change their sign. No model and no torch are needed.
    """
    import json

    from perception_r1.analysis.replay import compare_rewards, rescore
    from perception_r1.analysis.rollouts import read_groups
    from perception_r1.analysis.runs import read_settings, run_recipe
    from perception_r1.errors import UserError
    from perception_r1.recipe.build import recipe_task
    from perception_r1.recipe.schema import load_recipe

    if not (preset or recipe or override):
        raise UserError("say which other reward: --preset robust|released, --recipe FILE, or --set reward.KEY=VALUE")
    settings = read_settings(override or [])
    foreign = [key for key in settings if key.partition(".")[0] != "reward"]
    if foreign:
        raise UserError(f"--set {foreign[0]}: only the reward can be changed afterwards (reward.…)")
    changes: dict[str, Any] = {}
    if preset is not None:
        # A preset means its own weights and matching, not those that the run changed of another.
        changes["reward"] = {"preset": preset, "components": None, "matching": None, "clamp": None, "function": None}
    trained = run_recipe(run)
    if recipe is not None:
        other = load_recipe(recipe)
        if other.task != trained.task:
            raise UserError(f"{recipe}: its task is {other.task}, the run's is {trained.task}")
        changes["reward"] = other.reward.model_dump()
    task = recipe_task(run_recipe(run, {**changes, **settings}))
    judge = trained.reward.judge
    if judge is not None and judge.kind != "lexical":
        typer.echo(
            f"note: {judge.model} is not asked again: facts are looked for in the text, on the replayed side only",
            err=True,
        )
    groups = read_groups(run, limit=limit)
    after = rescore(groups, task, show_progress=not quiet)
    found = compare_rewards(groups, after)
    if out is not None:
        _save(out, after, trained, task)
    if as_json:
        typer.echo(json.dumps({"run": str(run), "task": task.name, **found.to_dict()}, ensure_ascii=False))
        return
    typer.echo("\n".join(table(found.figures, found.flipped, trained.reward.preset, preset or task.reward.preset)))
    if out is not None:
        typer.echo(f"look:   pr1 report {out}")


def table(figures: dict[str, Any], flipped: list[dict[str, Any]], was: str, now: str) -> list[str]:
    """The comparison for a reader."""
    lines = [f"{figures['n_rollouts']:,} rollouts in {figures['n_groups']:,} groups", ""]
    lines.append(f"  {'':<34}{'as trained':>14}{'replayed':>14}     ({was} → {now})")
    for key, name in (
        ("mean_reward", "mean reward"),
        ("zero_spread", "groups without a spread"),
        ("all_zero", "groups that earned nothing"),
        ("metric_agreement", "τ-b of reward and metric"),
    ):
        share = key in ("zero_spread", "all_zero")
        lines.append(
            f"  {name:<34}" + "".join(f"{_shown(figures[key][side], share):>14}" for side in ("before", "after"))
        )
    lines.append("")
    for key, name, share in (
        ("rank_agreement", "rank agreement in a group, τ-b", False),
        ("same_best", "groups with the same best answer", True),
        ("sign_flips", "answers pushed the other way", True),
        ("signal_lost", "answers no longer pushed", True),
        ("signal_gained", "answers newly pushed", True),
    ):
        entry = figures[key]
        span = (
            f"   ({_shown(entry['low'], share)} to {_shown(entry['high'], share)}, n = {entry['n']})"
            if entry["n"]
            else ""
        )
        lines.append(f"  {name:<34}{_shown(entry['value'], share):>14}{span}")
    if flipped:
        lines += [
            "",
            "  most flips: " + ", ".join(f"step {e['step']} {e['id']} ({e['flips']} of {e['of']})" for e in flipped),
        ]
    return lines


def _shown(value: float | None, share: bool) -> str:
    return "–" if value is None else f"{100 * value:.1f} %" if share else f"{value:.3f}"


def _save(out: Path, groups: Any, trained: Any, task: Any) -> None:
    """The rollouts as a run of their own, so that the report opens them."""
    from perception_r1.analysis.rollouts import write_groups
    from perception_r1.train.run_folder import open_run, write_text

    spec = task.reward
    reward = {
        "preset": spec.preset,
        "matching": spec.matching,
        "components": dict(spec.components),
        "clamp": spec.clamp,
        "function": spec.function,
        "options": dict(spec.options),
    }
    config = {**trained.model_dump_plain(), "reward": reward, "stage": "replay"}
    open_run(out, config, resume=False)
    write_groups(out / "rollouts", groups)
    import json
    import statistics

    by_step: dict[int, list[float]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).extend(group.rewards)
    logs = [{"step": step, "reward": statistics.fmean(values)} for step, values in sorted(by_step.items()) if values]
    write_text(out / "metrics.jsonl", "".join(json.dumps(log) + "\n" for log in logs))
