"""``report.png``: the result, the reward's curve and a few scenes in one still picture (for a README)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perception_r1.data.files import atomic_write
from perception_r1.errors import UserError
from perception_r1.evaluate.metrics import quality
from perception_r1.report import words
from perception_r1.report.build import result_rows
from perception_r1.report.charts import smooth
from perception_r1.report.draw import draw_answer
from perception_r1.report.gallery import choose, outcome
from perception_r1.report.runs import Evaluation, Training, load_runs
from perception_r1.tasks import task_class

_COLOURS = {
    "c0": "#6b7789",
    "c1": "#d9820f",
    "c2": "#8b5cf6",
    "c3": "#0d9488",
    "c4": "#db2777",
    "accent": "#4338ca",
}
_INK, _SOFT, _GRID = "#14181f", "#566070", "#e3e7ed"


def write_picture(
    folders: Iterable[str | Path], out_png: str | Path | None = None, *, title: str = "", scenes: int = 4, seed: int = 0
) -> Path:
    """The picture of run folders; default ``report.png`` in the first one."""
    places = [Path(folder) for folder in folders]
    evaluations, trainings = load_runs(places)
    return summary_png(
        out_png or places[0] / "report.png",
        evaluations=evaluations,
        trainings=trainings,
        title=title,
        scenes=scenes,
        seed=seed,
    )


def summary_png(
    out_png: str | Path,
    *,
    evaluations: Sequence[Evaluation],
    trainings: Sequence[Training] = (),
    title: str = "",
    scenes: int = 4,
    seed: int = 0,
    unit: str = "samples",
) -> Path:
    """Draw the picture.

    Args:
        out_png: where.
        evaluations: of one task, first to last.
        trainings: the last one with rewards gives the curve.
        title: above; default the headline's metric.
        scenes: how many columns of scenes, drawn at random from improved, worsened and unchanged ones as in the page.
        seed: of the choice and the bootstrap.
        unit: what a sample is called in the headline.

    Raises:
        UserError: no evaluation.
    """
    if not evaluations:
        raise UserError("a picture needs at least one evaluation (samples.jsonl with metrics.json)")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    primary, rows = result_rows(evaluations, seed)
    task = evaluations[0].task
    rl = next((training for training in reversed(trainings) if training.series("reward")[0]), None)
    models = len(evaluations)
    figure = Figure(figsize=(13.2, 1.25 + 2.05 * max(models, 2)), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.025, 0.965, title or words.metric_name(task, primary), size=17, weight="bold", color=_INK, va="top")
    if rows:
        line = words.headline(task, primary, rows, rows[0]["n"], unit).split(". ")[0].rstrip(".") + "."
        figure.text(0.025, 0.905, line, size=10.5, color=_SOFT, va="top")
    left = figure.add_gridspec(2 if rl else 1, 1, left=0.095, right=0.40, top=0.785, bottom=0.075, hspace=0.5)
    _dots(figure.add_subplot(left[0]), task, primary, rows)
    if rl:
        _reward(figure.add_subplot(left[1]), rl)
    right = figure.add_gridspec(
        models, scenes, left=0.475, right=0.975, top=0.785, bottom=0.055, wspace=0.05, hspace=0.07
    )
    _scenes(figure, right, evaluations, scenes, seed)
    figure.text(
        0.475,
        0.018,
        f"Dashed green: ground truth. Blue: a box on a target, red: on none. Drawn at random (seed {seed}).",
        size=9,
        color=_SOFT,
    )
    with atomic_write(out_png, "wb") as stream:
        figure.savefig(stream, format="png")
    return Path(out_png)


def _dots(axes: Any, task: str, primary: str, rows: list[dict[str, Any]]) -> None:
    scale = 1 if primary in words.PLAIN_NUMBERS else 100
    for y, row in enumerate(rows):
        entry, colour = row["entry"], _COLOURS[row["colour"]]
        low, high = entry.get("low", entry["value"]), entry.get("high", entry["value"])
        axes.plot([scale * low, scale * high], [y, y], color=colour, lw=6, alpha=0.25, solid_capstyle="round")
        axes.plot([scale * entry["value"]], [y], "o", color=colour, ms=10)
        axes.annotate(
            words.figure(primary, entry["value"]),
            (scale * entry["value"], y),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            size=9.5,
            color=colour,
            weight="bold",
        )
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], color=_INK, size=10.5)
    axes.set_ylim(len(rows) - 0.5, -0.75)
    if scale == 100:
        axes.set_xlim(0, 102 if max(row["entry"]["value"] for row in rows) > 0.5 else None)
    axes.set_title(
        f"{words.metric_name(task, primary)}{', %' if scale == 100 else ''}, with 95 % intervals",
        size=10.5,
        loc="left",
        color=_INK,
        weight="bold",
        pad=9,
        x=-0.23,
    )
    _plain(axes, "x")


def _reward(axes: Any, training: Training) -> None:
    x, y = training.series("reward")
    axes.plot(x, y, color=_COLOURS["accent"], lw=0.8, alpha=0.3)
    axes.plot(x, smooth(y), color=_COLOURS["accent"], lw=2)
    axes.set_title(
        "Reward of the sampled answers, by step", size=10.5, loc="left", color=_INK, weight="bold", pad=9, x=-0.23
    )
    _plain(axes, "y")


def _plain(axes: Any, grid: str) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelcolor=_SOFT, labelsize=9)
    axes.grid(axis=grid, color=_GRID, lw=0.9)
    axes.set_axisbelow(True)


def _scenes(figure: Any, grid: Any, evaluations: Sequence[Evaluation], n: int, seed: int) -> None:
    tables = [{result.sample.id: result for result in evaluation.results} for evaluation in evaluations]
    groups: dict[str, list[str]] = {}
    for key, first in tables[0].items():
        last = tables[-1].get(key)
        if last is not None and all(key in table for table in tables):
            after = quality(last.sample, last.record) if len(tables) > 1 else None
            groups.setdefault(outcome(quality(first.sample, first.record), after), []).append(key)
    chosen = choose(dict(sorted(groups.items())), n, seed)
    for row, (evaluation, table) in enumerate(zip(evaluations, tables, strict=True)):
        for column, key in enumerate(chosen):
            axes = figure.add_subplot(grid[row, column])
            result = table[key]
            axes.imshow(draw_answer(result, side=300))
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0:
                question = _short(task_class(result.sample.task).asked(result.sample), 78 // n)
                axes.set_title(question, size=9.5, color=_INK, pad=6)
            if column == 0:
                axes.set_ylabel(evaluation.title, size=10.5, color=_INK, weight="bold", labelpad=8)
            task = task_class(result.sample.task)
            good = quality(result.sample, result.record)
            axes.text(
                0.97,
                0.03,
                task.outcome(result.sample, result.record),
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                size=8.5,
                color="white",
                bbox={
                    "boxstyle": "round,pad=0.3",
                    "lw": 0,
                    "fc": "#15803d" if good > 1 - 1e-9 else "#c81e4a" if good <= 1e-9 else "#b45309",
                },
            )


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
