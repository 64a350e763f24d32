"""One answer as a picture: what the model pointed at on the image, and what it said below it (beside it for text)."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from perception_r1.data.files import atomic_write
from perception_r1.data.show import label_font
from perception_r1.evaluate.results import Result
from perception_r1.report.draw import draw_answer
from perception_r1.types import TextTarget

_GROUND, _INK, _SOFT = (255, 255, 255), (20, 24, 31), (86, 96, 112)
_MARGIN = 20


def draw_prediction(result: Result, *, side: int = 900) -> Image.Image:
    """The picture with the answer's boxes and points, and a caption with question and answer; no ground truth.

    Args:
        result: an answered sample; its target is not looked at.
        side: of the picture's longer side, in pixels.
    """
    # Boxes are drawn as hits where there is no target to miss.
    picture = draw_answer(result._replace(sample=replace(result.sample, target=TextTarget(""))), side=side)
    title, lines = _caption(result)
    beside = result.sample.task == "ocr"
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


def save_prediction(result: Result, path: str | Path, *, side: int = 900) -> Path:
    """``draw_prediction`` as a PNG file."""
    with atomic_write(path, "wb") as stream:
        draw_prediction(result, side=side).save(stream, format="PNG", optimize=True)
    return Path(path)


def answer_line(result: Result) -> str:
    """The answer in a few words: how many objects of which labels, the text, or why nothing could be read."""
    sample, record = result.sample, result.record
    if sample.task in ("ocr", "geometry"):
        return record.answer or "(no text)"
    if record.status in ("malformed", "empty") or not record.n_pred:
        return {"empty": "nothing there"}.get(record.status, f"unreadable: {result.completion.text[:200]!r}")
    unusable = "" if record.n_valid == record.n_pred else f" ({record.n_pred - record.n_valid} unusable)"
    labels = [
        label for box, label in zip(record.pred_xyxy, record.pred_labels, strict=False) if box is not None and label
    ]
    counts = ", ".join(f"{labels.count(label)} × {label}" for label in dict.fromkeys(labels))
    said = counts if sample.task == "detection" and counts else f"{record.n_valid} found"
    return said + unusable + (" (cut at the limit)" if record.status == "truncated" else "")


def _caption(result: Result) -> tuple[str, list[str]]:
    sample = result.sample
    asked = {
        "grounding": f"Where is: {sample.question}",
        "counting": f"How many: {sample.question}",
        "detection": f"Detect: {', '.join(sample.categories)}",
        "ocr": "Text",
    }.get(sample.task, sample.question)
    return asked[:200], answer_line(result).split("\n")
