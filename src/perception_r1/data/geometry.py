"""The embedded default for reasoning: plane-geometry diagrams with question, answer and exact visual facts, seeded.

Thirteen kinds of problem (`KINDS`). What the picture shows is not said in the question, so that an answer needs the
picture; every fact is one that the lexical judge (`reasoning.facts`) reads back.
"""

from __future__ import annotations

import colorsys
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from perception_r1.data.geometry_problems import KINDS, Rng
from perception_r1.data.plane_figure import Style, draw
from perception_r1.errors import DataError
from perception_r1.types import AnswerTarget, Sample

Split: TypeAlias = Literal["train", "heldout"]

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I and no O: they look like figures; O names centres


def diagram(
    rng: Rng,
    *,
    kinds: Sequence[str] = (),
    most: int = 12,
    size: int = 448,
    letters: float = 0.055,
    names: str = "random",
    turn: bool = True,
    id: str = "diagram",
) -> tuple[Image.Image, Sample]:
    """Draw one problem in memory.

    Args:
        rng: the only source of chance.
        kinds: names of `KINDS` to draw from; all when empty.
        most: the largest length.
        size: side of the square picture in pixels, at least 64.
        letters: height of letters as a share of the side.
        names: ``random`` letters for the points, or ``abc`` (A, B, C, …).
        turn: whether figures are turned and mirrored at random.
        id: the sample's id.

    Returns:
        The RGB picture and its ``Sample`` (``image`` is None).

    Raises:
        DataError: an argument out of range.
    """
    chosen = list(kinds) or list(KINDS)
    for kind in chosen:
        if kind not in KINDS:
            raise DataError(f"unknown kind of diagram {kind!r} (known: {', '.join(KINDS)})")
    if names not in ("random", "abc"):
        raise DataError(f"names of points are 'random' or 'abc', not {names!r}")
    if size < 64 or most < 4:
        raise DataError("diagrams need size >= 64 and most >= 4")
    kind = chosen[int(rng.integers(len(chosen)))]
    order = rng.permutation(len(_LETTERS)) if names == "random" else np.arange(len(_LETTERS))
    problem = KINDS[kind](rng, [_LETTERS[i] for i in order[:8]], most)
    figure = (
        problem.figure.turned(float(rng.uniform(0, 2 * math.pi)), bool(rng.random() < 0.5)) if turn else problem.figure
    )
    image = draw(figure, size, _style(rng, letters))
    target = AnswerTarget(problem.answer, problem.facts)
    return image, Sample(id, "geometry", problem.question, target, image_size=(size, size))


def _style(rng: Rng, letters: float) -> Style:
    """White or tinted paper, dark ink of some hue, thin or thick lines."""
    paper = [round(255 * v) for v in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.93, 1.0))]
    ink = [round(255 * v) for v in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.05, 0.4))]
    return Style(tuple(paper), tuple(ink), float(rng.uniform(0.004, 0.008)), letters)  # type: ignore[arg-type]


def make_diagrams(
    n: int,
    *,
    seed: int,
    split: Split = "train",
    kinds: Sequence[str] = (),
    most: int = 12,
    size: int = 448,
    letters: float = 0.055,
    names: str = "random",
    turn: bool = True,
    out_dir: str | Path,
) -> list[Sample]:
    """Draw ``n`` problems, write them as PNG files into ``out_dir`` and return their samples.

    The same arguments write the same pixels and return the same samples; see ``diagram`` for their meaning. ``train``
    and ``heldout`` come from different streams of chance.
    """
    if split not in get_args(Split):
        raise DataError(f"diagrams have no split {split!r}: choose train or heldout")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, int(split == "heldout"), 51])
    samples = []
    tag = f"{split}-{'-'.join(kinds) or 'all'}-{most}-{size}px-s{seed}"
    # Other settings, other files: the pictures of two sources may share a folder.
    drawn = "".join([f"-l{letters:g}" * (letters != 0.055), f"-{names}" * (names != "random"), "-upright" * (not turn)])
    for index in range(n):
        name = f"{tag}-{index:05d}"
        image, sample = diagram(
            rng, kinds=kinds, most=most, size=size, letters=letters, names=names, turn=turn, id=name
        )
        file = f"{tag}{drawn}-{index:05d}"
        path, temporary = folder / f"{file}.png", folder / f".{file}.{os.getpid()}.png"
        image.save(temporary, compress_level=1)
        temporary.replace(path)  # another run may be reading the same picture
        samples.append(replace(sample, image=str(path.resolve())))
    return samples
