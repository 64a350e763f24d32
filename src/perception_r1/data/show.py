"""Pictures of rows: a contact sheet with boxes, labels, points and captions, to see that data is what it should be."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from perception_r1.data.files import atomic_write
from perception_r1.data.images import open_image
from perception_r1.errors import DataError
from perception_r1.tasks import task_class
from perception_r1.types import AnswerTarget, BoxTarget, CountTarget, PointTarget, Sample, TextTarget

# ten colours that differ in hue and stay visible on photographs
PALETTE = (
    (230, 57, 70),
    (29, 132, 206),
    (42, 157, 74),
    (244, 140, 6),
    (131, 56, 214),
    (0, 160, 160),
    (230, 73, 163),
    (138, 98, 30),
    (94, 107, 230),
    (122, 160, 0),
)
_PAPER, _CARD, _INK, _FAINT, _MAT = (242, 243, 246), (255, 255, 255), (28, 31, 38), (112, 118, 130), (228, 230, 235)
_GAP, _PAD, _WIDTH, _HEIGHT, _SCALE, _LINE, _CHIP = 18, 10, 400, 300, 2, 20, 15
_LATIN = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_LATIN_BOLD = ("DejaVuSans-Bold.ttf", "LiberationSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf")
_WIDE = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")

_MOST = 150  # letters that may fit a line, however narrow

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]


class _Run(NamedTuple):
    """A piece of a caption's line, with a square of a label's colour before it where ``chip`` is set."""

    text: str
    colour: Colour = _INK
    bold: bool = False
    chip: Colour | None = None

    @property
    def width(self) -> float:
        return label_font(14, self.text, bold=self.bold).getlength(self.text) + (_CHIP if self.chip is not None else 0)


def contact_sheet(samples: Sequence[Sample], *, columns: int | None = None) -> Image.Image:
    """Cards in a grid, one a sample: the image with its target drawn on it, and what is asked and known below.

    The number of columns keeps the sheet about as wide as high. Boxes get a colour a label.

    Raises:
        DataError: no samples, or an image that cannot be opened.
    """
    if not samples:
        raise DataError("there are no rows to show")
    columns = columns or next(n for n in range(1, 99) if n * n * _WIDTH >= len(samples) * _HEIGHT or n >= len(samples))
    cards = [card(sample) for sample in samples]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(item.height for item in row) for row in rows]
    width = len(rows[0]) * (cards[0].width + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for index, item in enumerate(row):
            framed = Image.new("RGB", (item.width, height), _CARD)  # cards of a row end at the same line
            framed.paste(item)
            sheet.paste(framed, (_GAP + index * (item.width + _GAP), top), _rounded(framed.size, 8))
        top += height + _GAP
    return sheet


def save_sheet(
    samples: Sequence[Sample], path: str | os.PathLike[str], *, n: int = 12, seed: int = 0, columns: int | None = None
) -> int:
    """Draws ``n`` samples chosen at random (all where there are fewer) to a PNG. Returns how many."""
    chosen = list(samples)
    if len(chosen) > n:
        chosen = [chosen[index] for index in sorted(random.Random(f"{seed}/show").sample(range(len(chosen)), n))]
    sheet = contact_sheet(chosen, columns=columns)
    if Path(path).suffix.lower() != ".png":
        raise DataError("the sheet is a PNG (name it something.png)", path=path)
    with atomic_write(path, "wb") as stream:
        sheet.save(stream, format="PNG")
    return len(chosen)


def card(sample: Sample) -> Image.Image:
    """One sample's card."""
    picture = draw_target(sample)
    lines = _caption(sample)
    height = _PAD + _HEIGHT + _PAD + _LINE * len(lines) + _PAD
    result = Image.new("RGB", (_WIDTH + 2 * _PAD, height), _CARD)
    mat = Image.new("RGB", (_WIDTH, _HEIGHT), _MAT)
    mat.paste(picture, ((_WIDTH - picture.width) // 2, (_HEIGHT - picture.height) // 2))
    result.paste(mat, (_PAD, _PAD))
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(lines):
        x, y = _PAD + 2.0, _PAD + _HEIGHT + _PAD + number * _LINE
        for run in line:
            if run.chip is not None:
                draw.rounded_rectangle((x, y + 3, x + 10, y + 13), radius=2, fill=run.chip)
                x += _CHIP
            draw.text((x, y), run.text, fill=run.colour, font=label_font(14, run.text, bold=run.bold))
            x += run.width - (_CHIP if run.chip is not None else 0)
    return result


def draw_target(sample: Sample, *, width: int = _WIDTH, height: int = _HEIGHT) -> Image.Image:
    """The sample's image fitted into ``width`` × ``height``, its boxes, labels or points drawn on it."""
    if sample.image is None:
        raise DataError(f"sample {sample.id!r} has no image to show", field="image")
    img = open_image(sample.image)
    factor = min(width / img.width, height / img.height)
    # drawn at twice the size and reduced: circles and thin lines come out smooth
    large = (max(round(img.width * factor * _SCALE), 1), max(round(img.height * factor * _SCALE), 1))
    canvas = img.resize(large, Image.Resampling.LANCZOS)
    # boxes are pixels of the original, whatever size the file's copy here has
    original = sample.image_size or img.size
    sx, sy = large[0] / original[0], large[1] / original[1]
    draw = ImageDraw.Draw(canvas, "RGBA")
    target = sample.target
    tags: list[_Tag] = []
    small: list[_Rectangle] = []
    if isinstance(target, BoxTarget):
        labels = target.labels or ("",) * len(target.boxes_xyxy)
        colours = _colours(labels)
        # large ones first, so that small ones lie on top
        for index in sorted(range(len(labels)), key=lambda index: -_area(target.boxes_xyxy[index])):
            x1, y1, x2, y2 = target.boxes_xyxy[index]
            corners = (x1 * sx, y1 * sy, x2 * sx, y2 * sy)
            line = 2 * _SCALE
            if min(corners[2] - corners[0], corners[3] - corners[1]) < 24 * _SCALE:
                # the line goes around a small object, which it would cover otherwise
                corners = (corners[0] - line, corners[1] - line, corners[2] + line, corners[3] + line)
                small.append(corners)
            draw.rectangle(corners, outline=(255, 255, 255, 150), width=line + 2)
            draw.rectangle(corners, outline=colours[labels[index]], width=line)
            name = task_class(sample.task).tag(index + 1, labels[index])
            if name:
                tags.append(_Tag(corners, name, colours[labels[index]]))
    elif isinstance(target, PointTarget):
        radius = 5 * _SCALE
        for x, y in target.points_xy:
            spot = (x * sx - radius, y * sy - radius, x * sx + radius, y * sy + radius)
            draw.ellipse(spot, fill=PALETTE[0], outline=(255, 255, 255), width=2 * _SCALE)
    _draw_tags(draw, canvas.size, tags, small)
    return canvas.resize((max(large[0] // _SCALE, 1), max(large[1] // _SCALE, 1)), Image.Resampling.LANCZOS)


_Rectangle = tuple[float, float, float, float]


class _Tag(NamedTuple):
    box: _Rectangle
    name: str
    colour: Colour


def _draw_tags(draw: ImageDraw.ImageDraw, size: tuple[int, int], tags: list[_Tag], small: list[_Rectangle]) -> None:
    """Write names at the boxes' corners.

    One that would cover a name or a small object moves, or is left out: its box has the label's colour, which the
    caption explains.
    """
    taken = list(small)
    for (left, top, _, bottom), name, colour in sorted(tags, key=lambda tag: (tag.box[1], tag.box[0])):
        font = label_font(11 * _SCALE, name, bold=True)
        width, height = draw.textlength(name, font=font) + 8 * _SCALE, 15 * _SCALE
        start_x = min(max(left, 0), max(size[0] - width, 0))
        for start_y in (top - height, top, bottom, bottom - height):
            start_y = min(max(start_y, 0), size[1] - height)
            place = (start_x, start_y, start_x + width, start_y + height)
            if not any(_cover(place, other) for other in taken):
                taken.append(place)
                draw.rounded_rectangle(place, radius=3 * _SCALE, fill=(*colour, 225))
                draw.text((start_x + 4 * _SCALE, start_y + height / 2), name, fill="white", font=font, anchor="lm")
                break


def _colours(labels: Sequence[str]) -> dict[str, Colour]:
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(dict.fromkeys(labels))}


def _cover(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _caption(sample: Sample) -> list[list[_Run]]:
    """Lines below the picture: what is asked, what is known, where from."""
    target, task = sample.target, task_class(sample.task)
    lines = [[_Run(line, bold=True)] for line in _wrapped(_drawable(task.asked(sample)), 2, bold=True)]
    if task.labelled and isinstance(target, BoxTarget) and target.labels:
        lines += _legend(target.labels)
    else:
        lines += [
            [_Run(line)] for line in _wrapped(_drawable(_known(sample)), 4 if isinstance(target, TextTarget) else 2)
        ]
    size = "" if sample.image_size is None else f"   {sample.image_size[0]} × {sample.image_size[1]}"
    lines.append([_Run(_shortened(f"{sample.id}{size}", label_font(14, sample.id)), _FAINT)])
    return lines


def _legend(labels: Sequence[str], max_lines: int = 3) -> list[list[_Run]]:
    """Each label with its colour and number, in lines; the last says how many labels did not fit."""
    counts = Counter(labels)
    runs = [
        _Run(f"{label} × {counts[label]}" if counts[label] > 1 else label, chip=colour)
        for label, colour in _colours(labels).items()
    ]
    lines: list[list[_Run]] = [[]]
    for index, run in enumerate(runs):
        more = _Run(f"+ {len(runs) - index} more", _FAINT)
        reserved = more.width + 12 if len(lines) == max_lines and index + 1 < len(runs) else 0
        if lines[-1] and sum(item.width for item in lines[-1]) + run.width + reserved > _WIDTH:
            if len(lines) == max_lines:
                lines[-1].append(more)
                break
            lines.append([])
        lines[-1].append(run._replace(text=run.text + "   "))
    return lines


def _known(sample: Sample) -> str:
    target = sample.target
    if isinstance(target, BoxTarget):
        if not target.boxes_xyxy:
            return "nothing there"
        if len(target.boxes_xyxy) == 1 and not task_class(sample.task).matches_many:
            return "box  " + ", ".join(f"{value:g}" for value in target.boxes_xyxy[0])
        return f"{len(target.boxes_xyxy)} boxes" if len(target.boxes_xyxy) > 1 else "1 box"
    if isinstance(target, PointTarget):
        return f"{len(target.points_xy)} points" if len(target.points_xy) != 1 else "1 point"
    if isinstance(target, CountTarget):
        return f"{target.count} (only the number is known)"
    if isinstance(target, TextTarget):
        return " ".join(target.text.split()) or "no text"
    assert isinstance(target, AnswerTarget)
    number = len(target.visual_annotations)
    return f"{target.answer}   ({number} fact{'s' * (number != 1)})" if number else target.answer


def _drawable(content: str) -> str:
    """``content``, or how long it is where this machine has no font for its script (boxes would say nothing)."""
    if not _is_wide(content) or any(_loads(name) for name in _WIDE):
        return content
    return f"{len(content)} characters (no font for this script here; Noto Sans CJK has one)"


def _wrapped(content: str, max_lines: int, *, bold: bool = False) -> list[str]:
    """``content`` in lines that fit the card; the last ends in "…" where something is left out."""
    font = label_font(14, content, bold=bold)
    content = content[: _MOST * max_lines]  # a whole page would be measured letter by letter
    words = content.split() if any(character.isspace() for character in content) else [content]
    lines: list[str] = []
    while words and len(lines) < max_lines:
        if len(lines) == max_lines - 1:
            lines.append(_shortened(" ".join(words), font))
            break
        line = words.pop(0)
        if font.getlength(line) > _WIDTH:  # a long word, or a script without spaces
            cut = next(n for n in range(len(line), 0, -1) if n == 1 or font.getlength(line[:n]) <= _WIDTH)
            words.insert(0, line[cut:])
            line = line[:cut]
        else:
            while words and font.getlength(f"{line} {words[0]}") <= _WIDTH:
                line = f"{line} {words.pop(0)}"
        lines.append(line)
    return lines


def _shortened(content: str, font: Font) -> str:
    if font.getlength(content) <= _WIDTH:
        return content
    content = content[:_MOST]
    while content and font.getlength(content + "…") > _WIDTH:
        content = content[:-1]
    return content + "…"


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 2 - 1, size[1] * 2 - 1), radius=radius * 2, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)


def label_font(size: int, content: str, *, bold: bool = False) -> Font:
    """A font for ``content``: one of the system's where it has any, else the one that Pillow brings (Latin only)."""
    return _loadedlabel_font(size, (_WIDE if _is_wide(content) else ()) + (_LATIN_BOLD if bold else _LATIN))


def _is_wide(content: str) -> bool:
    """Whether there is Chinese, Japanese or Korean in it."""
    return any(ord(character) >= 0x2E80 for character in content)


@lru_cache(maxsize=32)
def _loads(name: str) -> bool:
    try:
        ImageFont.truetype(name, 10)
    except OSError:
        return False
    return True


@lru_cache(maxsize=32)
def _loadedlabel_font(size: int, names: tuple[str, ...]) -> Font:
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
