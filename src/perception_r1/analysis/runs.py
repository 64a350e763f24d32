"""The recipe that a run was made with, and what may be changed of it afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.analysis.rollouts import rollout_files
from perception_r1.errors import RecipeError, UserError
from perception_r1.models.identity import model_identity, weights_of
from perception_r1.recipe.schema import Recipe, parse_recipe
from perception_r1.tasks import Task
from perception_r1.types import Sample

_NOT_OF_THE_RECIPE = ("stage", "start", "inputs", "sampling")


def run_recipe(folder: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in the ``config.json`` of the run that holds the rollouts of ``folder``, with ``changes`` merged in.

    Raises:
        UserError: there is no such file, or it holds no recipe.
    """
    config, values = run_config(folder)
    values = {key: value for key, value in values.items() if key not in _NOT_OF_THE_RECIPE}
    return parse_recipe(merged(values, changes or {}), config)


def run_config(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The ``config.json`` of the run that holds the rollouts of ``folder``, and its values.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    first = rollout_files(folder)[0]
    config = next((place / "config.json" for place in first.parents[:3] if (place / "config.json").is_file()), None)
    if config is None:
        raise UserError(f"{folder}: no config.json beside the rollouts, so their task and family are not known")
    try:
        return config, json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{config}: is not JSON") from None


def check_answers_of(run: str | Path, recipe: Recipe, recipe_file: str | Path) -> None:
    """Refuse answers that tell nothing of a recipe: of another task, other rows, or other weights than its model's.

    The weights are compared where the run knows them and started from its recipe's model (not from a warm start).

    Raises:
        UserError: naming what differs.
    """
    config, values = run_config(run)
    scored = run_recipe(run)
    again = f"score the questions anew: pr1 diagnose {recipe_file}"
    if recipe.task != scored.task:
        raise UserError(f"{run}: its task is {scored.task}, the recipe's is {recipe.task}")
    if scored.data.train and scored.data.train != recipe.data.train:
        raise UserError(f"{config}: its rows are not the recipe's (data.train differs; {again})")
    start = (values.get("inputs") or {}).get("start")
    if values.get("start") in (None, scored.model) and start not in (None, weights_of(model_identity(recipe.model))):
        raise UserError(f"{config}: its answers are of other weights than those of {recipe.model} ({again})")


def best_reward(task: Task, samples: Sequence[Sample]) -> float:
    """The best reward that a task gives, from the gold answers of some samples; 1 where none can be scored."""
    rewards = [task.score(sample, task.gold(sample)).reward for sample in samples[:50]]
    return max((reward for reward in rewards if reward is not None), default=1.0)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes`` in it: nested tables are merged, everything else is replaced.

    A key may be dotted. ``components`` of a reward are a choice of their own and replaced whole, as in a recipe.

    Example:
        >>> merged({"reward": {"preset": "released"}, "grpo": {"beta": 0.0}}, {"reward.matching": "sequential"})
        {'reward': {'preset': 'released', 'matching': 'sequential'}, 'grpo': {'beta': 0.0}}
    """
    result = dict(values)
    for key, change in changes.items():
        head, _, rest = key.partition(".")
        old = result.get(head)
        if rest:
            if old is not None and not isinstance(old, Mapping):
                raise RecipeError(f"{key}: {head!r} is not a table")
            result[head] = merged(old or {}, {rest: change})
        elif isinstance(change, Mapping) and isinstance(old, Mapping) and head != "components":
            result[head] = merged(old, change)
        else:
            result[head] = change
    return result


def as_settings(changes: Mapping[str, Any]) -> list[str]:
    """Changes as ``key.sub=value`` options, as ``load_recipe`` takes them; ``components`` and ``options`` stay whole.

    Example:
        >>> as_settings({"grpo": {"beta": 0.0}, "reward.components": {"f1": 1.0}})
        ['grpo.beta=0.0', 'reward.components={"f1": 1.0}']
    """
    found = []
    for key, value in changes.items():
        if isinstance(value, Mapping) and value and key.rpartition(".")[2] not in ("components", "options"):
            found += [f"{key}.{setting}" for setting in as_settings(value)]
        else:
            found.append(f"{key}={json.dumps(value)}")
    return found


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``key.sub=value`` options as a mapping of dotted keys; values are YAML.

    Raises:
        RecipeError: one is not KEY=VALUE.
    """
    from perception_r1.recipe.schema import read_yaml

    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {setting!r}: expected key.sub=value, for example reward.matching=sequential")
        try:
            found[key] = read_yaml(text)
        except Exception:
            raise RecipeError(f"--set {setting!r}: the value is not YAML") from None
    return found
