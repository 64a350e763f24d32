from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perception_r1.errors import RecipeError
from perception_r1.train.renamed import installed_names

OLD, NEW = "gradient_checkpointing", "activation_checkpointing"


@pytest.mark.parametrize("suffix", ["", "_kwargs"])
def test_either_name_becomes_one_that_the_installed_version_has(suffix: str) -> None:
    old, new = OLD + suffix, NEW + suffix
    for given in (old, new):
        table = {given: False, "learning_rate": 1.0}
        assert installed_names(table, {old}, "r") == {old: False, "learning_rate": 1.0}
        assert installed_names(table, {new}, "r") == {new: False, "learning_rate": 1.0}
        assert installed_names(table, {old, new}, "r") == table


def test_both_names_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"r: field 'grpo.gradient_checkpointing': the older name of activation_"):
        installed_names({OLD: True, NEW: False}, {OLD, NEW}, "r: field 'grpo")


@pytest.mark.parametrize("config", ["GRPOConfig", "SFTConfig"])
@pytest.mark.parametrize("name", [OLD, NEW])
@pytest.mark.parametrize("value", [True, False])
def test_both_names_reach_the_installed_trainer(config: str, name: str, value: bool, tmp_path: Path) -> None:
    import trl

    from perception_r1.train.setup import trainer_args

    table: dict[str, Any] = {name: value, "bf16": False}
    args = trainer_args(getattr(trl, config), table, name="grpo", folder=tmp_path, where="r")
    assert args.gradient_checkpointing is value
