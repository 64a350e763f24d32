"""The benchmarks of Perception-R1's tables by name: where their official files lie, and how they are asked.

A benchmark is found in a folder by the names that its files have where they are published: the RefCOCO releases
(``refs(unc).p`` beside ``instances.json``), VLM-R1's and PR1's JSON (``refcoco_val.json``), PixMo-Count as parquet or
as saved by ``datasets``, Fox (``en_page_ocr.json``), COCO (``instances_val2017.json``), and PR1's own ``eval`` folder
(``jsons/{grounding,counting,ocr,detection}`` beside ``images/``), all unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from perception_r1.data.fields import did_you_mean
from perception_r1.data.files import parse_lines
from perception_r1.data.sources import SourceSpec, load_source
from perception_r1.errors import DataError, UserError
from perception_r1.types import Sample, TaskName


@dataclass(frozen=True, slots=True)
class Place:
    """A file of the benchmark: a pattern below the data folder, and how it is read.

    ``whole`` reads the folder itself (a table in several files) when the pattern matches anything in it.
    """

    pattern: str
    source: str
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One evaluation.

    Attributes:
        name: as in ``--benchmark``.
        title: for people.
        task: of its samples.
        places: where its files may be, the first that is there is taken.
        max_new_tokens: limit of an answer in the protocol.
        table: the benchmark's key in ``published.json``.
        columns: our metric → column of that table; figures there are per cent.
    """

    name: str
    title: str
    task: TaskName
    places: tuple[Place, ...]
    max_new_tokens: int
    table: str
    columns: Mapping[str, str]

    @property
    def lmms_name(self) -> str:
        """What the benchmark is called as a task of lmms-eval: ``pr1_`` and its name, in letters that it takes."""
        return "pr1_" + re.sub(r"[^a-z0-9]+", "_", self.name.lower().replace("+", "plus"))


class Found(NamedTuple):
    """A benchmark's samples, with what was left out; ``annotations`` is the file that COCO's figures are taken from."""

    benchmark: Benchmark
    path: Path
    samples: list[Sample]
    annotations: Path | None
    notes: list[str]


def _refcoco(folder: str, title: str, stem: str, by: str, splits: str) -> list[Benchmark]:
    made = []
    for split in splits.split():
        json_names = (f"jsons/grounding/{stem}_{split}.json", f"grounding/{stem}_{split}.json", f"{stem}_{split}.json")
        refs = {"split": split, "options": {"split_by": by}}
        made.append(
            Benchmark(
                f"{folder}-{split}",
                f"{title} {split}",
                "grounding",
                (
                    Place(f"{folder}/refs({by}).p", "refcoco", **refs),  # type: ignore[arg-type]
                    Place(f"refs({by}).p", "refcoco", **refs),  # type: ignore[arg-type]
                    *(Place(name, "records") for name in json_names),
                ),
                512,
                folder,
                {"acc@0.5": f"{split}@50", "acc@0.75": f"{split}@75", "acc@0.95": f"{split}@95", "avg": f"{split}Avg"},
            )
        )
    return made


def _pixmo(short: str, split: str) -> Benchmark:
    own = f"pixmo_count_{split}540_counting_problems_label.jsonl"
    tables = [f"{folder}{split}{end}" for folder in ("", "pixmo-count/") for end in (".parquet", ".jsonl", ".json")]
    return Benchmark(
        f"pixmo-count-{short}",
        f"PixMo-Count {split}",
        "counting",
        (
            *(Place(f"{folder}{own}", "pixmo") for folder in ("jsons/counting/", "counting/", "")),
            *(Place(name, "pixmo") for name in tables),
            Place(f"data/{split}-*.parquet", "pixmo", split=split, whole=True),
            Place("dataset_dict.json", "pixmo", split=split, whole=True),
        ),
        512,
        "pixmo-count",
        {"accuracy": short},
    )


def _fox(short: str, stem: str) -> Benchmark:
    folders = ("jsons/ocr/", "ocr/", "focus_benchmark_test/", "")
    names = ("edit_distance", "f1", "precision", "recall", "bleu", "meteor")
    return Benchmark(
        f"pageocr-{short}",
        f"PageOCR {short}",
        "ocr",
        tuple(Place(f"{folder}{stem}_page_ocr.json", "fox") for folder in folders),
        2048,
        "pageocr",
        {name: f"{name}/{short}" for name in names},
    )


_COCO = Benchmark(
    "coco2017",
    "COCO val2017",
    "detection",
    (
        *(
            Place(f"{folder}instances_val2017.json", "coco", options={"crowd": "keep"})
            for folder in ("annotations/", "coco/annotations/", "")
        ),
        # PR1's file is about images resized to its model's grid; boxes are scaled back to the images' own pixels.
        *(
            Place(f"{folder}coco_val2017.json", "coco", options={"crowd": "keep", "sizes": "image"})
            for folder in ("jsons/detection/", "detection/", "")
        ),
    ),
    4096,
    "coco2017",
    {"AP": "AP", "AP50": "AP50", "AP75": "AP75"},
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *_refcoco("refcoco", "RefCOCO", "refcoco", "unc", "val testA testB"),
        *_refcoco("refcoco+", "RefCOCO+", "refcocop", "unc", "val testA testB"),
        *_refcoco("refcocog", "RefCOCOg", "refcocog", "umd", "val test"),
        _pixmo("val", "validation"),
        _pixmo("test", "test"),
        _fox("en", "en"),
        _fox("zh", "cn"),
        _COCO,
    )
}
# Samples of each whole benchmark: an evaluation of fewer is not the published figure.
SIZES = {
    "refcoco-val": 10834,
    "refcoco-testA": 5657,
    "refcoco-testB": 5095,
    "refcoco+-val": 10758,
    "refcoco+-testA": 5726,
    "refcoco+-testB": 4889,
    "refcocog-val": 4896,
    "refcocog-test": 9602,
    "pixmo-count-val": 540,
    "pixmo-count-test": 540,
    "pageocr-en": 112,
    "pageocr-zh": 100,
    "coco2017": 5000,
}
GROUPS: dict[str, tuple[str, ...]] = {
    "refcoco": tuple(name for name in BENCHMARKS if name.startswith("refcoco-")),
    "refcoco+": tuple(name for name in BENCHMARKS if name.startswith("refcoco+-")),
    "refcocog": tuple(name for name in BENCHMARKS if name.startswith("refcocog-")),
    "grounding": tuple(name for name in BENCHMARKS if name.startswith("refcoco")),
    "pixmo-count": ("pixmo-count-val", "pixmo-count-test"),
    "pageocr": ("pageocr-en", "pageocr-zh"),
}
_DATASET_FOLDERS = ("refcoco", "refcoco+", "refcocog")


def expand(names: str) -> list[Benchmark]:
    """The benchmarks of a comma-separated list of names and groups.

    Example:
        >>> [benchmark.name for benchmark in expand("refcocog,coco2017")]
        ['refcocog-val', 'refcocog-test', 'coco2017']
    """
    found: dict[str, Benchmark] = {}
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name not in BENCHMARKS and name not in GROUPS:
            known = [*GROUPS, *BENCHMARKS]
            raise UserError(f"unknown benchmark {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
        found |= {item: BENCHMARKS[item] for item in GROUPS.get(name, (name,))}
    if not found:
        raise UserError("--benchmark is empty")
    return list(found.values())


def load_benchmark(benchmark: Benchmark, data: Path, images: Path | None = None, *, missing: str = "error") -> Found:
    """The samples of a benchmark from its official files.

    Args:
        benchmark: which.
        data: the folder of its files, or the file itself.
        images: root folder of the images, where it is not beside the files.
        missing: what to do about an image that is not there: "error", or "skip" (PixMo-Count's links die).

    Raises:
        DataError: the files are not there, or a row is bad.
    """
    place, path = _find(benchmark, data)
    notes: list[str] = []
    spec = SourceSpec(
        place.source,
        str(path),
        str(images) if images is not None else None,
        place.split,
        options={**place.options, "missing": missing} if missing != "error" else dict(place.options),
    )
    samples = load_source(spec, task=benchmark.task, note=notes.append)
    if benchmark.task == "ocr":  # Fox asks for the page in its own words; PR1, and so we, in those of the prompt
        samples = [replace(sample, question="") for sample in samples]
    return Found(benchmark, path, samples, path if place.source == "coco" else None, notes)


def _find(benchmark: Benchmark, data: Path) -> tuple[Place, Path]:
    if data.is_file():
        return _of_file(benchmark, data), data
    if not data.is_dir():
        raise DataError("no such file or folder (correct --data)", path=data)
    for place in benchmark.places:
        if place.pattern.startswith("refs(") and _is_another(data.name, benchmark.table):
            continue  # refs(unc).p is the name of RefCOCO's file and of RefCOCO+'s
        for folder in (data, data / "eval"):
            found = sorted(folder.glob(place.pattern))
            if found:
                return place, folder if place.whole else found[0]
    looked = ", ".join(place.pattern for place in benchmark.places)
    raise DataError(f"holds no file of {benchmark.title} (looked for {looked}; or name the file itself)", path=data)


def _is_another(folder: str, dataset: str) -> bool:
    return folder.lower() in _DATASET_FOLDERS and folder.lower() != dataset


def _of_file(benchmark: Benchmark, file: Path) -> Place:
    """How to read a file of any name: as the one whose published name it has, else by its ending."""
    for place in benchmark.places:
        if not place.whole and fnmatch(file.name, Path(place.pattern).name):
            return place
    if file.suffix == ".jsonl" and _is_ours(file):
        return Place(file.name, "jsonl")
    by_ending: dict[str, Callable[[Place], bool]] = {
        ".p": lambda place: place.source == "refcoco",
        ".json": lambda place: place.source in ("records", "fox", "coco", "pixmo"),
        ".jsonl": lambda place: place.source in ("records", "fox", "pixmo"),
        ".parquet": lambda place: place.source == "pixmo",
    }
    for place in benchmark.places:
        reads = by_ending.get(file.suffix)
        if reads is not None and reads(place) and not place.whole:
            return replace(place, split=place.split if place.source == "refcoco" else None)
    raise DataError(f"is not a file that {benchmark.title} is read from (see docs/evaluation.md)", path=file)


def _is_ours(file: Path) -> bool:
    """Whether the first line is a canonical row: those name their task."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        first = stream.readline()
    try:
        rows = [row for _, row in parse_lines(first, file)]
    except DataError:
        return False
    return bool(rows) and isinstance(rows[0], dict) and "task" in rows[0]
