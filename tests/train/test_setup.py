"""What the stages have in common."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine_data import make_recipe
from perception_r1.errors import RecipeError
from perception_r1.families import get_family
from perception_r1.recipe.build import recipe_samples
from perception_r1.train.setup import trainer_args


def test_total_is_the_number_of_rows_to_train_on(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)  # eight rows to train on, four to evaluate on
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"total": 6})})
    family = get_family("qwen2_5_vl")
    assert len(recipe_samples(recipe, recipe.data.train, family)) == 6
    assert len(recipe_samples(recipe, recipe.data.eval, family)) == 4


FAKE_GPU = """
import json, sys, torch
torch.cuda.device_count = lambda: 1
torch.cuda.is_available = lambda: True
torch.cuda.set_device = lambda *_: None
native = json.loads(sys.argv[1])  # a V100 emulates bfloat16
torch.cuda.is_bf16_supported = lambda including_emulation=True: native or including_emulation
import trl
from pathlib import Path
from perception_r1.errors import RecipeError
from perception_r1.train.setup import trainer_args
for table in json.loads(sys.argv[2]):
    try:
        args = trainer_args(trl.GRPOConfig, table, name="grpo", folder=Path("run"), where="r.yaml")
        print(args.bf16, args.fp16)
    except RecipeError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        (True, ["True False", "True False", "False True"]),
        (False, ["False False", "r.yaml: field 'grpo.bf16': the GPU has no bfloat16", "False True"]),
    ],
)
def test_the_precision_is_one_that_the_gpu_has(native: bool, expected: list[str]) -> None:
    pytest.importorskip("trl")
    tables = [{"tf32": None}, {"tf32": None, "bf16": True}, {"tf32": None, "fp16": True}]
    command = [sys.executable, "-c", FAKE_GPU, json.dumps(native), json.dumps(tables)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for line, start in zip(done.stdout.splitlines(), expected, strict=True):
        assert line.startswith(start), done.stdout


def test_flash_attention_without_a_gpu_is_refused(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    table = {"model_init_kwargs": {"attn_implementation": "flash_attention_2"}, "use_cpu": True}
    with pytest.raises(RecipeError, match="flash_attention_2 needs a GPU; take sdpa"):
        trainer_args(trl.SFTConfig, table, name="sft", folder=tmp_path, where="r.yaml")
