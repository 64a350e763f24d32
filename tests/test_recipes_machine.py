"""Every recipe fits the machine that it names, with the largest image and the longest answer that it allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perception_r1.plan import plan_recipe
from perception_r1.recipe.schema import load_recipe

ROOT = Path(__file__).resolve().parents[1]
GRPO = [
    path
    for path in sorted((ROOT / "recipes").rglob("*.yaml"))
    if path.parent.name not in ("_base", "mini") and path.stem != "tiny" and load_recipe(path).grpo is not None
]
ONE_GPU = f"@{ROOT / 'configs' / 'recipe' / 'one-gpu.yaml'}"
VLLM = f"@{ROOT / 'configs' / 'recipe' / 'vllm-colocate.yaml'}"
CARD = 72 * 2.0**30  # of 80 GB, what stays for a process, a tenth left free


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", GRPO, ids=name)
def test_it_fits_the_machine_it_names(path: Path) -> None:
    recipe = load_recipe(path)
    if path.parent.name == "vpr" and recipe.machine.devices > 1:
        recipe = load_recipe(path, [VLLM])  # docs/vpr.md names it
    planned = plan_recipe(recipe, with_data=False)
    assert planned.device.name in ("h100", "a100-80g")
    assert planned.fits
    assert planned.plan.total_memory < CARD
    if recipe.machine.devices > 1:
        assert (ROOT / "configs" / "accelerate" / f"{recipe.machine.sharding}.yaml").is_file()
        # The other way to shard that the docs name must do as well.
        assert plan_recipe(recipe, with_data=False, sharding="fsdp2").fits


@pytest.mark.parametrize("path", [path for path in GRPO if path.parent.name != "vpr"], ids=name)
def test_those_of_the_paper_fit_one_gpu_with_adapters(path: Path) -> None:
    recipe = load_recipe(path, [ONE_GPU])
    planned = plan_recipe(recipe, with_data=False)
    assert (planned.setup.devices, planned.setup.sharding) == (1, "none")
    assert planned.setup.lora is not None
    assert planned.plan.total_memory < CARD


def test_those_of_the_paper_are_trained_whole_on_eight_gpus() -> None:
    for path in GRPO:
        if path.parent.name in ("grounding", "counting", "detection", "ocr"):
            recipe = load_recipe(path)
            assert (recipe.machine.devices, recipe.machine.sharding) == (8, "zero3"), path
            assert recipe.lora is None
            assert not recipe.freeze_vision


def test_the_readmes_recipe_fits_one_gpu_and_its_plan_is_the_one_printed(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n# my-recipe.yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    file = tmp_path / "my-recipe.yaml"
    file.write_text(block[1], encoding="utf-8")
    planned = plan_recipe(load_recipe(file), with_data=False)
    assert (planned.setup.devices, planned.device.name) == (1, "h100")
    assert planned.plan.total_memory < CARD
    printed = re.search(r"^  together, about +(\d+) +of 79$", text, re.MULTILINE)
    assert printed is not None
    assert int(printed[1]) == round(planned.plan.total_memory / 2**30)
    for part, value in planned.plan.memory.items():
        assert re.search(rf"^  {re.escape(part)} +{value / 2**30:.1f}$", text, re.MULTILINE), part
