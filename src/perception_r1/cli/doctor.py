"""``pr1 doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception_r1.doctor import Diagnosis


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Import what training imports too (ten seconds).")] = False,
) -> int:
    """Say what this installation can do, and the pip line for what it cannot.

    Exit code 1 when training does not work here.
    """
    from perception_r1.doctor import examine

    diagnosis = examine(deep=deep)
    if json_:
        import json

        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        _show(diagnosis)
    return 0 if diagnosis.ok else 1


def _show(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    memory = "memory unknown"
    if diagnosis.memory_gib is not None:
        memory = f"{diagnosis.memory_gib:g} GiB memory ({diagnosis.memory_free_gib:g} free)"
    console.print(f"perception-r1 {diagnosis.version}, Python {diagnosis.python}, {diagnosis.platform}")
    console.print(f"{diagnosis.cores} cores, {memory}, {diagnosis.disk_free_gib:g} GiB of disk free here")
    for device in diagnosis.devices:
        size = "" if device.memory_gib is None else f", {device.memory_gib:g} GiB"
        console.print(f"device: {device.kind}: {device.name}{size}")
    console.print(escape(f"torchvision: {diagnosis.torchvision}"))
    console.print(f"Chromium (tests of report.html): {diagnosis.chromium or 'not found; those tests are skipped'}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "package", "installed", "needed", "for", "without it there is no"):
        table.add_column(column)
    for package in diagnosis.packages:
        mark = "[green]✓[/]" if package.ok else "[red]✗[/]" if package.extra in ("", "train") else "[yellow]–[/]"
        lost = "" if package.ok else f"{package.disables}\n[bold]{escape(package.fix)}[/]"
        table.add_row(mark, package.name, package.installed or "–", package.required, package.extra or "core", lost)
    console.print(table)
    for note in diagnosis.notes:
        console.print(f"note: {note}")
    for problem in diagnosis.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    console.print("[green]Training works here.[/]" if diagnosis.ok else "[red]Training does not work here.[/]")
