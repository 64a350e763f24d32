"""`perception_r1.score`: one answer, from plain values, without anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perception_r1 import score
from perception_r1.errors import DataError, RecipeError, UserError
from perception_r1.types import BoxTarget, Completion, TextTarget

BOX = '[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]'


def test_from_a_mapping_and_from_a_target() -> None:
    target = {"boxes": [[0, 0, 320, 240]], "labels": ["cat"], "categories": ["cat", "dog"]}
    assert score("detection", BOX, target, family="qwen3_vl", image_size=(640, 480)).reward == 1
    made = BoxTarget(((0, 0, 320, 240),), ("cat",))
    assert score("detection", BOX, made, family="qwen3_vl", image_size=(640, 480), categories=("cat",)).reward == 1
    assert score("ocr", "abc", TextTarget("abc"), family="qwen3_vl").reward == 1
    assert score("counting", BOX, {"count": 1}, family="qwen3_vl", image_size=(640, 480)).reward == 1


def test_frames() -> None:
    target = {"boxes": [[0, 0, 500, 500]]}
    options = {"family": "qwen2_5_vl", "image_size": (1000, 1000)}
    assert score("grounding", BOX, target, **options, model_size=(1000, 1000)).reward == 1
    assert score("grounding", BOX, target, **options, model_size=(2000, 2000)).reward == 0.25
    # By limits the resizing is worked out: 1000 px become 980 within a megapixel, and 1008 by the published ones.
    for limit, side in ((1_000_000, 980), (12_845_056, 1008)):
        reward = score("grounding", BOX, target, **options, max_pixels=limit).reward
        assert reward == pytest.approx(min(side / 1000, 1000 / side) ** 2)


def test_a_size_that_depends_on_the_processor_is_not_guessed() -> None:
    gold, perfect = {"boxes": [[400, 200, 900, 700]]}, '[{"bbox_2d": [402, 202, 906, 708]}]'
    options = {"family": "qwen2_5_vl", "image_size": (1920, 1080)}
    with pytest.raises(UserError, match=r"seen at 1316 × 728 .* or at 1932 × 1092 .*: give model_size") as caught:
        score("grounding", perfect, gold, **options)
    assert "\n" not in str(caught.value)
    for known in ({"model_size": (1932, 1092)}, {"max_pixels": 12_845_056}):
        assert score("grounding", perfect, gold, **options, **known).reward == pytest.approx(0.99739, abs=1e-5)
    table = {"base": "qwen2_5_vl", "max_pixels": 12_845_056}
    assert score("grounding", perfect, gold, family=table, image_size=(1920, 1080)).reward == pytest.approx(
        0.99739, abs=1e-5
    )


@pytest.mark.parametrize("size", [(640, 480), (20, 20), (3000, 20), (1000, 980)])
def test_no_limits_are_needed_where_they_change_nothing(size: tuple[int, int]) -> None:
    """Below a megapixel, and below the smallest size, the published processor and ours agree."""
    target = {"boxes": [[0, 0, size[0], size[1]]]}
    assert score("grounding", "[]", target, family="qwen2_5_vl", image_size=size).reward == 0


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl", "pixel", "unit"])
def test_frames_that_do_not_depend_on_the_resized_image_need_no_limits(family: str) -> None:
    target = {"boxes": [[0, 0, 4000, 3000]]}
    assert score("grounding", "[]", target, family=family, image_size=(4000, 3000)).reward == 0


def test_thinking_preset_and_cut() -> None:
    target = {"boxes": [[0, 0, 320, 240]]}
    options = {"family": "qwen3_vl", "image_size": (640, 480)}
    assert score("grounding", BOX, target, thinking=True, **options).reason == "unreadable: no <think> block"
    assert score("grounding", BOX, target, preset="released", **options).reward == 2
    assert score("grounding", Completion(BOX, "length"), target, **options).reward == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "target", "options", "message"),
    [
        ("grounding", {"boxes": [[9, 0, 3, 5]]}, {"image_size": (10, 10)}, "x2 < x1"),
        ("grounding", {"text": "x"}, {"image_size": (10, 10)}, "boxes"),
        ("counting", {"count": 2}, {}, "width"),
        ("painting", {"text": "x"}, {}, "unknown task 'painting'"),
        ("ocr", {"text": "x"}, {"preset": "best"}, "unknown reward preset 'best'"),
        ("ocr", {"text": "x"}, {"family": "gpt"}, "unknown family 'gpt'"),
        (
            "detection",
            {"boxes": [[1, 1, 3, 5]], "labels": ["cow"], "categories": ["cat"]},
            {"image_size": (9, 9)},
            "cow",
        ),
    ],
)
def test_mistakes_are_named(task: str, target: dict, options: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        score(task, BOX, target, **{"family": "qwen3_vl", **options})
    assert message in str(caught.value)
    assert isinstance(caught.value, (DataError, RecipeError))


def test_no_torch() -> None:
    code = (
        "import sys, perception_r1\n"
        "assert 'numpy' not in sys.modules, 'import perception_r1 should load nothing'\n"
        "perception_r1.score('ocr', 'a', {'text': 'a'}, family='qwen3_vl')\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pydantic') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_answer_and_no_size_are_named() -> None:
    target = {"boxes": [[0, 0, 320, 240]]}
    with pytest.raises(UserError, match="response: NoneType is not an answer"):
        score("grounding", None, target, family="qwen3_vl", image_size=(640, 480))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="image_size: '640x480' is not a size"):
        score("grounding", BOX, target, family="qwen3_vl", image_size="640x480")  # type: ignore[arg-type]
