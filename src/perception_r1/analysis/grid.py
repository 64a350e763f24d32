"""What a grid is: one recipe, a few changes of it, some seeds; read from YAML, and laid out as runs in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perception_r1.errors import RecipeError
from perception_r1.recipe.schema import read_yaml

_STRICT = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Published(BaseModel):
    """A figure of ``assets/published.json``: a benchmark's table, a row and a column of it."""

    model_config = _STRICT

    table: str
    column: str
    row: str | None = None
    against: str | None = None


class Case(BaseModel):
    """One row of the table.

    ``set`` changes the recipe (dotted keys or nested tables). ``stage``: ``rl`` (GRPO; after SFT where the recipe says
    ``warm_start: sft``), ``sft``, or ``base`` (evaluation only, one for all seeds). ``after``: start from the model of
    this other case, of the same seed. ``same_as``: not run at all, the results are those of this other case (a row of
    two tables). ``against``: the case that this one is compared with, instead of the grid's ``reference``.
    ``published``: the row of the grid's published table, or table, column, row and the row ``against`` which it stands.
    """

    model_config = _STRICT

    title: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    stage: Literal["rl", "sft", "base"] = "rl"
    after: str | None = None
    same_as: str | None = None
    against: str | None = None
    published: str | Published | None = None
    note: str = ""


class Grid(BaseModel):
    """A whole grid; ``load_grid`` reads one.

    ``also``: further metrics to show, without intervals. ``threads``: of torch, for tiny models on a shared machine.
    ``last``: changes that win over those of the cases (``--set``).
    """

    model_config = _STRICT

    name: str
    title: str = ""
    note: str = ""
    recipe: str
    metric: str
    also: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    threads: int | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    reference: str
    published: Published | None = None
    cases: dict[str, Case]
    last: dict[str, Any] = Field(default_factory=dict, exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _names_exist(self) -> Grid:
        for name, case in self.cases.items():
            for key, other in (("after", case.after), ("against", case.against), ("same_as", case.same_as)):
                if other is not None and other not in self.cases:
                    raise ValueError(f"case {name!r}: {key} names no case ({other!r})")
            if case.after is not None and self.cases[case.after].stage == "base":
                raise ValueError(f"case {name!r}: after {case.after!r}: a case without training has no model")
            for key, other in (("after", case.after), ("same_as", case.same_as)):
                if other is not None and (original := self.cases[other].same_as) is not None:
                    raise ValueError(f"case {name!r}: {key} {other!r}, which is not run: name {original!r}")
        if self.reference not in self.cases:
            raise ValueError(f"reference names no case ({self.reference!r})")
        return self

    def against(self, name: str) -> str | None:
        """The case that a case is compared with; None for one that stands alone."""
        other = self.cases[name].against or self.reference
        return None if other == name else other

    def source(self, name: str) -> str:
        """The case whose runs a row shows: itself, or the one that it is the same as."""
        return self.cases[name].same_as or name


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a grid: a case and a seed (None for one that is not trained), and its folder."""

    grid: Grid
    case: str
    seed: int | None
    folder: Path

    @property
    def title(self) -> str:
        """For a line of output."""
        return f"{self.grid.name} {self.case}" + ("" if self.seed is None else f" seed {self.seed}")

    @property
    def results(self) -> Path:
        """Where its evaluation lies."""
        return self.folder / "eval"

    @property
    def is_done(self) -> bool:
        """Whether it was trained and evaluated."""
        return (self.results / "metrics.json").is_file()


def load_grid(path: str | Path) -> Grid:
    """Read a grid.

    Raises:
        RecipeError: no such file, no YAML, or a key or value that is not understood.
    """
    path = Path(path)
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such grid") from None
    except Exception as error:
        raise RecipeError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of keys such as 'recipe' and 'cases'")
    try:
        return Grid(**{**values, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{path}: {f'field {where!r}: ' if where else ''}{message}") from None


def jobs_of(grids: Sequence[Grid], out: str | Path, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """The runs in the order to do them, so that a cut leaves whole tables.

    Rows with a published figure (and what they start from or stand against) before the others; among these seed by
    seed; of one seed grid by grid.

    Args:
        grids: what to run.
        out: a run's folder is ``OUT/GRID/CASE/seed-N`` (``OUT/GRID/CASE`` without a seed).
        only: patterns of ``GRID/CASE``; a bare name means the whole grid. What a chosen case starts from comes along.
        seeds: only these.
    """
    jobs: list[tuple[tuple[int, ...], Job]] = []
    order = list(dict.fromkeys(seed for grid in grids for seed in grid.seeds))
    for place, grid in enumerate(grids):
        cases = list(grid.cases)
        wanted = [name for name in cases if not only or any(_fits(grid.name, name, pattern) for pattern in only)]
        chosen = _with_sources(grid, wanted)
        published = [name for name in cases if grid.cases[name].published is not None]
        first = _with_sources(grid, published, against=True)
        for name in chosen:
            if grid.cases[name].same_as is not None:
                continue
            for seed in (None,) if grid.cases[name].stage == "base" else grid.seeds:
                if seed is not None and seeds and seed not in seeds:
                    continue
                turn = -1 if seed is None else order.index(seed)
                folder = Path(out) / grid.name / name
                job = Job(grid, name, seed, folder if seed is None else folder / f"seed-{seed}")
                jobs.append(((name not in first, turn, place, _depth(grid, name), cases.index(name)), job))
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def _with_sources(grid: Grid, names: Sequence[str], *, against: bool = False) -> set[str]:
    """Cases and all that they start from, or show the results of (and, if asked, are compared with)."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            case = grid.cases[name]
            others = [case.after, case.same_as, grid.against(name) if against else None]
            left += [other for other in others if other is not None]
    return found


def _depth(grid: Grid, name: str) -> int:
    depth, before = 0, grid.cases[name].after
    while before is not None and depth < len(grid.cases):
        depth, before = depth + 1, grid.cases[before].after
    return depth


def _fits(grid: str, case: str, pattern: str) -> bool:
    return fnmatchcase(f"{grid}/{case}", pattern if "/" in pattern else f"{pattern}/*")
