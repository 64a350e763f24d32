"""``pr1 import``: another project's launch script as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_recipe(
    source: Annotated[Path, typer.Argument(help="A launch script (.sh), or VLM-R1's data YAML.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The recipe to write.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="The task, where the script does not tell.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where the file names none, or another.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
) -> None:
    """Turn PR1's or VLM-R1's launch arguments into a recipe. The script is read, never run.

    Example: pr1 import run_grpo_rec.sh grounding.yaml
    """
    from perception_r1.data.files import atomic_write
    from perception_r1.errors import UserError
    from perception_r1.importer import import_launch

    if out.exists() and not force:
        raise UserError(f"{out}: is there already (add --force to replace it)")
    found = import_launch(source, task=task, model=model)
    with atomic_write(out) as stream:
        stream.write(found.to_yaml(source.name))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{found.values['task']}, {found.values['model']} → {out}")
    typer.echo(f"next: pr1 check {out}   pr1 train {out} --dry-run")
