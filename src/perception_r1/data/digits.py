"""The embedded default: scenes of real handwritten digits, with exact boxes, for all four perception tasks.

scikit-learn carries 1,797 digits that people wrote (8 × 8 pixels, the UCI "optical recognition" set). They are split by
image, once and for all, into two thirds ``train`` and one third ``heldout``: a held-out scene only shows digits that
no model was ever trained on. A scene is light paper with a tint and uneven light, on which digits lie in dark ink,
enlarged to about a sixth to a third of the side, without overlap. Boxes are the tight integer bounds of the ink.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from perception_r1.errors import DataError
from perception_r1.types import BoxTarget, Sample, Target, TaskName, TextTarget

Split: TypeAlias = Literal["train", "heldout"]
Placed: TypeAlias = tuple[np.ndarray, int, int]  # a digit's coverage (h, w) in 0..1, and its left upper corner x, y

CATEGORIES: tuple[str, ...] = tuple("0123456789")
DEFAULT_SIZE = 96  # 6 × 6 patches of 16 pixels: a multiple of the qwen3_vl family's grid (32)
TASKS: tuple[TaskName, ...] = ("grounding", "counting", "detection", "ocr")
_INK = 0.2  # coverage above which a pixel counts as ink
_GAP = 2  # pixels kept free between two digits
_KEPT = 16  # sets of scenes whose samples are kept: a process that trains many times draws each set once
_DRAWN: OrderedDict[tuple[TaskName, int, int, Split, int, int, int, Path], tuple[Sample, ...]] = OrderedDict()


@lru_cache(maxsize=1)
def _glyphs() -> dict[str, tuple[tuple[np.ndarray, ...], ...]]:
    """The digits by split and class: ``_glyphs()["train"][7]`` holds (8, 8) float32 arrays, ink coverage in 0..1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digit scenes need scikit-learn: pip install 'perception-r1[train]'") from error
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    cut = 2 * len(images) // 3
    parts = {"train": order[:cut], "heldout": order[cut:]}
    return {
        name: tuple(tuple(images[i] for i in part if digits.target[i] == cls) for cls in range(10))
        for name, part in parts.items()
    }


def _ink(rng: np.random.Generator, split: Split, cls: int, side: int) -> np.ndarray:
    """One digit of class ``cls``, enlarged to about ``side`` pixels and cropped to its ink: (h, w) coverage, 0..1."""
    pool = _glyphs()[split][cls]
    glyph = pool[rng.integers(len(pool))]
    width = max(8, round(side * rng.uniform(0.85, 1.15)))
    large = Image.fromarray(glyph).resize((width, side), Image.Resampling.BICUBIC)
    coverage = np.clip((np.asarray(large) - 0.15) / 0.55, 0.0, 1.0)
    rows, columns = np.where((coverage > _INK).any(1))[0], np.where((coverage > _INK).any(0))[0]
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paper(rng: np.random.Generator, side: int) -> np.ndarray:
    """Light paper with a tint and uneven light: (side, side, 3) float32, 0..1."""
    tint = rng.uniform(0.78, 0.98) + rng.uniform(-0.05, 0.05, 3)
    y, x = np.mgrid[0:side, 0:side] / max(side - 1, 1) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.16) * (np.cos(angle) * x + np.sin(angle) * y)
    grain = rng.normal(0, 0.012, (side, side))
    return (tint[None, None] * light[..., None] + grain[..., None]).astype(np.float32)


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two rectangles (x, y, w, h) come closer than the gap."""
    return (
        a[0] < b[0] + b[2] + _GAP
        and b[0] < a[0] + a[2] + _GAP
        and a[1] < b[1] + b[3] + _GAP
        and b[1] < a[1] + a[3] + _GAP
    )


def _scatter(rng: np.random.Generator, split: Split, classes: list[int], side: int) -> list[Placed]:
    """Digits at random places without overlap: (coverage, x, y) each. Sizes shrink when the paper is full."""
    placed: list[Placed] = []
    for cls in classes:
        scale = rng.uniform(0.20, 0.34)
        while True:
            ink = _ink(rng, split, cls, max(8, round(side * scale)))
            h, w = ink.shape
            free = None
            for _ in range(30):
                x, y = int(rng.integers(1, side - w)), int(rng.integers(1, side - h))
                if not any(_touch((x, y, w, h), (px, py, p.shape[1], p.shape[0])) for p, px, py in placed):
                    free = (ink, x, y)
                    break
            if free is not None:
                placed.append(free)
                break
            scale = max(0.08, scale * 0.85)
    return placed


def _row(rng: np.random.Generator, split: Split, classes: list[int], side: int) -> list[Placed]:
    """Digits in a row from left to right, as a person would write a number. Sizes shrink until the row fits."""
    scale = rng.uniform(0.20, 0.34)
    while True:
        inks = [_ink(rng, split, cls, max(8, round(side * scale * rng.uniform(0.92, 1.0)))) for cls in classes]
        gap = int(rng.integers(_GAP, 6))
        width = sum(ink.shape[1] for ink in inks) + gap * (len(inks) - 1)
        if width <= side - 4:
            break
        scale *= 0.93
    x = int(rng.integers(2, side - width - 1))
    base = int(rng.integers(max(ink.shape[0] for ink in inks) + 3, side - 3))
    placed = []
    for ink in inks:
        placed.append((ink, x, int(np.clip(base - ink.shape[0] + rng.integers(-2, 3), 0, side - ink.shape[0]))))
        x += ink.shape[1] + gap
    return placed


def _classes(rng: np.random.Generator, task: TaskName, n: int) -> list[int]:
    """Which digits a scene shows; in grounding the first one's class appears once."""
    if task != "grounding":
        return [int(c) for c in rng.integers(0, 10, n)]
    wanted = int(rng.integers(10))
    return [wanted, *(int((wanted + d) % 10) for d in rng.integers(1, 10, n - 1))]


def scene(
    rng: np.random.Generator,
    task: TaskName,
    *,
    split: Split = "train",
    min_digits: int = 1,
    max_digits: int = 5,
    size: int = DEFAULT_SIZE,
    id: str = "scene",
) -> tuple[Image.Image, Sample]:
    """Draw one scene in memory.

    Args:
        rng: the only source of chance; the same state draws the same scene.
        task: grounding (one box: the digit whose class appears once; the others are distractors), counting (every
            digit, label ``digit``), detection (every digit with its class) or ocr (a row, read left to right).
        split: which handwritten digits may appear.
        min_digits: fewest digits in the scene, at least 1 (counting and detection: 0 draws empty paper).
        max_digits: most digits; the number is uniform between the two.
        size: side of the square image in pixels, at least 64.
        id: the sample's id.

    Returns:
        The RGB image and its ``Sample`` (``image`` is None), boxes in pixels, ordered from left to right.
    """
    lowest = 0 if task in ("counting", "detection") else 1
    if task not in TASKS:
        raise DataError(f"digit scenes have no task {task!r}: choose one of {', '.join(TASKS)}")
    if split not in get_args(Split):
        raise DataError(f"digit scenes have no split {split!r}: choose train or heldout")
    if not lowest <= min_digits <= max_digits <= 12 or size < 64:
        raise DataError(f"digit scenes need {lowest} <= min_digits <= max_digits <= 12 and size >= 64")
    classes = _classes(rng, task, int(rng.integers(min_digits, max_digits + 1)))
    placed = (_row if task == "ocr" else _scatter)(rng, split, classes, size) if classes else []
    paper = _paper(rng, size)
    colour = rng.uniform(0.02, 0.30) + rng.uniform(-0.02, 0.10, 3)
    boxes: list[tuple[float, float, float, float]] = []
    for ink, x, y in placed:
        h, w = ink.shape
        cover = (ink * rng.uniform(0.85, 1.0))[..., None]
        paper[y : y + h, x : x + w] = paper[y : y + h, x : x + w] * (1 - cover) + colour * cover
        boxes.append((float(x), float(y), float(x + w), float(y + h)))
    image = Image.fromarray((np.clip(paper, 0, 1) * 255).round().astype(np.uint8))
    question, target, categories = _question(task, classes, boxes)
    return image, Sample(id, task, question, target, image_size=(size, size), categories=categories)


def _question(
    task: TaskName, classes: list[int], boxes: list[tuple[float, float, float, float]]
) -> tuple[str, Target, tuple[str, ...]]:
    if task == "grounding":
        return f"digit {classes[0]}", BoxTarget((boxes[0],), (f"digit {classes[0]}",)), ()
    if task == "ocr":
        return "", TextTarget("".join(map(str, classes))), ()
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i][0], boxes[i][1]))
    ordered = tuple(boxes[i] for i in order)
    if task == "counting":
        return "digit", BoxTarget(ordered, ("digit",) * len(ordered)), ()
    return "", BoxTarget(ordered, tuple(str(classes[i]) for i in order)), CATEGORIES


def make_scenes(
    task: TaskName,
    n: int,
    *,
    seed: int,
    split: Split = "train",
    min_digits: int = 1,
    max_digits: int = 5,
    size: int = DEFAULT_SIZE,
    out_dir: str | Path,
) -> list[Sample]:
    """Draw ``n`` scenes, write them as PNG files into ``out_dir`` and return their samples.

    The same arguments write the same pixels and return the same samples; see ``scene`` for their meaning. Scenes that
    this process drew already, and whose files are still there, are not drawn again.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    key = (task, n, seed, split, min_digits, max_digits, size, folder.resolve())
    drawn = _DRAWN.pop(key, None)
    if drawn is None or not all(Path(sample.image or "").is_file() for sample in drawn):
        drawn = tuple(_draw(*key))
    _DRAWN[key] = drawn
    while len(_DRAWN) > _KEPT:
        _DRAWN.popitem(last=False)
    return list(drawn)


def _draw(
    task: TaskName, n: int, seed: int, split: Split, min_digits: int, max_digits: int, size: int, folder: Path
) -> Iterator[Sample]:
    rng = np.random.default_rng([seed, TASKS.index(task), int(split == "heldout"), min_digits, max_digits, size])
    for index in range(n):
        name = f"{task}-{split}-{min_digits}to{max_digits}-{size}px-s{seed}-{index:05d}"
        image, sample = scene(rng, task, split=split, min_digits=min_digits, max_digits=max_digits, size=size, id=name)
        path, temporary = folder / f"{name}.png", folder / f".{name}.{os.getpid()}.png"
        image.save(temporary, compress_level=1)
        temporary.replace(path)  # another run may be reading the same scene
        yield replace(sample, image=str(path))
