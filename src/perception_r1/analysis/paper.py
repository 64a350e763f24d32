"""The page of a grid: tables of measured figures beside the published ones, plots, and whether directions agree.

Everything is written from the results, so the page says what the runs say, whichever way they fall.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception_r1.analysis.grid import Grid, Job, jobs_of
from perception_r1.analysis.grid_table import Row, markdown
from perception_r1.data.files import atomic_write
from perception_r1.evaluate.results import read_json_file, read_lines
from perception_r1.progress import format_duration

Tables = Sequence[tuple[Grid, Sequence[Row]]]

_INK, _SOFT, _LINE, _ACCENT, _OTHER, _PUBLISHED = "#14181f", "#566070", "#e3e7ed", "#4338ca", "#6b7789", "#d9820f"

_INTRODUCTION = """\
The ablations of Perception-R1 (Yu et al., [arXiv 2504.07954](https://arxiv.org/abs/2504.07954)) on handwritten digits:
the same recipe changes, a tiny Qwen3-VL and scenes of a few digits instead of Qwen2-VL-2B, Qwen2.5-VL-3B and the data
sets of the field. A model a thousand times smaller on a toy task cannot repeat the paper's figures; what can be
compared is the *direction* of each change. This page is written by the command below from what was run; nothing in it
was picked by hand.
"""


def write_paper(tables: Tables, out: str | Path, page: str | Path, *, command: str) -> Path:
    """Write the page and its plots (in a folder beside it, named as the page).

    Args:
        tables: grids with their rows.
        out: the folder of the runs.
        page: the Markdown file.
        command: what makes it.
    """
    page = Path(page)
    folder = page.with_suffix("")
    plots = {grid.name: _plots(grid, rows, Path(out), folder) for grid, rows in tables}
    parts = [_head(tables, Path(out), command)]
    for grid, rows in tables:
        parts.append(_section(grid, rows, [f"{folder.name}/{plot}" for plot in plots[grid.name]]))
    parts.append(_missing(tables))
    with atomic_write(page) as stream:
        stream.write("\n\n".join(part for part in parts if part) + "\n")
    return page


def verdicts(tables: Tables) -> Counter[str]:
    """How many rows with a published difference agree in direction: yes, no, unclear, even."""
    return Counter(row.direction for _, rows in tables for row in rows if row.direction)


def _head(tables: Tables, out: Path, command: str) -> str:
    found = verdicts(tables)
    compared = sum(found.values())
    runs = sum(
        seed is not None for grid, _ in tables for job in jobs_of([grid], out) if job.is_done for seed in [job.seed]
    )
    tally = ", ".join(
        f"{word}: {found[key]}"
        for key, word in (
            ("yes", "agrees"),
            ("no", "disagrees"),
            ("unclear", "unclear, since the interval of the measured difference holds 0"),
            ("even", "even in the paper"),
        )
        if found[key]
    )
    lines = [
        "# The paper in miniature",
        "",
        _INTRODUCTION,
        "",
        "```sh",
        command,
        "```",
        "",
        f"**Direction of the {compared} differences that are published, too: {tally}.**"
        if compared
        else "**No run has finished yet.**",
        "",
        _settings(tables, out, runs),
    ]
    return "\n".join(lines)


def _settings(tables: Tables, out: Path, runs: int) -> str:
    jobs = [job for grid, _ in tables for job in jobs_of([grid], out) if job.is_done]
    if not jobs:
        return ""
    seconds = sum(
        float((read_json_file(file) or {}).get("seconds", 0)) for job in jobs for file in job.folder.glob("*/run.json")
    )
    environment = (
        next((read_json_file(file) for job in jobs for file in sorted(job.folder.glob("*/environment.json"))), None)
        or {}
    )
    usual = {g.title or g.name: words for g, _ in tables if (words := _usual_grpo(jobs_of([g], out)))}
    n_eval = {read_json_file(job.results / "metrics.json")["n"] for job in jobs}
    packages = environment.get("packages", {})
    machine = ", ".join(dict.fromkeys(environment.get("devices", ["cpu"])))
    facts = [
        f"{runs} trainings, {format_duration(seconds)} of training in all (of resumed ones the last part) on {machine} "
        f"(threads a run: {environment.get('threads', '?')}); torch {packages.get('torch', '?')}, "
        f"transformers {packages.get('transformers', '?')}, trl {packages.get('trl', '?')}",
        *(f"GRPO ({title}), where a row does not say otherwise: {words}" for title, words in usual.items()),
        f"evaluation: {' or '.join(str(n) for n in sorted(n_eval))} held-out scenes of digits that no training saw, "
        "the same for every model, greedy",
        "figures in per cent with 95 % intervals; intervals are of two levels (seeds and scenes, both resampled), "
        "differences are paired by scene and seed",
        "the seed sets the training scenes, SFT and GRPO; rewards are the paper's released ones (preset `released`) "
        "unless a row says otherwise",
    ]
    return "\n".join(f"- {fact[:1].upper() + fact[1:]}." for fact in facts if fact)


def _usual_grpo(jobs: Sequence[Job]) -> str:
    """The settings that most runs of a grid have."""
    keys = ("max_steps", "per_device_train_batch_size", "num_generations", "learning_rate", "beta")
    files = [file for job in jobs if job.is_done for file in job.folder.glob("grpo/config.json")]
    found = [(read_json_file(file) or {}).get("grpo") or {} for file in files]
    usual = Counter(tuple(t.get(key) for key in keys) for t in found).most_common(1)
    return _grpo_words(*usual[0][0]) if usual else ""


def _grpo_words(steps: Any, batch: Any, group: Any, rate: Any, beta: Any) -> str:
    prompts = batch // group if isinstance(batch, int) and isinstance(group, int) and group else "?"
    return (
        f"{steps} steps of {prompts} prompts × {group} rollouts, learning rate {_given(rate)}, "
        f"KL weight {_given(beta)} (the paper: 1e-06 and 0.04)"
    )


def _given(value: Any) -> str:
    return "TRL's own" if value is None else f"{value:g}"


def _section(grid: Grid, rows: Sequence[Row], plots: Sequence[str]) -> str:
    lines = [f"## {grid.title or grid.name}", "", markdown(grid, rows), ""]
    lines += [f"![{grid.title or grid.name}]({plot})\n" for plot in plots]
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.title)
    lines += [f"- {', '.join(names)}: {note}" for note, names in notes.items()]
    if grid.note:
        lines.append(f"- {grid.note}")
    clear = [row for row in rows if row.difference and not row.difference["low"] <= 0 <= row.difference["high"]]
    lines += [f"- {_sentence(grid, rows, row)}" for row in clear] or (
        ["- No row differs clearly from the one it stands against."] if any(row.difference for row in rows) else []
    )
    return "\n".join(lines)


def _sentence(grid: Grid, rows: Sequence[Row], row: Row) -> str:
    """A clear difference in words."""
    assert row.difference is not None
    other = next(r.title for r in rows if r.case == row.against)
    points = f"{abs(100 * row.difference['value']):.1f} points"
    word = "above" if row.difference["value"] > 0 else "below"
    agrees = {"yes": "; so it is in the paper", "no": "; in the paper it is the other way round"}.get(row.direction, "")
    return f"**{row.title}** lies {points} {word} “{other}”{agrees}."


def _missing(tables: Tables) -> str:
    lines = []
    for grid, rows in tables:
        gone = [
            f"{row.title} ({'all' if not row.seeds else 'seeds ' + ', '.join(map(str, row.missing))})"
            for row in rows
            if row.missing and grid.cases[row.case].same_as is None
        ]
        if gone:
            lines.append(f"- {grid.title or grid.name}: {'; '.join(gone)}.")
    if not lines:
        return ""
    return "\n".join(["## What is missing so far", "", "The command goes on with these.", "", *lines])


def _plots(grid: Grid, rows: Sequence[Row], out: Path, folder: Path) -> list[str]:
    """The plots that the results so far allow, as SVG files; their names."""
    done = [row for row in rows if row.metric is not None]
    if len(done) < 2:
        return []
    names = [_dots(grid, done, folder)]
    curves = _curves(grid, done, out)
    if curves:
        names.append(_learning(grid, curves, folder))
    return names


def _figure(width: float, height: float) -> Any:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "perception-r1"  # the same results give the same file
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, folder: Path, name: str) -> str:
    with atomic_write(folder / name, "wb") as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return name


def _dots(grid: Grid, rows: Sequence[Row], folder: Path) -> str:
    """Each case: its seeds, their mean and interval; and beside, the published differences with the measured ones."""
    shown = [row for row in rows if row.published_difference is not None and row.difference is not None]
    figure = _figure(11.5 if shown else 7, 0.42 * max(len(rows), 3) + 1.3)
    grids = figure.add_gridspec(1, 2 if shown else 1, wspace=0.75, width_ratios=[1.25, 1][: 2 if shown else 1])
    axes = figure.add_subplot(grids[0])
    for y, row in enumerate(rows):
        metric = row.metric or {}
        colour = _ACCENT if row.case == grid.reference else _OTHER
        axes.plot(
            [100 * metric["low"], 100 * metric["high"]], [y, y], color=colour, lw=5, alpha=0.25, solid_capstyle="round"
        )
        axes.plot([100 * value for value in row.by_seed], [y] * len(row.by_seed), "|", color=colour, ms=9, mew=1.4)
        axes.plot([100 * metric["value"]], [y], "o", color=colour, ms=7)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_title(f"{grid.metric}, % (bars: 95 % interval, ticks: seeds)", loc="left", size=9.5, color=_INK)
    _plain(axes, "x")
    if shown:
        axes = figure.add_subplot(grids[1])
        for y, row in enumerate(shown):
            change = row.difference or {}
            axes.plot(
                [100 * change["low"], 100 * change["high"]],
                [y, y],
                color=_ACCENT,
                lw=5,
                alpha=0.25,
                solid_capstyle="round",
            )
            axes.plot([100 * change["value"]], [y], "o", color=_ACCENT, ms=7, label="measured" if y == 0 else None)
            axes.plot(
                [row.published_difference], [y], "D", color=_PUBLISHED, ms=6, label="published" if y == 0 else None
            )
        axes.axvline(0, color=_SOFT, lw=1)
        titles = {row.case: row.title for row in rows}
        axes.set_yticks(
            range(len(shown)), [f"{row.title}\nvs {titles.get(row.against or '', row.against)}" for row in shown]
        )
        axes.set_ylim(len(shown) - 0.5, -0.6)
        axes.set_title("difference, points", loc="left", size=9.5, color=_INK)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.45, 1.0), ncols=2)
        _plain(axes, "x")
        axes.tick_params(axis="y", labelsize=7.5)
    return _save(figure, folder, f"{grid.name}.svg")


def _curves(grid: Grid, rows: Sequence[Row], out: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The reward of the sampled answers by step, mean over seeds, of the cases that GRPO trained with one reward."""
    curves = {}
    for row in rows:
        case = grid.cases[row.case]
        if case.stage != "rl" or case.same_as or any(key.startswith("reward") for key in case.set):
            continue
        by_step: dict[int, list[float]] = {}
        for job in jobs_of([grid], out):
            file = job.folder / "grpo" / "metrics.jsonl"
            if job.case == row.case and job.is_done and file.is_file():
                for log in read_lines(file):
                    if isinstance(log.get("reward"), float):
                        by_step.setdefault(int(log["step"]), []).append(log["reward"])
        if by_step:
            steps = sorted(by_step)
            curves[row.title] = steps, [statistics.fmean(by_step[step]) for step in steps]
    return curves


def _learning(grid: Grid, curves: dict[str, tuple[list[int], list[float]]], folder: Path) -> str:

    figure = _figure(7, 3)
    axes = figure.add_subplot()
    colours = (_ACCENT, "#0d9488", "#db2777", "#d9820f", "#8b5cf6", "#6b7789")
    for index, (title, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=colours[index % 6], lw=0.7, alpha=0.25)
        axes.plot(x, _moving_mean(y), color=colours[index % 6], lw=2, label=title)
    axes.set_title("Reward of the sampled answers by step, mean of the seeds", loc="left", size=9.5, color=_INK)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes, "y")
    return _save(figure, folder, f"{grid.name}-reward.svg")


def _moving_mean(values: Sequence[float], half: int = 4) -> list[float]:
    return [statistics.fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _plain(axes: Any, grid: str) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelcolor=_SOFT, labelsize=8.5)
    axes.grid(axis=grid, color=_LINE, lw=0.9)
    axes.set_axisbelow(True)
