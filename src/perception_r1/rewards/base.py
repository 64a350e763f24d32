"""A reward as data: components and their weights, a matcher, gates, a clamp; and how they combine.

This file knows no component: a task declares which it has, and its presets hold the functions themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias, cast, get_args

from perception_r1.boxes import Matching, no_pairs
from perception_r1.errors import RecipeError
from perception_r1.rewards.function import load_function
from perception_r1.types import XY, XYXY, Completion, Frame, Match, Parsed, Sample

FUNCTION = "function"
"""Name of the component that is the user's own function."""
NO_MATCH = no_pairs(0, 0)


@dataclass(frozen=True, slots=True)
class Context:
    """Everything about one answer that a matcher or a component may read.

    Attributes:
        reward: the spec, for its options and its ``matching``.
        parsed: the answer as read, in the model's frame.
        frame: that frame; None where the task has no coordinates.
        pred_xyxy, pred_points: P entries in original-image pixels, None where an entry has none.
        match: of predictions and targets; indices of predictions are those of ``parsed.objects``.
        answer_format: the family's form of answer.
        thinking: whether ``<think>`` and ``<answer>`` blocks were asked for.
        evidence: what was fetched from outside (a judge's verdicts), for reasoned answers.
    """

    reward: RewardSpec
    sample: Sample
    completion: Completion
    parsed: Parsed
    frame: Frame | None = None
    pred_xyxy: tuple[XYXY | None, ...] = ()
    pred_points: tuple[XY | None, ...] = ()
    match: Match = NO_MATCH
    answer_format: str = "json"
    thinking: bool = False
    evidence: Mapping[str, Any] | None = None

    def with_match(self, match: Match) -> Context:
        """The same with its match."""
        return replace(self, match=match)


Component: TypeAlias = Callable[[Context], float | None]
"""A number; None where it does not apply to the kind of target: its weight then goes to the others in proportion."""
Matcher: TypeAlias = Callable[[Context], Match]


class NotScoredError(Exception):
    """Raised by a component that cannot know its value (a judge was not reached); the answer is then not scored."""


def match_nothing(ctx: Context) -> Match:
    """The matcher of tasks without objects."""
    return NO_MATCH


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a reward: whether a value is valid, and what it means."""

    check: Callable[[Any], bool]
    meaning: str


def is_share(value: Any) -> bool:
    """Whether a value is a number from 0 to 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class RewardSpec:
    """How a task is rewarded: reward = clamp(Π gates · Σ weight · component).

    Attributes:
        task: name of the task whose components these are.
        preset: name of the preset it started from.
        components: weight of each component, by name; ``function`` is the user's.
        known: every component that may be listed, by name.
        match: pairs predictions with targets.
        matching: ``hungarian``, ``sequential`` or ``greedy``, for ``match``.
        gates: components that multiply the sum.
        clamp: limits of the reward, or None.
        options: values of the task's options.
        function: dotted path ``package.module:name`` of the user's function.
    """

    task: str
    preset: str
    components: Mapping[str, float]
    known: Mapping[str, Component]
    match: Matcher = match_nothing
    matching: Matching = "hungarian"
    gates: tuple[str, ...] = ()
    clamp: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str | None = None

    @cached_property
    def steps(self) -> tuple[tuple[str, Component | None, float], ...]:
        """(name, function, weight) of each component; the function is None for the user's."""
        return tuple((name, self.known.get(name), weight) for name, weight in self.components.items())

    @cached_property
    def gate_steps(self) -> tuple[tuple[str, Component], ...]:
        """(name, function) of each gate."""
        return tuple((name, self.known[name]) for name in self.gates)

    def adapted(
        self,
        *,
        matching: str | None = None,
        components: Mapping[str, float] | None = None,
        clamp: tuple[float, float] | None = None,
        function: str | None = None,
        options: Mapping[str, Any] | None = None,
        known_options: Mapping[str, Option] | None = None,
    ) -> RewardSpec:
        """The spec with a recipe's changes; see `perception_r1.tasks.reward_spec`.

        Raises:
            RecipeError: a name that does not exist, a function that cannot be loaded, a value out of range.
        """
        if matching is not None and matching not in get_args(Matching):
            raise RecipeError(f"unknown matching {matching!r} (known: {', '.join(get_args(Matching))})")
        weights = dict(self.components if components is None else components)
        if function is not None:
            load_function(function)
            weights.setdefault(FUNCTION, 1.0)
        self._check_weights(weights, function)
        if clamp is not None and not (len(clamp) == 2 and clamp[0] < clamp[1]):
            raise RecipeError(f"clamp must be [low, high] with low < high, not {list(clamp)}")
        _check_options(self.task, options or {}, known_options or {})
        return replace(
            self,
            components=weights,
            matching=cast(Matching, matching or self.matching),
            clamp=self.clamp if clamp is None else (float(clamp[0]), float(clamp[1])),
            options={**self.options, **(options or {})},
            function=function,
        )

    def _check_weights(self, weights: Mapping[str, float], function: str | None) -> None:
        for name, weight in weights.items():
            if name == FUNCTION and function is None:
                raise RecipeError("component 'function' needs 'function: package.module:name' beside it")
            if name != FUNCTION and name not in self.known:
                raise RecipeError(
                    f"unknown component {name!r} for the {self.preset} preset of {self.task} "
                    f"(valid: {', '.join([*self.known, FUNCTION])})"
                )
            if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight):
                raise RecipeError(f"the weight of component {name!r} must be a number, not {weight!r}")
        if not weights:
            raise RecipeError("a reward needs at least one component")


def _check_options(task: str, options: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    for name, value in options.items():
        if name not in known:
            raise RecipeError(f"unknown reward option {name!r} for {task} (known: {', '.join(known)})")
        if not known[name].check(value):
            raise RecipeError(f"reward option {name!r} must be {known[name].meaning}, not {value!r}")


def combine(ctx: Context) -> tuple[float | None, dict[str, float], str]:
    """Compute clamp(Π gates · Σ weight · component).

    A component that does not apply (None) hands its weight to the others in proportion. An answer for which the user's
    function gives None, or a component raises `NotScoredError`, is *not scored*.

    Returns:
        The reward or None, the components by name, and why the answer was not scored (empty when it was).
    """
    spec = ctx.reward
    values: dict[str, float] = {}
    total = weighed = left_out = 0.0
    why = ""
    for name, component, weight in spec.steps:
        try:
            value = _user_value(ctx) if component is None else component(ctx)
        except NotScoredError as error:
            why = why or (str(error) if weight else "")
            continue
        if value is None:
            left_out += weight
            continue
        values[name] = value
        weighed += weight
        total += weight * value
    if left_out and weighed:
        total *= (weighed + left_out) / weighed
    for name, gate in spec.gate_steps:
        value = gate(ctx)
        values[name] = 0.0 if value is None else value
        total *= values[name]
    if spec.clamp is not None:
        total = min(max(total, spec.clamp[0]), spec.clamp[1])
    return (None if why else total), values, why


def _user_value(ctx: Context) -> float:
    path = ctx.reward.function or ""
    value = load_function(path)(ctx.sample, ctx.completion, ctx.parsed, ctx.match)
    if value is None:
        raise NotScoredError("the reward function gave None")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"reward function {path!r} gave {value!r} for sample {ctx.sample.id!r}, not a number or None")
    return number
