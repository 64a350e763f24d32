"""Sources of samples: a name, a path and options, as in a recipe's ``data`` table, become a list of samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, cast

from perception_r1.data import coco, fox, geometry3k, hf, mathvista, mix, pixmo, records, refcoco
from perception_r1.data.digits import TASKS as DIGIT_TASKS
from perception_r1.data.fields import MissingImageError, did_you_mean
from perception_r1.data.jsonl import read_jsonl
from perception_r1.data.reading import MISSING, ON_ERROR, Opened, Request, collect
from perception_r1.errors import DataError
from perception_r1.tasks import TASKS
from perception_r1.types import Sample, TaskName

Note = Callable[[str], None]


@dataclass(frozen=True)
class SourceSpec:
    """One source.

    Attributes:
        source: the format: a key of ``SOURCES``.
        path: the file or folder, relative to the recipe's base folder.
        images: root folder of the images; default the format's own guess.
        split: which part, where the format has parts.
        count: how many rows to draw for the mix; default all.
        share: which share of the mix's total to draw instead.
        options: what else the format takes. Every format takes ``missing`` (images that are not there: error, skip,
            keep the row unchecked) and ``on_error`` (bad entries: raise, skip).
    """

    source: str
    path: str | None = None
    images: str | None = None
    split: str | None = None
    count: int | None = None
    share: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Any) -> SourceSpec:
        """``spec`` itself, or made from a mapping (unknown keys are refused) or any object with these attributes."""
        if isinstance(spec, cls):
            return spec
        names = [item.name for item in dataclass_fields(cls)]
        if isinstance(spec, Mapping):
            for key in spec:
                if key not in names:
                    raise DataError(
                        f"a source has no key {key!r}{did_you_mean(key, names)} (it has: {', '.join(names)})"
                    )
            if "source" not in spec:
                raise DataError(f"a source lacks the key 'source' (expected one of {', '.join(SOURCES)})")
            return cls(**spec)
        return cls(**{name: getattr(spec, name) for name in names})


def guess_source(path: str | os.PathLike[str]) -> str:
    """The format of a file or folder, where its name leaves no doubt.

    Raises:
        DataError: there is no such file, or its name does not tell.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    if path.suffix == ".jsonl":
        return "jsonl"
    if path.suffix == ".p" or (path.is_dir() and any(path.glob("refs(*).p"))):
        return "refcoco"
    if path.name.startswith("instances") and path.suffix == ".json":
        return "coco"
    if path.name.endswith("_page_ocr.json"):
        return "fox"
    if path.suffix == ".parquet" or (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return "hf"
    raise DataError(f"its name does not tell the format (add --from: {', '.join(SOURCES)})", path=path)


def load_source(
    spec: SourceSpec | Mapping[str, Any] | Any,
    *,
    task: str,
    base_dir: str | os.PathLike[str] = ".",
    note: Note = lambda sentence: None,
    on_bad: Callable[[DataError], None] | None = None,
) -> list[Sample]:
    """All samples of a source (``count`` and ``share`` are the mix's business); image paths are absolute.

    Args:
        spec: a ``SourceSpec``, a mapping of its keys, or a recipe's source.
        task: the task to make rows for.
        base_dir: the folder that relative paths start from.
        note: told, in a sentence each, what was left out.
        on_bad: told every bad row, which is then left out whatever the options say; the result may be empty.

    Raises:
        DataError: an unknown source or option, a task that the source has no rows for, bad data.
    """
    spec = SourceSpec.of(spec)
    if task not in TASKS:
        raise DataError(f"unknown task {task!r}{did_you_mean(task, TASKS)} (expected one of {', '.join(TASKS)})")
    if spec.source not in SOURCES:
        hint = did_you_mean(spec.source, SOURCES)
        raise DataError(f"unknown source {spec.source!r}{hint} (expected one of {', '.join(SOURCES)})")
    load, tasks = SOURCES[spec.source]
    if task not in tasks:
        raise DataError(f"source {spec.source!r} has no rows for task {task!r} (it has: {', '.join(tasks)})")
    if spec.path is None and spec.source not in GENERATED:
        raise DataError(f"source {spec.source!r} needs a path")
    options = dict(spec.options)
    if spec.source in GENERATED and spec.count is not None:
        options.setdefault("n", spec.count)
    for name, allowed in (("missing", MISSING), ("on_error", ON_ERROR)):
        if options.get(name, allowed[0]) not in allowed:
            raise DataError(f"option {name!r} is {options[name]!r} (expected {' or '.join(allowed)})")
    base = Path(base_dir)
    path = base / spec.path if spec.path is not None else hf.default_cache().parent / spec.source
    if not path.exists() and spec.source not in GENERATED:
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no such file or folder{did_you_mean(path.name, siblings)}", path=path)
    request = Request(
        path=path,
        task=task,
        images=base / spec.images if spec.images is not None else None,
        split=spec.split,
        missing=options.pop("missing", MISSING[0]),
        on_error=options.pop("on_error", ON_ERROR[0]),
        options=options,
        note=note,
        on_bad=on_bad,
    )
    return load(request)


def load_mix(
    specs: Iterable[SourceSpec | Mapping[str, Any] | Any],
    *,
    task: str,
    base_dir: str | os.PathLike[str] = ".",
    total: int | None = None,
    seed: int = 0,
    note: Note = lambda sentence: None,
) -> list[Sample]:
    """The samples of several sources, drawn by their counts and shares and shuffled (see ``mix.mix``)."""
    loaded = [SourceSpec.of(spec) for spec in specs]
    sources = [(load_source(spec, task=task, base_dir=base_dir, note=note), spec.count, spec.share) for spec in loaded]
    return mix.mix(sources, total, seed, names=[f"{spec.source} {spec.path or ''}".strip() for spec in loaded])


def reader(open_source: Callable[[Request], Opened]) -> Callable[[Request], list[Sample]]:
    """A loader for `SOURCES` from a function that opens a file."""
    return lambda request: collect(open_source(request), request)


def _jsonl(request: Request) -> list[Sample]:
    request.no_split("jsonl")
    _no_options(request, "jsonl")
    bad: list[DataError] = []
    missing: list[DataError] = []

    def left_out(error: DataError) -> None:
        if isinstance(error, MissingImageError) and request.missing == "skip":
            missing.append(error)
        elif request.on_error == "raise":
            raise error
        else:
            bad.append(error)

    samples = read_jsonl(
        request.path,
        request.task,
        images=request.images,
        on_error=request.on_bad or left_out,
        check_images=request.missing != "keep",
    )
    for what, errors in (("rows left out because their image is missing", missing), ("bad rows left out", bad)):
        if errors:
            request.note(f"{what}: {len(errors)}; the first: {errors[0]}")
    bad = bad or missing
    if not samples and bad:
        raise bad[0]
    return samples


def _digits(request: Request) -> list[Sample]:
    """Scenes of handwritten digits, written to the path; options are the arguments of ``digits.make_scenes``."""
    import inspect

    from perception_r1.data import digits

    known = [
        name for name in inspect.signature(digits.make_scenes).parameters if name not in {"task", "split", "out_dir"}
    ]
    for name in request.options:
        if name not in known:
            raise DataError(
                f"source 'digits' has no option {name!r}{did_you_mean(name, known)} (it has: {', '.join(known)})"
            )
    if "n" not in request.options:
        raise DataError("source 'digits' needs a count, or the option 'n' (how many scenes)")
    out_dir = request.images or request.path
    arguments: dict[str, Any] = {"seed": 0, **request.options, "split": request.split or "train", "out_dir": out_dir}
    return digits.make_scenes(cast(TaskName, request.task), **arguments)


def _diagrams(request: Request) -> list[Sample]:
    """Generated geometry diagrams, written to the path; options are the arguments of ``geometry.make_diagrams``."""
    import inspect

    from perception_r1.data import geometry

    known = [name for name in inspect.signature(geometry.make_diagrams).parameters if name not in {"split", "out_dir"}]
    for name in request.options:
        if name not in known:
            raise DataError(
                f"source 'diagrams' has no option {name!r}{did_you_mean(name, known)} (it has: {', '.join(known)})"
            )
    if "n" not in request.options:
        raise DataError("source 'diagrams' needs a count, or the option 'n' (how many diagrams)")
    out_dir = request.images or request.path
    arguments: dict[str, Any] = {"seed": 0, **request.options, "split": request.split or "train", "out_dir": out_dir}
    return geometry.make_diagrams(**arguments)


def _no_options(request: Request, source: str) -> None:
    if request.options:
        raise DataError(f"source {source!r} has no option {next(iter(request.options))!r} (it has: missing, on_error)")


SOURCES: dict[str, tuple[Callable[[Request], list[Sample]], Collection[str]]] = {
    "jsonl": (_jsonl, TASKS),
    "coco": (reader(coco.open_coco), coco.TASKS),
    "records": (reader(records.open_records), records.TASKS),
    "refcoco": (reader(refcoco.open_refcoco), refcoco.TASKS),
    "pixmo": (reader(pixmo.open_pixmo), pixmo.TASKS),
    "fox": (reader(fox.open_fox), fox.TASKS),
    "hf": (reader(hf.open_hf), hf.TASKS),
    "digits": (_digits, DIGIT_TASKS),
    "diagrams": (_diagrams, ("geometry",)),
    "geometry3k": (reader(geometry3k.open_geometry3k), ("geometry",)),
    "mathvista": (reader(mathvista.open_mathvista), ("geometry",)),
}
"""Name → (loader, tasks that it has rows for)."""

GENERATED = ("digits", "diagrams")
"""Sources that draw their own pictures: the path is where to."""
