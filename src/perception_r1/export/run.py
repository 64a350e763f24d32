"""One call for every engine: rows, task settings and the engine's own files into one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_r1.check.lengths import TokenCounter, image_tokens
from perception_r1.errors import RecipeError, UserError
from perception_r1.export import easyr1, swift, verl, vlm_r1
from perception_r1.export.rows import Rows, rows_of
from perception_r1.recipe.schema import Recipe
from perception_r1.types import Sample

Writer = Callable[[Path, Recipe, Rows, dict[str, Any]], list[str]]

ENGINES: dict[str, Writer] = {
    "verl": verl.write,
    "swift": swift.write,
    "easyr1": easyr1.write,
    "vlm-r1": vlm_r1.write,
}
"""Engines by name."""

_STRIPS = ("verl", "swift")
"""Engines whose rewards see text without special tokens."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what the engine will not do as TRL does."""

    folder: Path
    n_train: int
    n_eval: int
    notes: tuple[str, ...]


def export(
    recipe: Recipe,
    engine: str,
    out: str | Path,
    *,
    gpus: int = 8,
    nodes: int = 1,
    strategy: verl.Strategy = "fsdp2",
    unscored: float = 0.0,
) -> Exported:
    """Write ``recipe`` for ``engine`` into ``out``.

    Args:
        recipe: with a ``grpo`` table.
        engine: a key of `ENGINES`.
        out: the folder; new, empty, or an earlier export, whose files are replaced.
        gpus: devices a machine; with ``nodes`` they decide the batch, as they do under TRL.
        nodes: machines.
        strategy: of verl: fsdp, fsdp2 or megatron.
        unscored: what stands for an answer that could not be scored, where the engine has no such thing.

    Raises:
        UserError: a bad recipe or row, or a folder with something else in it. Nothing is written then.
    """
    if engine not in ENGINES:
        raise RecipeError(f"unknown engine {engine!r} (known: {', '.join(ENGINES)})")
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "task.json").is_file():
        raise UserError(f"{out}: not empty and no export of ours; choose another folder")
    rows = rows_of(recipe)
    options: dict[str, Any] = {"gpus": gpus, "nodes": nodes}
    if engine in ("verl", "easyr1"):
        options["prompt_tokens"] = prompt_limit(rows)
    if engine == "verl":
        verl.overrides(recipe, rows, strategy=strategy, **options)  # refuses before anything is written
        options["strategy"] = strategy
    if engine != "swift":
        options["unscored"] = unscored
    out.mkdir(parents=True, exist_ok=True)
    (out / "task.json").write_text(json.dumps(rows.settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    notes = ENGINES[engine](out, recipe, rows, options)
    if rows.task.reward.preset == "released" and rows.task.family.name == "qwen2_vl" and engine in _STRIPS:
        notes.append(
            "reward: this engine strips special tokens, which the released format reward looks for; "
            "it then gives every answer the same (say reward: {preset: robust})"
        )
    lines = [f"- {note}" for note in notes] or ["- nothing"]
    text = f"# {recipe.name} for {engine}\n\nWhat is not as TRL would have it:\n\n" + "\n".join(lines) + "\n"
    (out / "NOTES.md").write_text(text, encoding="utf-8")
    return Exported(out, len(rows.train), len(rows.eval), tuple(notes))


def prompt_limit(rows: Rows) -> int:
    """Tokens that the longest prompt may have: text by an estimate, the image exactly, rounded up."""
    counter = TokenCounter.estimate()

    def tokens(sample: Sample) -> int:
        text = 1.3 * counter.prompt(rows.task.prompt(sample)) + 32
        return int(text) + image_tokens(sample, rows.family)

    longest = max(tokens(sample) for sample in (*rows.train, *rows.eval))
    return -(-longest // 128) * 128
