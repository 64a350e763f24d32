"""``pr1 plan``: memory and time of a recipe, on paper."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from perception_r1.cli.train import Overrides, RecipeFile

OWN = "the recipe's machine"


def plan(
    recipe: RecipeFile,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="h200, h100, a100-80g, a100-40g, l40s, rtx4090, …", show_default=OWN),
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", "-n", min=1, help="How many, one process each.", show_default=OWN)
    ] = None,
    sharding: Annotated[str | None, typer.Option(help="none (DDP), zero2, zero3 or fsdp2.", show_default=OWN)] = None,
    efficiency: Annotated[float, typer.Option(help="Share of the device's rate that training reaches.")] = 0.35,
    answer_tokens: Annotated[
        float | None,
        typer.Option("--answer-tokens", help="Mean length of an answer.", show_default="that of the right answers"),
    ] = None,
    without_data: Annotated[
        bool, typer.Option("--without-data", help="Plan for the largest image and the longest answer allowed.")
    ] = False,
    override: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> int:
    """Memory of each device and time of a step, from the model's shape, the real images, G, lengths and sharding.

    Exit code 1 when it does not fit; then it says what would. docs/engines.md says how far off the figures are.

    Example: pr1 plan recipes/detection/rl.yaml --device a100-80g --devices 8 --sharding fsdp2
    """
    from perception_r1.plan import plan_recipe
    from perception_r1.recipe.schema import load_recipe

    found = plan_recipe(
        load_recipe(recipe, override or ()),
        device=device,
        devices=devices,
        sharding=sharding,
        efficiency=efficiency,
        answer_tokens=answer_tokens,
        with_data=not without_data,
    )
    if as_json:
        values = {
            "recipe": found.recipe,
            "device": found.device.name,
            "devices": found.setup.devices,
            "sharding": found.setup.sharding,
            "rows": found.rows,
            "steps": found.steps,
            "batch": vars(found.batch),
            "memory_bytes": found.plan.memory,
            "memory_phase": found.plan.phase,
            "memory_bytes_of_the_other_phase": found.plan.other_memory,
            "seconds_per_step": found.plan.seconds,
            "tokens_per_step_and_device": found.plan.tokens,
            "tokens_without_sharing": found.plan.tokens_plain,
            "fits": found.fits,
            "advice": list(found.advice),
        }
        typer.echo(json.dumps(values))
        return 0 if found.fits else 1
    _print(found)
    return 0 if found.fits else 1


def _print(found) -> None:  # type: ignore[no-untyped-def]  # types would import heavily
    from perception_r1.progress import format_duration

    batch, setup, made, gib = found.batch, found.setup, found.plan, 2.0**30
    shape = found.shape
    typer.echo(f"{found.recipe}: {found.model}, {shape.parameters / 1e9:.2f} billion parameters")
    typer.echo(
        f"{setup.devices} × {found.device.name}, {setup.sharding if setup.sharding != 'none' else 'no'} sharding, "
        f"{batch.rows} completions × {setup.accumulate} a device and step, groups of {batch.group}"
    )
    typer.echo(
        f"prompts of {batch.prompt:,.0f} tokens ({batch.image:,.0f} of them image; longest {batch.longest:,.0f}), "
        f"answers of {batch.answer:,.0f} (at most {batch.limit:,})"
    )
    saved = f", {made.tokens_plain / made.tokens:.1f} times fewer than without sharing prefixes" if batch.shared else ""
    typer.echo(f"tokens forwarded a device and step: {made.tokens:,.0f}{saved}\n")
    other = "generation" if made.phase == "training" else "training"
    typer.echo(f"memory of each device (GiB), at its fullest: {made.phase} ({other}: {made.other_memory / gib:.0f})")
    for name, value in made.memory.items():
        typer.echo(f"  {name:28} {value / gib:8.1f}")
    typer.echo(f"  {'together, about':28} {made.total_memory / gib:6.0f}    of {found.device.memory / gib:.0f}")
    typer.echo("time of a step (s)")
    for name, value in made.seconds.items():
        typer.echo(f"  {name:28} {value:8.1f}")
    whole = f"  × {found.steps:,} steps = {format_duration(made.total_seconds * found.steps)}" if found.rows else ""
    typer.echo(f"  {'together, about':28} {made.total_seconds:6.0f}{whole}")
    if found.fits:
        typer.echo("\nfits, with a tenth of the memory left free")
        return
    typer.echo(
        "\ndoes not fit (a tenth of the memory is left free for fragments and libraries); what would change that:"
    )
    for line in found.advice:
        typer.echo(f"  {line}")
