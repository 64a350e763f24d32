"""PixMo-Count (Deitke et al., arXiv 2409.17146): rows of ``image_url``, ``label``, ``count`` and ``points``.

Points are pixels of the image, as the data card says; its validation and test rows have counts only. The card's images
are links, so they are looked up among downloaded files by the row's own path, the content's hash (``image_sha256``),
the link's last part, or the hash of the link. PR1's evaluation files (``question``, ``ground_truth``, ``image_path``)
are read too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from perception_r1.data import fields
from perception_r1.data.fields import Where, shown
from perception_r1.data.files import read_records
from perception_r1.data.hf import read_table, stored_image
from perception_r1.data.reading import ImageFinder, Opened, Request, entry_size, parse_options

TASKS = ("counting",)


@dataclass(frozen=True)
class PixmoOptions:
    """Options of the source.

    Attributes:
        points: what the points are: pixels of the image (the data card), percent or 0..1000 of either side.
        use: "auto" takes points where there are any, else the count; "count" leaves the points out.
        verify: whether an image must have the content that ``image_sha256`` says (links change).
        cache: folder for images that are stored inside the table.
    """

    points: Literal["pixels", "percent", "norm1000"] = "pixels"
    use: Literal["auto", "count"] = "auto"
    verify: bool = False
    cache: str | None = None


def open_pixmo(request: Request) -> Opened:
    """Opens JSON, JSON lines, parquet, or a folder that the ``datasets`` library saved (then ``split`` chooses)."""
    options = parse_options(PixmoOptions, request.options, "pixmo")
    if request.path.is_file() and request.path.suffix != ".parquet":
        request.no_split("pixmo")
        records: Any = read_records(request.path)
    else:
        records = read_table(request)
    parents = (request.path.absolute(), *request.path.absolute().parents[:3])
    guesses = (item for parent in parents for item in (parent / "images", parent / "images/pixmo-count", parent))
    finder = ImageFinder.of(request, guesses, subfolders=("pixmo-count",))

    def to_rows(record: dict[str, Any], where: Where) -> Iterator[dict[str, Any]]:
        label = record.get("label") if record.get("label") is not None else record.get("question")
        image = _image(record, where, finder, options)
        count = record.get("count") if record.get("count") is not None else record.get("ground_truth")
        row: dict[str, Any] = {"id": str(where.line), "image": image, "question": label, "count": count}
        points = _points(record.get("points"), where)
        if points and options.use == "auto":
            size = entry_size(record, image, where)
            row["points"] = [_pixels(point, size, options.points, where) for point in points]
        yield row

    return Opened(request.path, records, to_rows, {"question": "label"})


def _points(value: Any, where: Where) -> list[Any]:
    """Points as a list, from a list of {x, y} or from the {"x": [...], "y": [...]} that ``datasets`` makes of it."""
    if value is None:
        return []
    if isinstance(value, Mapping) and fields.is_list(value.get("x")) and fields.is_list(value.get("y")):
        if len(value["x"]) != len(value["y"]):
            raise where.error(f"{len(value['x'])} x for {len(value['y'])} y", "points")
        return [list(pair) for pair in zip(value["x"], value["y"], strict=True)]
    if not fields.is_list(value):
        raise where.error(f'{shown(value)} is not a list of points (expected [{{"x": …, "y": …}}, …])', "points")
    return list(value)


def _pixels(point: Any, size: tuple[int, int], kind: str, where: Where) -> Any:
    if kind == "pixels":
        return point
    per = 100 if kind == "percent" else 1000
    x, y = fields.point(point, (per, per), where)
    return [round(x * size[0] / per, 3), round(y * size[1] / per, 3)]


def _image(record: Mapping[str, Any], where: Where, finder: ImageFinder, options: PixmoOptions) -> str:
    stored = record.get("image")
    if isinstance(stored, (Mapping, bytes)):
        return stored_image(stored, where, finder, options.cache)
    names = [value for key in ("image", "image_path", "file_name") if isinstance(value := record.get(key), str)]
    digest, url = record.get("image_sha256"), record.get("image_url")
    if isinstance(digest, str):
        names.append(digest)
    if isinstance(url, str):
        # the last part of a link keeps its % escapes in some downloaders and loses them in others
        last = PurePosixPath(urlsplit(url).path).name
        names += [name for name in (last, unquote(last), hashlib.sha256(url.encode()).hexdigest()) if name]
    if not names:
        raise where.error("is missing (expected image, image_path or image_url)", "image")
    path = finder.find(names[0], where, *names[1:])
    if options.verify and isinstance(digest, str) and Path(path).is_file():
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if found != digest:
            raise where.error(
                f"{shown(path)} has hash {found[:12]}…, not {digest[:12]}… (download it again)", "image_sha256"
            )
    return path
