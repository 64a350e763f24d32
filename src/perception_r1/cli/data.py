"""``pr1 data convert`` and ``pr1 data show``: any format into canonical rows, and rows into a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_r1.errors import DataError

if TYPE_CHECKING:
    from perception_r1.types import Sample

data_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Convert data into rows, and draw them.",
)

_FORMATS = (
    "jsonl, coco, records (PR1, VLM-R1), refcoco, pixmo, fox, hf (saved data sets, parquet), geometry3k, mathvista, "
    "digits or diagrams"
)

Source = Annotated[Path, typer.Argument(help="The file or folder to read.", show_default=False)]
From = Annotated[str | None, typer.Option("--from", help=f"Its format: {_FORMATS}.", show_default="by its name")]
Task = Annotated[str | None, typer.Option(help="Rows for grounding, counting, detection, ocr or geometry.")]
Images = Annotated[Path | None, typer.Option(help="Root folder of the images.", show_default="beside SRC")]
Split = Annotated[str | None, typer.Option(help="Which part, where the format has parts (val, testA, val2017, en …).")]
Seed = Annotated[int, typer.Option(help="Seed of the choice.")]
OptionPairs = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the format, as in a recipe. Repeatable."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad entries out instead of stopping at the first.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out entries whose image is not there.")]


@data_app.command()
def convert(
    src: Source,
    out: Annotated[Path, typer.Argument(help="The JSON lines file to write.", show_default=False)],
    task: Annotated[str, typer.Option(help="Rows for grounding, counting, detection, ocr or geometry.")],
    source: From = None,
    images: Images = None,
    split: Split = None,
    count: Annotated[int | None, typer.Option(min=1, help="Only so many rows, chosen at random.")] = None,
    seed: Seed = 0,
    option: OptionPairs = None,
    skip_bad: SkipBad = False,
    skip_missing: SkipMissing = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Convert a data set into canonical rows: one JSON object a line, boxes in pixels of the original image.

    Example: pr1 data convert instances_val2017.json rows.jsonl --from coco --task counting --images val2017
    """
    from perception_r1.data.jsonl import write_jsonl
    from perception_r1.data.mix import mix

    if out.exists() and src.exists() and out.samefile(src):
        raise DataError("is the data to read, and would be lost (name another file to write)", path=out)
    notes: list[str] = []
    options = _options(option, skip_bad, skip_missing)
    samples = _load(src, source, task, images, split, options, notes, n=count)
    if count is not None:
        samples = mix([(samples, count, None)], None, seed, names=[str(src)])
    write_jsonl(out, samples)
    summary = _summary(samples)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **summary, "notes": notes}, ensure_ascii=False))
        return
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    found = ", ".join(f"{number} {_plural(name, number)}" for name, number in summary.items())
    typer.echo(f"{found} → {out}")


@data_app.command()
def show(
    src: Source,
    out: Annotated[Path, typer.Argument(help="The PNG to write.", show_default=False)],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many rows, chosen at random.")] = 12,
    seed: Seed = 0,
    columns: Annotated[int | None, typer.Option(min=1, help="Cards side by side.", show_default="as square")] = None,
    source: From = None,
    task: Task = None,
    images: Images = None,
    split: Split = None,
    option: OptionPairs = None,
    skip_bad: SkipBad = False,
    skip_missing: SkipMissing = False,
) -> None:
    """Draw rows, or any data set directly, as a sheet of pictures with boxes, labels, points and captions.

    Example: pr1 data show rows.jsonl rows.png --n 12
    """
    from perception_r1.data.show import save_sheet

    if out.suffix.lower() != ".png":
        raise DataError("the sheet is a PNG (name it something.png)", path=out)
    notes: list[str] = []
    options = _options(option, skip_bad, skip_missing)
    samples = _load(src, source, task, images, split, options, notes, n=n)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    drawn = save_sheet(samples, out, n=n, seed=seed, columns=columns)
    typer.echo(f"{drawn} of {len(samples)} rows → {out}")


def _load(
    src: Path,
    source: str | None,
    task: str | None,
    images: Path | None,
    split: str | None,
    options: dict[str, Any],
    notes: list[str],
    *,
    n: int | None,
) -> list[Sample]:
    from perception_r1.data.jsonl import read_jsonl
    from perception_r1.data.sources import GENERATED, SourceSpec, guess_source, load_source

    source = source or guess_source(src)
    if task is None and source == "jsonl":  # rows say themselves what they are for
        bad: list[DataError] = []
        skip = options.get("on_error") == "skip"
        samples = read_jsonl(src, images=images, on_error=bad.append if skip else "raise")
        notes.extend(f"left out: {error}" for error in bad[:5])
        return samples
    if task is None:
        raise DataError(
            f"which rows of this {source} data? (add --task detection, counting, grounding or ocr)", path=src
        )
    spec = SourceSpec(
        source=source,
        path=str(src),
        images=None if images is None else str(images),
        split=split,
        count=n if source in GENERATED else None,
        options=options,
    )
    return load_source(spec, task=task, note=notes.append)


def _options(pairs: list[str] | None, skip_bad: bool, skip_missing: bool) -> dict[str, Any]:
    import yaml

    from perception_r1.recipe.schema import read_yaml

    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise DataError(f"--option {pair!r} is not KEY=VALUE (for example: --option crowd=drop)")
        try:
            options[key.strip()] = read_yaml(value)
        except yaml.YAMLError:
            raise DataError(f"--option {pair!r}: the value is not YAML (quote it?)") from None
    if skip_bad:
        options["on_error"] = "skip"
    if skip_missing:
        options["missing"] = "skip"
    return options


def _summary(samples: list[Sample]) -> dict[str, int]:
    from perception_r1.types import BoxTarget, PointTarget

    boxes = sum(len(sample.target.boxes_xyxy) for sample in samples if isinstance(sample.target, BoxTarget))
    points = sum(len(sample.target.points_xy) for sample in samples if isinstance(sample.target, PointTarget))
    counts = {
        "rows": len(samples),
        "images": len({sample.image for sample in samples}),
        "boxes": boxes,
        "points": points,
        "categories": len({name for sample in samples for name in sample.categories}),
    }
    return {name: number for name, number in counts.items() if number or name == "rows"}


def _plural(name: str, number: int) -> str:
    if number != 1:
        return name
    return {"boxes": "box", "categories": "category"}.get(name, name.removesuffix("s"))
