"""``pr1 compare``: two evaluations of the same samples, paired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_r1.evaluate.compare import Change, Comparison


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of the first evaluation (before), or a file of labels.")],
    b: Annotated[Path, typer.Argument(help="Folder of the second one (after), or a file of labels.")],
    right_from: Annotated[
        float | None,
        typer.Option(
            "--right-from",
            min=0.0,
            max=1.0,
            help="How good an answer must be to count as right.",
            show_default="IoU 0.5; everything right elsewhere",
        ),
    ] = None,
    changed: Annotated[int, typer.Option("--changed", "-n", min=0, help="How many changed samples to print.")] = 20,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write all changed samples as JSON lines.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare two evaluations, sample by sample; of folders that hold several, those of one name.

    Differences with paired bootstrap intervals, McNemar's exact test and its mid-p value, and the samples that changed.
    Files of labels are JSON lines with "id" and "right", as people make who read answers one by one.
    """
    import json
    from dataclasses import asdict

    from perception_r1.evaluate.compare import compare_runs, paired_folders
    from perception_r1.evaluate.results import write_lines

    pairs = paired_folders(a, b)
    found = [(name, compare_runs(*sides, right_from=right_from, seed=seed)) for name, *sides in pairs]
    if out is not None:
        write_lines(out, (_named(name, asdict(change)) for name, part in found for change in part.changes))
    if as_json:
        made = [_named(name, part.to_dict()) for name, part in found]
        typer.echo(json.dumps(made[0] if len(made) == 1 else made, ensure_ascii=False))
        return
    for name, part in found:
        text = comparison_text(part, changed)
        typer.echo(f"{name}\n{text}\n" if name else text)
    if out is not None:
        typer.echo(f"changed samples: {out}")


def _named(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"evaluation": name, **row} if name else row


def comparison_text(found: Comparison, changed: int = 20) -> str:
    """The comparison for a reader."""
    first, second = found.names
    lines = [
        f"A: {first}   B: {second}   {found.n} samples of both"
        + (f" ({found.left_out} of one only, left out)" if found.left_out else "")
    ]
    width = max((len(name) for name in found.metrics), default=0)
    if found.metrics:
        lines.append(f"  {'':<{width}}  {'A':>8}  {'B':>8}  {'B − A':>8}   95 % interval")
    for name, entry in found.metrics.items():
        clear = "" if entry["low"] <= 0 <= entry["high"] else "  *"
        lines.append(
            f"  {name:<{width}}  {entry['a']:8.4f}  {entry['b']:8.4f}  {entry['value']:+8.4f}   "
            f"[{entry['low']:+.4f}, {entry['high']:+.4f}]{clear}"
        )
    if found.metrics:
        lines.append("  * the interval leaves out 0")
    lines.append(
        f"McNemar ({found.right}): only A {found.only_a}, only B {found.only_b}, both {found.both}, "
        f"neither {found.neither}; exact p = {found.exact:.4g}, mid-p = {found.mid:.4g}"
    )
    counts = {name: sum(change.outcome == name for change in found.changes) for name in ("gained", "lost")}
    others = len(found.changes) - sum(counts.values())
    lines.append(f"changed: {counts['gained']} gained, {counts['lost']} lost, {others} better or worse")
    lines += [_line(change) for change in found.changes[:changed]]
    if len(found.changes) > changed:
        lines.append(f"  … and {len(found.changes) - changed} more (--changed {len(found.changes)}, or --out FILE)")
    return "\n".join(lines)


def _line(change: Change) -> str:
    said = " ".join(change.said_after.split())
    said = f"   {said[:60]}…" if len(said) > 60 else f"   {said}" if said else ""
    question = f"  {change.question[:40]}" if change.question else ""
    return f"  {change.outcome:<6} {change.id}{question}  {change.before:.3f} → {change.after:.3f}{said}"
