"""The stages of a recipe: supervised fine-tuning, GRPO, or the one and then the other."""

from __future__ import annotations

from pathlib import Path

from perception_r1.errors import RecipeError
from perception_r1.recipe.schema import Recipe


def run_sft(recipe: Recipe, out: Path, *, resume: bool = False, show_progress: bool = True) -> Path:
    """Run the recipe's ``sft`` table; returns the model's folder.

    Raises:
        RecipeError: the recipe has no such table.
    """
    from perception_r1.train.sft import train_sft

    if recipe.sft is None:
        raise RecipeError(
            f"{recipe.path or recipe.name}: no 'sft' table (pr1 sft needs one; an empty one will do: sft: {{}})"
        )
    return train_sft(recipe, out, resume=resume, show_progress=show_progress)


def run_grpo(recipe: Recipe, out: Path, *, resume: bool = False, show_progress: bool = True) -> Path:
    """Run the recipe's ``grpo`` table, after its ``sft`` table where ``warm_start: sft`` says so (in ``OUT/sft``).

    Raises:
        RecipeError: the recipe has no ``grpo`` table.
    """
    from perception_r1.train.grpo import train_grpo

    if recipe.grpo is None:
        raise RecipeError(f"{recipe.path or recipe.name}: no 'grpo' table (pr1 train needs one)")
    if recipe.warm_start is None:
        return train_grpo(recipe, out, resume=resume, show_progress=show_progress)
    # GRPO goes on from the float32 weights themselves; only its own result is rounded to the base's dtype.
    exact = recipe.model_copy(update={"save_dtype": "float32"})
    warm = run_sft(exact, out / "sft", resume=resume and (out / "sft").is_dir(), show_progress=show_progress)
    grpo = out / "grpo"
    return train_grpo(recipe, grpo, model_path=warm, resume=resume and grpo.is_dir(), show_progress=show_progress)
