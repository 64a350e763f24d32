"""Settings of the trainer that were renamed between the versions of transformers we support."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from perception_r1.errors import RecipeError

# Old name → new name, of transformers 5.23. Recipes may use either with any version.
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def installed_names(table: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    """Name renamed settings as the installed version does.

    Args:
        table: A recipe's settings of the trainer.
        known: The names that the installed version has.
        where: File and table, for the message.

    Raises:
        RecipeError: a setting is given under both names.
    """
    names = {key: key for key in table}
    for old, new in RENAMED.items():
        if old in table and new in table:
            raise RecipeError(f"{where}.{old}': the older name of {new}, which is set too; keep {new}")
        if new in table and new not in known:
            names[new] = old
        if old in table and old not in known:
            names[old] = new
    return {names[key]: value for key, value in table.items()}
