"""How the report says things: names of metrics, figures with their units, the sentence at the top."""

from __future__ import annotations

from typing import Any

from perception_r1.tasks import TASKS

PLAIN_NUMBERS = {"mae", "reward"}
LOWER_IS_BETTER = {"mae", "edit_distance"}


def metric_name(task: str, metric: str) -> str:
    """What a metric is called."""
    names = {"reward": "Mean reward", **(TASKS[task].metric_names if task in TASKS else {})}
    return names.get(metric, metric.replace("_", " "))


def figure(metric: str, value: float) -> str:
    """A value: per cent with one decimal, or a plain number."""
    return f"{value:.3f}" if metric in PLAIN_NUMBERS else f"{100 * value:.1f} %"


def bare(metric: str, value: float) -> str:
    """A value without its unit."""
    return f"{value:.3f}" if metric in PLAIN_NUMBERS else f"{100 * value:.1f}"


def signed(metric: str, value: float) -> str:
    """A difference with its sign, in points or plain."""
    return (f"{value:+.3f}" if metric in PLAIN_NUMBERS else f"{100 * value:+.1f}").replace("-", "−")


def span(metric: str, entry: dict[str, Any], *, sign: bool = False) -> str:
    """The interval of a value or difference, or nothing where it has none."""
    if "low" not in entry:
        return ""
    show = signed if sign else bare
    return f"{show(metric, entry['low'])} to {show(metric, entry['high'])}"


def is_clear(entry: dict[str, Any]) -> bool:
    """Whether the interval of a difference leaves out 0."""
    return bool(entry["low"] > 0 or entry["high"] < 0)


def headline(task: str, metric: str, rows: list[dict[str, Any]], n: int, unit: str = "samples") -> str:
    """The result in one or two sentences, with its intervals; says so when there is no clear difference.

    Args:
        task: name of the task.
        metric: the primary metric.
        rows: one a model, first to last: ``title``, ``entry`` and (but for the first) ``difference``.
        n: number of samples.
        unit: what they are called.
    """
    name = metric_name(task, metric)
    first, last = rows[0], rows[-1]
    if len(rows) == 1:
        return f"{first['title']}: {_lower(name)} {figure(metric, first['entry']['value'])} on {n} {unit}."
    gain = last["difference"]
    points = "" if metric in PLAIN_NUMBERS else " points"
    moved = f"from {figure(metric, first['entry']['value'])} to {figure(metric, last['entry']['value'])}"
    change = f"{signed(metric, gain['value'])}{points}, 95 % interval {span(metric, gain, sign=True)}"
    if is_clear(gain):
        verb = "raised" if gain["value"] > 0 else "lowered"
        text = f"{last['title']} {verb} {_lower(name)} {moved} on {n} {unit} ({change})."
    else:
        text = f"No clear change: {last['title']} took {_lower(name)} {moved} on {n} {unit} ({change}, which holds 0)."
    for row in rows[1:-1]:
        text += (
            f" {row['title']} came to {figure(metric, row['entry']['value'])} "
            f"({signed(metric, row['difference']['value'])}{points})."
        )
    return text


def duration(seconds: float | None) -> str:
    """A time for people, or a dash."""
    from perception_r1.progress import format_duration

    return "—" if seconds is None else format_duration(seconds)


def _lower(name: str) -> str:
    return name if name[:2].isupper() or name.startswith(("F1", "METEOR", "BLEU")) else name[0].lower() + name[1:]
