"""A reward as data: which components with which weights, how predictions and targets are paired, gates and clamp.

`reward_spec` is what recipes call. The two presets of each task are the table at the end; their formulas:

==========  =========================================================================================================
robust
==========  =========================================================================================================
grounding   2 Σφ / (n_pred + n_target), φ = IoU if ≥ 0.1; labels ignored
counting    ½ · count + ½ · the same score of places (boxes by IoU, points by nearness); the number alone: count
detection   2 Σφ / (n_pred + n_target), φ = IoU if ≥ 0.3 and the labels agree
ocr         1 − edit distance / longer length, white space normalised
geometry    0.9 · accuracy + 0.1 · format + 0.7 · visual + repetition (see `core.answers`)
==========  =========================================================================================================

==========  =========================================================================================================
paper       PR1 as released
==========  =========================================================================================================
grounding   format + IoU² of the first box, in [0, 2]
counting    format (a gate) · min(n)/max(n) · (1 − mean matched L2 / (1000 √2)), in [0, 1]
detection   0.25 · format + 0.75 · F1 + cls + IoU − 0.5 · (FP/n_pred + FN/n_target), clamped to [0, 3]
ocr         1 − edit distance / longer length
geometry    the same sum with the components of Xiao et al. as released
==========  =========================================================================================================

What is wrong with the ``paper`` ones is said where it arises: `components.phrase_format`, `count_distance`, `whole`,
`matching.match_detr`; and: an image without objects never earns anything by saying so; recall costs little (one perfect
box of 20 scores 1.85 of 3); a copy of a box costs little. Where the released code divides by zero or dies on an answer,
the answer scores 0. Coordinates are read in the family's frame here too (the released code multiplies a box without
special tokens by 1000, so it silently scores 0).

Why detection's floor is higher: an entry under IoU 0.3 is a false positive for every metric, and in a crowd of one
class a copy of one box overlaps the neighbours by 0.1 to 0.3 and would be paid for them. The floor only binds while an
answer is poor: as soon as the score S is over 0.6, an entry pays only above S/2 anyway. For a single object, and for
counting, any overlap is on the right object and worth a first gradient. A model that localises loosely (a tiny one, a
warm start) may do better with ``options: {floor: 0.1}`` in detection too.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias, cast, get_args

from perception_r1.core.components import COMPONENTS, Component
from perception_r1.core.matching import Matching
from perception_r1.errors import RecipeError

Pairing: TypeAlias = Literal["phi", "first", "l2", "detr", "none"]
UserFunction: TypeAlias = Callable[..., Any]

FUNCTION = "function"
"""Name of the component that is the user's own function."""


@dataclass(frozen=True)
class RewardSpec:
    """How a task is rewarded; made by `reward_spec`.

    reward = clamp(Π gates · Σ weight · component).

    Attributes:
        task: whose components these are.
        preset: the preset it started from.
        components: weight of each component of `COMPONENTS`; ``function`` is the user's.
        pairing: ``phi`` (robust), ``first`` (the first box with the first target), ``l2`` and ``detr`` (as PR1).
        matching: ``hungarian``, ``sequential`` or ``greedy``.
        gates: components that multiply the sum.
        clamp: limits of the reward, or None.
        options: floor, same_iou, point_cap, whitespace (see `OPTIONS`).
        function: dotted path ``package.module:name`` of the user's function.
    """

    task: str
    preset: str
    components: Mapping[str, float]
    pairing: Pairing = "phi"
    matching: Matching = "hungarian"
    gates: tuple[str, ...] = ()
    clamp: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str | None = None

    @cached_property
    def steps(self) -> tuple[tuple[str, Component | None, float], ...]:
        """(name, function, weight) of each component; the function is None for the user's."""
        known = COMPONENTS[self.task]
        return tuple((name, known.get(name), weight) for name, weight in self.components.items())

    @cached_property
    def gate_steps(self) -> tuple[tuple[str, Component], ...]:
        """(name, function) of each gate."""
        return tuple((name, COMPONENTS[self.task][name]) for name in self.gates)


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


OPTIONS: dict[str, tuple[frozenset[str], Callable[[Any], bool], str]] = {
    "floor": (frozenset({"grounding", "counting", "detection"}), _share, "the smallest IoU that counts, 0 to 1"),
    "same_iou": (frozenset({"counting"}), _share, "the IoU from which two boxes are one, 0 to 1"),
    "point_cap": (
        frozenset({"counting"}),
        lambda value: _share(value) and value > 0,
        "the largest tolerance of a point, as a share of the image's diagonal, over 0 and up to 1",
    ),
    "whitespace": (frozenset({"ocr"}), lambda value: isinstance(value, bool), "whether white space is normalised"),
}
"""Options of rewards: tasks that have them, check, meaning."""


def reward_spec(
    task: str,
    preset: str = "robust",
    *,
    matching: str | None = None,
    components: Mapping[str, float] | None = None,
    clamp: tuple[float, float] | None = None,
    function: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> RewardSpec:
    """A preset with what a recipe changes of it.

    Args:
        task: grounding, counting, detection, ocr or geometry.
        preset: ``robust`` or ``paper``.
        matching: ``hungarian``, ``sequential`` or ``greedy`` instead of the preset's.
        components: weights by name, *instead of* the preset's. PR1's detection steps are {format: 0.25}, then + iou: 1,
            + cls: 1, + f1: 0.75, + missing: -0.5 of ``paper``.
        clamp: limits of the reward instead of the preset's.
        function: ``package.module:name`` of ``fn(sample, completion, parsed, match) -> float | None``, added as the
            component ``function`` with weight 1 unless ``components`` gives it another; None means *not scored*.
        options: see `OPTIONS`.

    Raises:
        RecipeError: a name that does not exist, a function that cannot be loaded, a value out of range.

    Example:
        >>> reward_spec("grounding", "paper").components
        {'format': 1.0, 'iou2': 1.0}
    """
    if task not in PRESETS:
        raise RecipeError(f"no perception reward for task {task!r} (known: {', '.join(PRESETS)})")
    if preset not in PRESETS[task]:
        raise RecipeError(f"unknown reward preset {preset!r} (known: {', '.join(PRESETS[task])})")
    spec = PRESETS[task][preset]
    if matching is not None and matching not in get_args(Matching):
        raise RecipeError(f"unknown matching {matching!r} (known: {', '.join(get_args(Matching))})")
    weights = dict(spec.components if components is None else components)
    if function is not None:
        load_function(function)
        weights.setdefault(FUNCTION, 1.0)
    _check_components(spec, weights, function)
    if clamp is not None and not (len(clamp) == 2 and clamp[0] < clamp[1]):
        raise RecipeError(f"clamp must be [low, high] with low < high, not {list(clamp)}")
    return replace(
        spec,
        components=weights,
        matching=cast(Matching, matching or spec.matching),
        clamp=spec.clamp if clamp is None else (float(clamp[0]), float(clamp[1])),
        options={**spec.options, **_checked_options(task, options or {})},
        function=function,
    )


@lru_cache(maxsize=64)
def load_function(path: str) -> UserFunction:
    """The user's reward function at ``package.module:name``; the current folder may hold the module.

    Raises:
        RecipeError: no such module or name, a module that fails, or a function that is called with other arguments.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise RecipeError(f"reward function {path!r} must be written 'package.module:name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise RecipeError(f"reward function {path!r}: its module needs {error.name!r}, which is missing") from error
        sys.path.insert(0, os.getcwd())  # console scripts do not have the current folder on their path  # noqa: PTH109
        try:
            importlib.invalidate_caches()
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as again:
            raise RecipeError(f"reward function {path!r}: there is no module {again.name!r}") from again
        except Exception as again:
            raise _import_error(path, again) from again
        finally:
            sys.path.pop(0)
    except Exception as error:
        raise _import_error(path, error) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise RecipeError(f"reward function {path!r}: module {module_name!r} has no function {name!r}")
    _check_signature(path, found)
    return found  # type: ignore[no-any-return]


def _import_error(path: str, error: Exception) -> RecipeError:
    ours = (__file__, importlib.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    where = f"{frames[0].filename}:{frames[0].lineno}: " if frames else ""  # in the module itself, not what it calls
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}: "
    message = getattr(error, "msg", None) or error
    return RecipeError(f"reward function {path!r}: its module fails: {where}{type(error).__name__}: {message}")


def _check_signature(path: str, function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as ``fn(sample, completion, parsed, match)``, or that must be awaited."""
    called = f"it is called as fn{_ARGUMENTS} and gives a number or None"
    if inspect.iscoroutinefunction(function):
        raise RecipeError(f"reward function {path!r}: is async; {called}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions do not tell
        return
    try:
        signature.bind(*_ARGUMENTS.strip("()").split(", "))
    except TypeError:
        raise RecipeError(f"reward function {path!r}: takes {signature}, but {called}") from None


_ARGUMENTS = "(sample, completion, parsed, match)"


def _check_components(spec: RewardSpec, weights: Mapping[str, float], function: str | None) -> None:
    known = valid_components(spec.task, spec.pairing)
    for name, weight in weights.items():
        if name == FUNCTION and function is None:
            raise RecipeError("component 'function' needs 'function: package.module:name' beside it")
        if name != FUNCTION and name not in known:
            raise RecipeError(
                f"unknown component {name!r} for the {spec.preset} preset of {spec.task} "
                f"(valid: {', '.join([*known, FUNCTION])})"
            )
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight):
            raise RecipeError(f"the weight of component {name!r} must be a number, not {weight!r}")
    if not weights:
        raise RecipeError("a reward needs at least one component")


def valid_components(task: str, pairing: Pairing) -> list[str]:
    """Names that may be listed: how pairs are found decides which components of counting mean something."""
    excluded = {"l2": {"matched"}, "phi": {"count_distance"}}.get(pairing, set())
    return [name for name in COMPONENTS[task] if name not in excluded]


def _checked_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: row for name, row in OPTIONS.items() if task in row[0]}
    for name, value in options.items():
        if name not in known:
            raise RecipeError(f"unknown reward option {name!r} for {task} (known: {', '.join(known)})")
        if not known[name][1](value):
            raise RecipeError(f"reward option {name!r} must be {known[name][2]}, not {value!r}")
    return dict(options)


def _robust(task: str, components: Mapping[str, float], **options: Any) -> RewardSpec:
    return RewardSpec(task, "robust", components, options=options)


PRESETS: dict[str, dict[str, RewardSpec]] = {
    "grounding": {
        "robust": _robust("grounding", {"matched": 1.0}, floor=0.1),
        "paper": RewardSpec("grounding", "paper", {"format": 1.0, "iou2": 1.0}, "first", options={"floor": 0.0}),
    },
    "counting": {
        "robust": _robust("counting", {"count": 0.5, "matched": 0.5}, floor=0.1, same_iou=0.95, point_cap=0.15),
        "paper": RewardSpec("counting", "paper", {"count_distance": 1.0}, "l2", gates=("format",)),
    },
    "detection": {
        "robust": _robust("detection", {"matched": 1.0}, floor=0.3),
        "paper": RewardSpec(
            "detection",
            "paper",
            {"format": 0.25, "f1": 0.75, "cls": 1.0, "iou": 1.0, "missing": -0.5},
            "detr",
            gates=("whole",),
            clamp=(0.0, 3.0),
        ),
    },
    "ocr": {
        "robust": RewardSpec("ocr", "robust", {"edit": 1.0}, "none", options={"whitespace": True}),
        "paper": RewardSpec("ocr", "paper", {"edit": 1.0}, "none", options={"whitespace": False}),
    },
    "geometry": {
        preset: RewardSpec(
            "geometry", preset, {"accuracy": 0.9, "format": 0.1, "visual": 0.7, "repetition": 1.0}, "none"
        )
        for preset in ("robust", "paper")
    },
}
"""Rewards by task and preset."""
