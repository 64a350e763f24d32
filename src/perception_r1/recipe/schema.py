"""The recipe: one YAML file that says what to train on what, and how.

The ``grpo``, ``sft`` and ``lora`` tables are passed through unchanged to TRL's ``GRPOConfig`` and ``SFTConfig`` and to
PEFT's ``LoraConfig``; nothing of theirs is mirrored here. Every other key is declared below and unknown ones are
refused. This module imports no ML library.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from perception_r1.errors import RecipeError
from perception_r1.tasks import PRESET_ALIASES, PROMPT_ALIASES, TASKS

_STRICT = ConfigDict(extra="forbid", frozen=True)


def _earlier(names: Mapping[str, str]) -> BeforeValidator:
    """Take earlier names of a value for the present ones, with one line that says so."""

    def renamed(value: Any) -> Any:
        if not isinstance(value, str) or value not in names:
            return value
        _say_renamed(value, names[value])
        return names[value]

    return BeforeValidator(renamed)


@cache
def _say_renamed(old: str, new: str) -> None:
    print(f"note: {old!r} is now called {new!r}", file=sys.stderr)


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r} (known: {', '.join(TASKS)})")
    return name


Task = Annotated[str, AfterValidator(_known_task)]


class Source(BaseModel):
    """One source of rows. ``count`` rows, or a ``share`` of the mix, are drawn at random (seeded)."""

    model_config = _STRICT

    source: str
    path: str | None = None
    images: str | None = None
    split: str | None = None
    count: int | None = Field(default=None, gt=0)
    share: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _count_or_share(self) -> Source:
        if self.count is not None and self.share is not None:
            raise ValueError("give 'count' or 'share', not both")
        return self


class Data(BaseModel):
    """What to train and to evaluate on. ``total`` is the number of rows that shares are shares of."""

    model_config = _STRICT

    seed: int = 0
    total: int | None = Field(default=None, gt=0)
    train: tuple[Source, ...] = ()
    eval: tuple[Source, ...] = ()


class Judge(BaseModel):
    """Who says which visual facts an answer states (geometry): ``lexical``, or a model behind a server (``openai``).

    The fields are the arguments of ``judge.ChatJudge``; ``api_key_env`` names the environment variable with the key.
    ``cache`` is a file of verdicts to keep, by default in the run's folder.
    """

    model_config = _STRICT

    kind: Literal["lexical", "openai"] = "lexical"
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    prompt: str = "judge"
    concurrency: int = Field(default=256, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)
    attempts: int = Field(default=5, gt=0)
    cache: str | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    structured: bool = True
    check_quotes: bool = True
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _openai_names_its_server(self) -> Judge:
        if self.kind == "openai" and not (self.base_url and self.model):
            raise ValueError("a judge of kind openai needs 'base_url' and 'model'")
        return self


class Reward(BaseModel):
    """A preset, and what is changed of it (see `perception_r1.tasks`); ``judge`` is of the visual perception reward.

    ``function`` is ``package.module:name`` of a function of the user's, called as ``fn(sample, completion, parsed,
    match)`` (`types.Sample`, `Completion`, `Parsed`, and `Match` or None); it gives a number, or None for *not scored*.
    """

    model_config = _STRICT

    preset: Annotated[Literal["robust", "released"], _earlier(PRESET_ALIASES)] = "robust"
    matching: Literal["hungarian", "sequential", "greedy"] | None = None
    components: dict[str, float] | None = None
    clamp: tuple[float, float] | None = None
    function: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    judge: Judge | None = None


class Image(BaseModel):
    """Limits on the pixels that the model sees; None keeps the family's."""

    model_config = _STRICT

    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)


class Eval(BaseModel):
    """Greedy evaluation."""

    model_config = _STRICT

    max_new_tokens: int = Field(default=1024, gt=0)
    batch_size: int = Field(default=16, gt=0)
    repetition_penalty: float = Field(default=1.0, gt=0)


class Machine(BaseModel):
    """What the recipe was written for, and what `pr1 plan` plans with: devices of 80 GB and how weights lie on them.

    ``sharding`` other than none names the file in configs/accelerate to launch with.
    """

    model_config = _STRICT

    device: str = "h100"
    devices: int = Field(default=1, gt=0)
    sharding: Literal["none", "zero2", "zero3", "fsdp2"] = "none"


class Recipe(BaseModel):
    """A whole recipe; ``load_recipe`` reads one from a file.

    ``family`` None is taken from the model's own configuration. ``warm_start: sft`` makes ``pr1 train`` run the ``sft``
    table first and start GRPO from its result. ``shared_prefix`` forwards what a group's rollouts have in common once;
    the numbers are the same, only sooner. ``save_dtype`` is the dtype of the final model, None that of the base;
    weights are trained in float32 either way. ``max_rollout_difference``: GRPO stops when the log-probabilities that
    the engine gives its rollouts are on average further from the policy's, in nats; null never stops.
    """

    model_config = _STRICT

    name: str
    task: Task
    model: str
    family: str | dict[str, Any] | None = None
    thinking: bool = False
    prompt: Annotated[Literal["training", "evaluation", "bare"], _earlier(PROMPT_ALIASES)] = "training"
    reward: Reward = Reward()
    data: Data = Data()
    image: Image = Image()
    warm_start: Literal["sft"] | None = None
    sft: dict[str, Any] | None = None
    grpo: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    freeze_vision: bool = False
    shared_prefix: bool = True
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    max_rollout_difference: float | None = Field(default=0.5, gt=0)
    eval: Eval = Eval()
    machine: Machine = Field(default=Machine(), exclude=True)  # a run may go on elsewhere: not part of its identity
    path: Path | None = Field(default=None, exclude=True)

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("use letters, digits, '.', '_' and '-' (it names the run's folder)")
        return value

    @model_validator(mode="after")
    def _warm_start_has_its_table(self) -> Recipe:
        if self.warm_start == "sft" and self.sft is None:
            raise ValueError("'warm_start: sft' needs an 'sft' table")
        return self

    @property
    def base_dir(self) -> Path:
        """The folder that relative paths of data sources start from: the current one, as for every command."""
        return Path()

    def model_dump_plain(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values (for ``config.json``)."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: PyYAML (YAML 1.1) reads ``1e-6``, without a point, as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text; ``1e-6`` is a number.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)  # a safe loader: plain values only


def source_names(recipe: Recipe, sources: Sequence[Source]) -> list[str]:
    """What messages call the sources of ``data.train`` or ``data.eval``: recipe, key and file."""
    part = "eval" if sources is recipe.data.eval else "train"
    where = f"{recipe.path or recipe.name}: data.{part}"
    return [f"{where}.{number} ({source.path or source.source})" for number, source in enumerate(sources)]


def trained_on(recipe: Recipe) -> list[str]:
    """Files of which ``data.eval`` draws rows that ``data.train`` draws from, too (the same rows, mostly)."""
    generated = ("digits", "diagrams")  # their path is where pictures are written to
    train = {(source.path, source.split) for source in recipe.data.train if source.source not in generated}
    both = (source for source in recipe.data.eval if (source.path, source.split) in train)
    return list(dict.fromkeys(str(source.path) for source in both))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, its ``extends`` chain and ``key.sub=value`` overrides; ``@FILE`` overrides with a whole YAML file.

    Raises:
        RecipeError: the file is missing, is not a YAML mapping, or has a key or value that is not understood.
    """
    path = Path(path)
    values = _read(path, ())
    for override in overrides:
        if override.startswith("@"):
            values = _merge(values, _read(Path(override[1:]), ()))
        else:
            _apply_override(values, override)
    return parse_recipe(values, path)


def parse_recipe(values: Mapping[str, Any], path: Path | None = None) -> Recipe:
    """Validate plain values as a recipe."""
    try:
        return Recipe(**{**values, "path": path})
    except ValidationError as error:
        raise RecipeError(f"{path or 'recipe'}: {_explain(error)}") from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise RecipeError(f"{path}: 'extends' goes round in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of keys such as 'task' and 'model'")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: field 'extends': expected the path of another recipe")
    return _merge(_read(path.parent / parent, (*seen, path.resolve())), values)


# A reward's components are a choice of their own: a child that lists some means just those.
_REPLACED_WHOLE = {"components"}


def _merge(base: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in child.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in _REPLACED_WHOLE:
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: expected key.sub=value, for example grpo.max_steps=10")
    *parents, last = key.split(".")
    for part in parents:
        child = values.get(part)
        if child is None:
            child = values[part] = {}
        elif not isinstance(child, dict):
            raise RecipeError(f"--set {override!r}: '{part}' is not a table")
        else:
            child = values[part] = dict(child)
        values = child
    try:
        values[last] = read_yaml(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {override!r}: the value is not YAML") from None


def _explain(error: ValidationError) -> str:
    found = error.errors()
    # A misspelt key is also a missing one: naming the misspelling is what helps.
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"unknown key '{field}' ({hint})"
    if first["type"] == "missing":
        return f"field '{field}': missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"field '{field}': {message}" if field else message


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "data": Data,
        "reward": Reward,
        "judge": Judge,
        "image": Image,
        "eval": Eval,
        "machine": Machine,
    }
    names = [part for part in loc[:-1] if isinstance(part, str)]
    model: type[BaseModel] = Recipe if not names else Source if len(names) > 1 else tables.get(names[0], Recipe)
    return sorted(name for name, field in model.model_fields.items() if not field.exclude)
