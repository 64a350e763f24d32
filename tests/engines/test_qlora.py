"""configs/recipe/qlora.yaml with a real bitsandbytes, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("bitsandbytes", reason='pip install "perception-r1[qlora]"')

import gloo_run
from gloo_run import metrics
from trl import GRPOConfig

from perception_r1.models.load import load_model
from perception_r1.recipe.build import recipe_family
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.setup import load_for_training, trainer_args

QLORA = Path(__file__).resolve().parents[2] / "configs" / "recipe" / "qlora.yaml"


@pytest.mark.slow
def test_adapters_are_trained_over_four_bits_and_merged(digits_recipe: Path, tmp_path: Path) -> None:
    overrides = [f"@{QLORA}", "grpo.max_steps=2", "grpo.learning_rate=1e-3"]
    recipe = load_recipe(digits_recipe, overrides)
    assert recipe.grpo is not None
    args = trainer_args(GRPOConfig, recipe.grpo, name="grpo", folder=tmp_path, where=QLORA)
    model, _ = load_for_training(recipe, recipe.model, args, recipe_family(recipe))
    four_bits = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert len(four_bits) >= 7
    assert not any("visual" in name or "lm_head" in name for name in four_bits)

    gloo_run.run(str(digits_recipe), str(tmp_path / "run"), "plain", overrides)
    assert any(row["grad_norm"] > 0 for row in metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    start, _ = load_model(recipe.model)
    found, _ = load_model(tmp_path / "run" / "model")
    before, after = start.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in after if not after[name].equal(before[name])}
    assert changed
    assert all("language_model" in name and name.endswith("_proj.weight") for name in changed)
