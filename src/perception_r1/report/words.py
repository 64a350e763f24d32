"""How the report says things: names of metrics, figures with their units, the sentence at the top."""

from __future__ import annotations

from typing import Any

NAMES = {
    ("counting", "accuracy"): "Count accuracy",
    ("counting", "mae"): "Mean error of the count",
    ("counting", "box_f1@0.5"): "F1 of the boxes at IoU 0.5",
    ("grounding", "acc@0.1"): "Accuracy at IoU 0.1",
    ("grounding", "acc@0.3"): "Accuracy at IoU 0.3",
    ("grounding", "acc@0.5"): "Accuracy at IoU 0.5",
    ("grounding", "acc@0.75"): "Accuracy at IoU 0.75",
    ("grounding", "acc@0.95"): "Accuracy at IoU 0.95",
    ("grounding", "avg"): "Mean of the three accuracies",
    ("grounding", "mean_iou"): "Mean IoU",
    ("grounding", "center_acc"): "Centre accuracy",
    ("detection", "f1@0.5"): "F1 at IoU 0.5",
    ("detection", "precision@0.5"): "Precision at IoU 0.5",
    ("detection", "recall@0.5"): "Recall at IoU 0.5",
    ("detection", "count_accuracy"): "Right number of boxes",
    ("detection", "AP"): "COCO AP",
    ("detection", "AP50"): "COCO AP50",
    ("detection", "AP75"): "COCO AP75",
    ("detection", "AP_logprob"): "COCO AP, boxes scored by log-probability",
    ("detection", "AP50_logprob"): "COCO AP50, boxes scored by log-probability",
    ("detection", "AP75_logprob"): "COCO AP75, boxes scored by log-probability",
    ("ocr", "edit_similarity"): "Edit similarity",
    ("ocr", "edit_distance"): "Edit distance",
    ("ocr", "exact_match"): "Exact match",
    ("ocr", "f1"): "F1 of token sets",
    ("ocr", "precision"): "Precision of token sets",
    ("ocr", "recall"): "Recall of token sets",
    ("ocr", "bleu"): "BLEU",
    ("ocr", "meteor"): "METEOR",
}
PLAIN_NUMBERS = {"mae", "reward"}
LOWER_IS_BETTER = {"mae", "edit_distance"}


def metric_name(task: str, metric: str) -> str:
    """What a metric is called."""
    return NAMES.get((task, metric)) or {"reward": "Mean reward"}.get(metric, metric.replace("_", " "))


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
