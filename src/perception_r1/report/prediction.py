"""One answer as a picture: what the model pointed at on the image, and what it said below it (beside it for text)."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from perception_r1.data.files import atomic_write
from perception_r1.data.images import open_image
from perception_r1.data.show import label_font
from perception_r1.evaluate.results import Result
from perception_r1.tasks import task_class
from perception_r1.types import AnswerTarget, TextTarget

_GROUND, _INK, _SOFT = (255, 255, 255), (20, 24, 31), (86, 96, 112)
_MARGIN = 20
Colour = tuple[int, int, int]
_COLOURS: tuple[Colour, ...] = (
    (37, 99, 235),
    (219, 39, 119),
    (5, 150, 105),
    (217, 119, 6),
    (124, 58, 237),
    (220, 38, 38),
    (8, 145, 178),
)


def draw_prediction(result: Result, *, side: int = 900) -> Image.Image:
    """The picture with the answer's boxes and points, and a caption with question and answer; no ground truth.

    Each label has a colour of its own; counted objects are numbered.

    Args:
        result: an answered sample; its target is not looked at.
        side: of the picture's longer side, in pixels.
    """
    picture = _annotated(result, side)
    title, lines = _caption(result)
    beside = isinstance(result.sample.target, TextTarget)
    width = max(picture.width, 480) if beside else picture.width
    size = max(14, side // 50)
    font, bold = label_font(size, "".join(lines)), label_font(size, title, bold=True)
    columns = max(20, int((width - 2 * _MARGIN) / (0.55 * size)))
    wrapped = [part for line in lines for part in (textwrap.wrap(line, columns) or [""])]
    step = round(1.4 * size)
    height = 2 * _MARGIN + step * (len(wrapped) + 1)
    if beside:
        canvas = Image.new("RGB", (picture.width + width, max(picture.height, height)), _GROUND)
        canvas.paste(picture, (0, 0))
        x, y = picture.width + _MARGIN, _MARGIN
    else:
        canvas = Image.new("RGB", (width, picture.height + height), _GROUND)
        canvas.paste(picture, (0, 0))
        x, y = _MARGIN, picture.height + _MARGIN
    draw = ImageDraw.Draw(canvas)
    draw.text((x, y), title, fill=_INK, font=bold)
    for number, line in enumerate(wrapped, start=1):
        draw.text((x, y + number * step), line, fill=_SOFT, font=font)
    return canvas


def _annotated(result: Result, side: int) -> Image.Image:
    sample, record = result.sample, result.record
    image = open_image(str(sample.image))
    scale = side / max(image.size)
    picture = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(picture)
    size, line = max(11, side // 60), max(2, side // 300)
    labels = [*record.pred_labels, *([None] * (len(record.pred_xyxy) - len(record.pred_labels)))]
    order = list(dict.fromkeys(labels))
    tags: list[tuple[float, float, str, Colour]] = []
    number, task = 0, task_class(sample.task)
    for box, label in zip(record.pred_xyxy, labels, strict=True):
        if box is None:
            continue
        number += 1
        x1, y1, x2, y2 = (value * scale for value in box)
        colour = _COLOURS[order.index(label) % len(_COLOURS)]
        corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        draw.rectangle(corners, outline=(255, 255, 255), width=line + 2)
        draw.rectangle(corners, outline=colour, width=line)
        text = task.tag(number, label)
        if text:
            tags.append((corners[0], corners[1], text[:24], colour))
    for x, y, text, colour in tags:  # last: no box is drawn over a name
        font = label_font(size, text, bold=True)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 6
        y = max(0, y - height) if y >= height else y
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + 3 - left, y + 3 - top), text, fill=(255, 255, 255), font=font)
    for point in record.pred_points:
        if point is not None:
            x, y, r = point[0] * scale, point[1] * scale, 2 * line
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_COLOURS[0], outline=(255, 255, 255), width=2)
    return picture


def save_prediction(result: Result, path: str | Path, *, side: int = 900) -> Path:
    """``draw_prediction`` as a PNG file."""
    with atomic_write(path, "wb") as stream:
        draw_prediction(result, side=side).save(stream, format="PNG", optimize=True)
    return Path(path)


def answer_line(result: Result) -> str:
    """The answer in a few words: how many objects of which labels, the text, or why nothing could be read."""
    sample, record = result.sample, result.record
    if isinstance(sample.target, (TextTarget, AnswerTarget)):
        return record.answer or "(no text)"
    if record.status in ("malformed", "empty") or not record.n_pred:
        return {"empty": "nothing there"}.get(record.status, f"unreadable: {result.completion.text[:200]!r}")
    unusable = "" if record.n_valid == record.n_pred else f" ({record.n_pred - record.n_valid} unusable)"
    labels = [
        label for box, label in zip(record.pred_xyxy, record.pred_labels, strict=False) if box is not None and label
    ]
    counts = ", ".join(f"{labels.count(label)} × {label}" for label in dict.fromkeys(labels))
    listed = counts if task_class(sample.task).labelled and counts else f"{record.n_valid} found"
    return listed + unusable + (" (cut at the limit)" if record.status == "truncated" else "")


def _caption(result: Result) -> tuple[str, list[str]]:
    sample = result.sample
    return task_class(sample.task).asked(sample)[:200], answer_line(result).split("\n")
