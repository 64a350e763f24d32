"""Pictures of answers as PNG: ground truth dashed green, the model's boxes blue on a target, else red."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from perception_r1.data.files import atomic_write
from perception_r1.data.images import open_image
from perception_r1.data.show import label_font
from perception_r1.errors import DataError
from perception_r1.evaluate.results import Result
from perception_r1.report.gallery import drawn_boxes
from perception_r1.tasks import task_class
from perception_r1.types import XYXY, BoxTarget, PointTarget

TRUTH, HIT, MISS = (18, 183, 106), (59, 130, 246), (244, 63, 94)
_SMOOTH = 2  # drawn larger by this factor, then reduced: even edges


def draw_answer(result: Result, *, side: int = 320) -> Image.Image:
    """The sample's picture, its longer side ``side`` pixels, with the target and the answer drawn on it.

    A picture that is missing leaves grey ground.
    """
    sample = result.sample
    try:
        img = open_image(sample.image) if sample.image else None
    except DataError:
        img = None
    size = sample.image_size or (img.size if img else (1, 1))
    scale = _SMOOTH * side / max(size)
    large = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    canvas = img.resize(large, Image.Resampling.BICUBIC) if img else Image.new("RGB", large, (226, 230, 236))
    draw = ImageDraw.Draw(canvas)
    line = max(2, round(0.011 * _SMOOTH * side))
    if isinstance(sample.target, BoxTarget):
        for box in sample.target.boxes_xyxy:
            _dashed(draw, _scaled(box, scale), TRUTH, line)
    elif isinstance(sample.target, PointTarget):
        for x, y in sample.target.points_xy:
            _dot(draw, x * scale, y * scale, 2 * line, TRUTH)
    for shape in drawn_boxes(result):
        box, colour = _scaled(shape["box"], scale), HIT if shape["hit"] else MISS
        draw.rectangle(box, outline=colour, width=line)
        if task_class(sample.task).labelled and shape["label"]:
            _tag(draw, box, shape["label"], colour, max(10, round(0.045 * _SMOOTH * side)))
    for point in result.record.pred_points:
        if point is not None:
            _dot(draw, point[0] * scale, point[1] * scale, round(1.4 * line), HIT)
    return canvas.resize((max(1, large[0] // _SMOOTH), max(1, large[1] // _SMOOTH)), Image.Resampling.LANCZOS)


def save_answer(result: Result, path: str | Path, *, side: int = 640) -> Path:
    """``draw_answer`` as a PNG file."""
    with atomic_write(path, "wb") as stream:
        draw_answer(result, side=side).save(stream, format="PNG", optimize=True)
    return Path(path)


def _scaled(box: XYXY, scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (value * scale for value in box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _dashed(draw: ImageDraw.ImageDraw, box: XYXY, colour: tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = box
    dash, gap = 3.2 * width, 2.2 * width
    for (ax, ay), (bx, by) in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = abs(bx - ax) + abs(by - ay)
        at = 0.0
        while at < length:
            end = min(at + dash, length)
            a, b = at / length, end / length
            draw.line((ax + a * (bx - ax), ay + a * (by - ay), ax + b * (bx - ax), ay + b * (by - ay)), colour, width)
            at = end + gap


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", fill=colour, width=2)


def _tag(draw: ImageDraw.ImageDraw, box: XYXY, label: str, colour: tuple[int, int, int], size: int) -> None:
    font = label_font(size, label, bold=True)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    x, y = box[0], max(0.0, box[1] - (bottom - top) - 0.5 * size)
    draw.rectangle((x, y, x + right - left + 0.6 * size, y + bottom - top + 0.5 * size), fill=colour)
    draw.text((x + 0.3 * size - left, y + 0.25 * size - top), label, fill="white", font=font)
