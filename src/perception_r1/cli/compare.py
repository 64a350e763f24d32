"""``pr1 compare``: two evaluations of the same samples, paired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    """Compare two evaluations, sample by sample.

    Differences with paired bootstrap intervals, McNemar's exact test and its mid-p value, and the samples that changed.
    Files of labels are JSON lines with "id" and "right", as people make who read answers one by one.
    """
    import json

    from perception_r1.evaluate.compare import compare_runs
    from perception_r1.evaluate.results import write_lines

    found = compare_runs(a, b, right_from=right_from, seed=seed)
    if out is not None:
        write_lines(out, (change for change in found.to_dict()["changes"]))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    typer.echo(comparison_text(found, changed))
    if out is not None:
        typer.echo(f"changed samples: {out}")


def comparison_text(found: Comparison, changed: int = 20) -> str:
    """The comparison for a reader."""
    first, second = found.names
    lines = [f"A: {first}   B: {second}   {found.n} samples of both" + (
        f" ({found.left_out} of one only, left out)" if found.left_out else "")]  # fmt: skip
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
