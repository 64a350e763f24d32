"""``report.html``: one file that opens from disk, with nothing to load and nothing that a model wrote taken as HTML.

Every text goes through Jinja's escaping, and a content security policy forbids the page any script but its own (by its
hash), so that even a mistake of ours could not run what a model says.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write
from perception_r1.evaluate.metrics import compare
from perception_r1.models.identity import shown_identity
from perception_r1.report import words
from perception_r1.report.charts import dot_chart, line_chart
from perception_r1.report.gallery import build_gallery
from perception_r1.report.inspector import LIMIT, build_inspector
from perception_r1.report.runs import Evaluation, Training, load_runs, pretty

# Colours are CSS variables (see style.css.j2): c0 the first model … c5. The last model is always the accent.
_COMPONENT_COLOURS = ("c5", "c1", "c3", "c4", "c2", "c0")


def write_report(
    folders: Iterable[str | Path],
    out_html: str | Path | None = None,
    *,
    title: str | None = None,
    subtitle: str = "",
    facts: Mapping[str, str] | None = None,
    unit: str = "samples",
    gallery: int = 24,
    rollouts: int = LIMIT,
    seed: int = 0,
) -> Path:
    """The report of run folders (trainings, evaluations, or folders that hold some).

    Args:
        folders: where to look; see ``load_runs``.
        out_html: the page; default ``report.html`` in the first folder.
        title, subtitle, facts, unit, gallery, rollouts, seed: as in ``build_report``.

    Raises:
        UserError: nothing to report there.
    """
    places = [Path(folder) for folder in folders]
    evaluations, trainings = load_runs(places)
    return build_report(
        out_html or places[0] / "report.html",
        title=title or places[0].resolve().name,
        subtitle=subtitle,
        evaluations=evaluations,
        trainings=trainings,
        facts=facts,
        unit=unit,
        gallery=gallery,
        rollouts=rollouts,
        seed=seed,
    )


def build_report(
    out_html: str | Path,
    *,
    title: str,
    evaluations: Sequence[Evaluation] = (),
    trainings: Sequence[Training] = (),
    subtitle: str = "",
    facts: Mapping[str, str] | None = None,
    unit: str = "samples",
    gallery: int = 24,
    rollouts: int = LIMIT,
    seed: int = 0,
) -> Path:
    """Write the page.

    Args:
        out_html: where.
        title: of the page.
        evaluations: of one task, in the order to show; differences are against the first.
        trainings: their curves.
        subtitle: a sentence under the title.
        facts: further lines for "What was run".
        unit: what a sample is called in the headline ("held-out scenes").
        gallery: how many samples to show.
        rollouts: how many of a training's rollouts the group inspector holds at most; 0 leaves it out.
        seed: of the gallery's choice and of the bootstrap of differences.

    Returns:
        The page's path.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perception_r1.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = environment.get_template("page.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        script=script,
        script_hash=f"sha256-{digest}",
        result=_result(evaluations, unit, seed) if evaluations else None,
        curves=[_curves(training) for training in trainings if training.logs],
        gallery=build_gallery(evaluations, n=gallery, seed=seed) if evaluations and gallery else None,
        inspectors=_inspectors(trainings, rollouts),
        facts=_facts(evaluations, trainings, facts or {}),
        details=_details(evaluations, trainings),
    )
    with atomic_write(out_html) as stream:
        # Half a surrogate pair in a model's text is no UTF-8.
        stream.write(html.encode("utf-8", "replace").decode("utf-8"))
    return Path(out_html)


def result_rows(evaluations: Sequence[Evaluation], seed: int = 0) -> tuple[str, list[dict[str, Any]]]:
    """The primary metric and one row a model: title, colour, entry, its difference from the first, all metrics."""
    task = evaluations[0].task
    primary = str(evaluations[0].metrics["primary"])
    scored = [[(r.sample, r.record) for r in evaluation.results] for evaluation in evaluations]
    rows: list[dict[str, Any]] = []
    for index, evaluation in enumerate(evaluations):
        metrics = evaluation.metrics["metrics"]
        if primary not in metrics:
            continue
        differences = compare(task, scored[0], scored[index], seed=seed) if index else {}
        rows.append(
            {
                "title": evaluation.title,
                "colour": colour(index, len(evaluations)),
                "entry": metrics[primary],
                "difference": differences.get(primary),
                "differences": differences,
                "metrics": metrics,
                "n": evaluation.metrics["n_scored"],
                "unparsable": evaluation.metrics.get("unparsable", {}),
            }
        )
    return primary, rows


def colour(index: int, count: int) -> str:
    """The first model grey, the last the accent, others between."""
    return "accent" if index == count - 1 and count > 1 else f"c{index % 5}"


def _result(evaluations: Sequence[Evaluation], unit: str, seed: int) -> dict[str, Any] | None:
    task = evaluations[0].task
    primary, rows = result_rows(evaluations, seed)
    if not rows:
        return None
    percent = primary not in words.PLAIN_NUMBERS
    chart_rows = [
        {
            "title": row["title"],
            "colour": row["colour"],
            **row["entry"],
            "text": words.figure(primary, row["entry"]["value"]),
            "interval": words.span(primary, row["entry"]),
            "gain": words.signed(primary, row["difference"]["value"]) if row["difference"] else "",
            "gain_interval": words.span(primary, row["difference"], sign=True) if row["difference"] else "",
            # Not "clear": in a template that is the method of a dict.
            "sure": bool(row["difference"]) and words.is_clear(row["difference"]),
        }
        for row in rows
    ]
    return {
        "task": task,
        "metric": words.metric_name(task, primary),
        "headline": words.headline(task, primary, rows, rows[0]["n"], unit),
        "before": words.figure(primary, rows[0]["entry"]["value"]),
        "after": words.figure(primary, rows[-1]["entry"]["value"]) if len(rows) > 1 else None,
        "chart": dot_chart(chart_rows, percent=percent),
        "table": _table(task, primary, rows),
        "titles": [(row["title"], row["colour"]) for row in rows],
        "by_count": _by_count(rows),
        "unparsable": [(row["title"], row["unparsable"]) for row in rows if row["unparsable"]],
        "notes": evaluations[0].metrics.get("notes", []),
        "unit": "" if primary in words.PLAIN_NUMBERS else "points",
    }


def _table(task: str, primary: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All metrics but those of one count, the primary one first."""
    names = [name for name in rows[0]["metrics"] if "[" not in name]
    table = []
    for name in sorted(names, key=lambda name: (name != primary, name == "reward")):
        entries = [row["metrics"].get(name) for row in rows]
        change = rows[-1]["differences"].get(name)
        better = change and words.is_clear(change) and (change["value"] > 0) != (name in words.LOWER_IS_BETTER)
        table.append(
            {
                "name": words.metric_name(task, name),
                "primary": name == primary,
                "lower": name in words.LOWER_IS_BETTER,
                "cells": [(words.figure(name, e["value"]), words.span(name, e)) if e else ("—", "") for e in entries],
                "change": words.signed(name, change["value"]) if change else None,
                "change_interval": words.span(name, change, sign=True) if change else "",
                "verdict": ("better" if better else "worse" if words.is_clear(change) else "even") if change else "",
            }
        )
    return table


def _by_count(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracy by the number of objects, for counting."""
    series = []
    for row in rows:
        found = [
            (int(match[1]), entry)
            for name, entry in row["metrics"].items()
            if (match := re.fullmatch(r"accuracy\[count=(\d+)\]", name)) and "low" in entry
        ]
        if 2 <= len(found) <= 40:
            series.append(
                {
                    "name": row["title"],
                    "colour": row["colour"],
                    "x": [float(count) for count, _ in found],
                    "y": [e["value"] for _, e in found],
                    "low": [e["low"] for _, e in found],
                    "high": [e["high"] for _, e in found],
                }
            )
    return line_chart(
        series, title="Accuracy by the number of objects", x_label="objects", smoothed=False, dots=True, percent=True
    )


_DIFFERENCE = "sampling/sampling_logp_difference/mean"
WARN_FROM = 0.1
"""Nats between engine and policy from which training warns (see `train.rollout_guard`)."""


def _curves(training: Training) -> dict[str, Any]:
    """The charts of one training; what was never logged has none."""
    charts = []

    def add(name: str, *keys: str, tint: str = "accent", **options: Any) -> None:
        x, y = training.series(*keys)
        charts.append(line_chart([{"name": name, "colour": tint, "x": x, "y": y}], title=name, **options))

    if training.is_rl:
        x, y = training.series("reward")
        _, std = training.series("reward_std")
        line: dict[str, Any] = {"name": "Reward", "colour": "accent", "x": x, "y": y}
        charts.append(line_chart([line], title="Reward", note="mean of the sampled answers"))
        add("Reward on data.eval", "eval_reward", tint="c2", smoothed=False, note="sampled, as in training")
        if len(std) == len(y):
            add("Spread of the reward", "reward_std", note="standard deviation in a group")
        names = sorted({key for log in training.logs for key in log if key.startswith("components/")})
        parts = [name for name in names if not name.startswith("components/share_")]
        series = [
            dict(zip(("x", "y"), training.series(name), strict=True))
            | {"name": name.removeprefix("components/").replace("_", " "), "colour": _COMPONENT_COLOURS[i % 6]}
            for i, name in enumerate(parts)
        ]
        charts.append(line_chart(series, title="Parts of the reward"))
        add("KL to the start", "kl", zero=True, note="drift from the model that training started from")
        if len(training.series(_DIFFERENCE)[0]) > 1:
            add(
                "Rollouts against the policy",
                _DIFFERENCE,
                zero=True,
                note="log-probability of the sampled tokens, engine against policy, in nats: 0.01 to 0.05 is rounding",
            )
        add("Length of the answers", "completions/mean_length", "completion_length", note="tokens")
        add("Entropy", "entropy", zero=True, note="how much the policy still tries out")
        add("Gradient norm", "grad_norm", zero=True)
        shares = [
            dict(zip(("x", "y"), training.series(f"components/share_{status}"), strict=True))
            | {"name": status, "colour": tint}
            for status, tint in (("malformed", "c4"), ("truncated", "c1"))
        ]
        charts.append(line_chart(shares, title="Unreadable answers", zero=True, percent=_any_above(shares, 0.5)))
    else:
        tint = "c1"
        add("Loss", "loss", tint=tint)
        add("Loss on data.eval", "eval_loss", tint="c2", smoothed=False)
        add("Token accuracy", "mean_token_accuracy", tint=tint)
        add("Gradient norm", "grad_norm", tint=tint, zero=True)
    return {
        "title": training.title,
        "kind": "reinforcement learning" if training.is_rl else "supervised",
        "steps": training.steps,
        "time": words.duration(training.seconds),
        "charts": [chart for chart in charts if chart],
        "note": _curves_note(training) if training.is_rl else "",
        "open": training.is_rl,
    }


def _curves_note(training: Training) -> str:
    """What the charts do not show."""
    notes = []
    if not training.series("kl")[0] and not (training.config.get("grpo") or {}).get("beta", 0.0):
        notes.append("KL to the start was not computed (beta = 0: no reference model).")
    _, differences = training.series(_DIFFERENCE)
    if len(differences) == 1:  # transformers' generate is compared once
        notes.append(
            f"The first rollouts are the policy's: their tokens' log-probabilities differ by {differences[0]:.1g} nats."
            if differences[0] < WARN_FROM
            else f"The log-probabilities of the first rollouts are not the policy's: {differences[0]:.2g} nats away."
        )
    return " ".join(notes)


def _inspectors(trainings: Sequence[Training], limit: int) -> list[dict[str, Any]]:
    """The groups of every training that saved its rollouts."""
    found = [
        build_inspector(training.folder, title=training.title, limit=limit, show_progress=True)
        for training in trainings
        if training.folder is not None and training.is_rl
    ]
    return [inspector for inspector in found if inspector is not None]


def _any_above(series: list[dict[str, Any]], value: float) -> bool:
    return any(y > value for line in series for y in line["y"])


def _facts(
    evaluations: Sequence[Evaluation], trainings: Sequence[Training], more: Mapping[str, str]
) -> list[tuple[str, str]]:
    """The settings that a reader asks for first."""
    facts: list[tuple[str, str]] = []
    if evaluations:
        settings = evaluations[-1].settings
        facts.append(("Task", evaluations[0].task))
        for key, name in (("family", "Family"), ("preset", "Reward"), ("prompt", "Prompt"), ("thinking", "Thinking")):
            if key in settings:
                value = settings[key]
                facts.append((name, ("yes" if value else "no") if isinstance(value, bool) else str(value)))
        facts += [
            (f"Model: {e.title}", shown_identity(e.metrics["identity"]))
            for e in evaluations
            if e.metrics.get("identity")
        ]
        facts.append(("Evaluated on", f"{evaluations[0].metrics['n']} samples, greedy decoding"))
        facts.append(
            (
                "Time to evaluate",
                " · ".join(f"{e.title} {words.duration(e.metrics.get('seconds'))}" for e in evaluations),
            )
        )
    facts += [(f"Training: {training.title}", _training_line(training)) for training in trainings]
    versions = next((t.environment for t in reversed(trainings) if t.environment), {})
    if versions:
        packages = versions.get("packages", {})
        facts.append(("Versions", " · ".join(f"{name} {number}" for name, number in packages.items())))
        device = ", ".join(dict.fromkeys(versions.get("devices", [])))
        machine = (
            f"{versions.get('system', '')}, {versions.get('cores', '?')} cores, Python {versions.get('python', '?')}"
        )
        facts.append(("Machine", f"{machine}{', ' + device if device else ''}"))
    return facts + [(str(key), str(value)) for key, value in more.items()]


def _training_line(training: Training) -> str:
    table = training.config.get("grpo" if training.is_rl else "sft") or {}
    parts = [f"{training.steps} steps", words.duration(training.seconds)]
    for key, text in (
        ("learning_rate", "learning rate {:g}"),
        ("num_generations", "{} rollouts a prompt"),
        ("per_device_train_batch_size", "batch {}"),
        ("gradient_accumulation_steps", "accumulation {}"),
        ("beta", "KL weight {:g}"),
        ("temperature", "temperature {:g}"),
        ("seed", "seed {}"),
    ):
        if key in table:
            try:
                parts.append(text.format(table[key]))
            except (ValueError, TypeError):
                parts.append(f"{key} {table[key]}")
    return " · ".join(parts)


def _details(evaluations: Sequence[Evaluation], trainings: Sequence[Training]) -> list[tuple[str, str]]:
    """Everything in full, folded away."""
    found = [(f"Recipe of {t.title}", pretty(t.config)) for t in trainings if t.config]
    found += [(f"Environment of {t.title}", pretty(t.environment)) for t in trainings if t.environment]
    return found + [(f"Metrics of {e.title}", pretty(e.metrics)) for e in evaluations]
