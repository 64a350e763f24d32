"""What the stages have in common."""

from __future__ import annotations

from pathlib import Path

from engine_data import make_recipe
from perception_r1.families import get_family
from perception_r1.train.setup import recipe_samples


def test_total_is_the_number_of_rows_to_train_on(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)  # eight rows to train on, four to evaluate on
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"total": 6})})
    family = get_family("qwen2_5_vl")
    assert len(recipe_samples(recipe, recipe.data.train, family)) == 6
    assert len(recipe_samples(recipe, recipe.data.eval, family)) == 4
