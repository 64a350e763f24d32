"""Rewards as recipes write them: what is accepted, what is refused and in which words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from perception_r1.errors import RecipeError
from perception_r1.rewards.function import load_function
from perception_r1.tasks import TASKS, make_task, reward_spec
from perception_r1.types import BoxTarget, Completion, Sample

SAMPLE = Sample("s", "grounding", "cat", BoxTarget(((0, 0, 100, 100),)), image_size=(1000, 1000))
TEXT = '[{"bbox_2d": [0, 0, 100, 50], "label": "cat"}]'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "geography"}, "unknown task 'geography'"),
        ({"task": "grounding", "preset": "best"}, "unknown reward preset 'best' (known: robust, released)"),
        ({"task": "grounding", "matching": "magic"}, "unknown matching 'magic' (known: hungarian, sequential, greedy)"),
        (
            {"task": "grounding", "components": {"giou": 1}},
            "unknown component 'giou' for the robust preset of grounding (valid: matched, iou, iou2, format, function)",
        ),
        (
            {"task": "counting", "preset": "released", "components": {"matched": 1}},
            "unknown component 'matched' for the released preset of counting (valid: count, count_distance, format,",
        ),
        ({"task": "grounding", "components": {"iou": "much"}}, "the weight of component 'iou' must be a number"),
        ({"task": "grounding", "components": {}}, "a reward needs at least one component"),
        (
            {"task": "grounding", "components": {"function": 1}},
            "component 'function' needs 'function: package.module:name'",
        ),
        ({"task": "ocr", "options": {"floor": 0.2}}, "unknown reward option 'floor' for ocr (known: whitespace)"),
        ({"task": "grounding", "options": {"floor": 2}}, "'floor' must be the smallest IoU that counts, 0 to 1, not 2"),
        ({"task": "grounding", "clamp": (1, 0)}, "clamp must be [low, high] with low < high"),
        ({"task": "grounding", "function": "reward"}, "must be written 'package.module:name'"),
        ({"task": "grounding", "function": "no_such_module_here:f"}, "there is no module 'no_such_module_here'"),
        ({"task": "grounding", "function": "math:no_such_name"}, "module 'math' has no function 'no_such_name'"),
        ({"task": "grounding", "function": "math:pi"}, "module 'math' has no function 'pi'"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        reward_spec(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, made the current one."""
    (tmp_path / "my_rewards.py").write_text(
        "def half(sample, completion, parsed, match):\n    return sum(match.ious) / 2\n"
        "def unsure(sample, completion, parsed, match):\n    return None\n"
        "def broken(sample, completion, parsed, match):\n    return float('nan')\n"
        "def length(sample, completion, parsed, match):\n    return len(completion.text) + len(parsed.objects)\n"
    )
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    load_function.cache_clear()
    return tmp_path


def test_a_function_of_the_users_own(functions: Path) -> None:
    added = make_task("grounding", family="qwen3_vl", reward=reward_spec("grounding", function="my_rewards:half"))
    record = added.score(SAMPLE, TEXT)
    assert record.components == {"matched": 0.5, "function": 0.25}
    assert record.reward == 0.75
    alone = reward_spec("grounding", function="my_rewards:length", components={"function": 0.1}, clamp=(0, 2))
    assert make_task("grounding", family="qwen3_vl", reward=alone).score(SAMPLE, TEXT).reward == 2


def test_none_means_not_scored(functions: Path) -> None:
    task = make_task("grounding", family="qwen3_vl", reward=reward_spec("grounding", function="my_rewards:unsure"))
    record = task.score(SAMPLE, TEXT)
    assert record.reward is None
    assert record.components == {"matched": 0.5}
    assert record.reason == "not scored: the reward function gave None"


def test_a_function_that_gives_no_number_is_an_error(functions: Path) -> None:
    task = make_task("grounding", family="qwen3_vl", reward=reward_spec("grounding", function="my_rewards:broken"))
    with pytest.raises(RecipeError, match="'my_rewards:broken' gave nan for sample 's'"):
        task.score(SAMPLE, TEXT)


def test_a_module_that_lacks_a_dependency_says_which(functions: Path) -> None:
    with pytest.raises(RecipeError, match="a_package_that_is_not_there"):
        reward_spec("grounding", function="needs_more:f")


def test_presets_are_not_changed_by_what_a_recipe_changes() -> None:
    changed = reward_spec("detection", components={"iou": 2}, options={"floor": 0.5}, matching="greedy", clamp=(0, 1))
    assert changed.components == {"iou": 2}
    assert changed.options == {"floor": 0.5}
    assert (changed.matching, changed.clamp) == ("greedy", (0, 1))
    assert TASKS["detection"].presets["robust"].components == {"matched": 1.0}
    assert TASKS["detection"].presets["robust"].options == {"floor": 0.3}


def test_the_ablation_without_matching() -> None:
    spec = reward_spec("detection", matching="sequential")
    task = make_task("detection", family="qwen3_vl", reward=spec)
    boxes = ((0, 0, 100, 100), (200, 0, 300, 100))
    sample = Sample("s", "detection", "", BoxTarget(boxes, ("cat", "cat")), image_size=(1000, 1000))
    entry = '{{"bbox_2d": {}, "label": "cat"}}'
    in_order = f"[{', '.join(entry.format(list(box)) for box in boxes)}]"
    reverse = f"[{', '.join(entry.format(list(box)) for box in boxes[::-1])}]"
    assert task.score(sample, in_order).reward == 1
    assert task.score(sample, reverse).reward == 0
    assert make_task("detection", family="qwen3_vl").score(sample, reverse).reward == 1


def test_specs_travel_between_processes() -> None:
    task = make_task("detection", family="qwen2_vl", reward="released")
    task.score(Sample("s", "detection", "", BoxTarget(()), image_size=(9, 9)), Completion("[]"))
    assert pickle.loads(pickle.dumps(task)) == task
