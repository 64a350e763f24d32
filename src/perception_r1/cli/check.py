"""``pr1 check``: find before a long run what would spoil it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from perception_r1.check.run import CheckReport

SHOWN_ROWS = 20


def check(
    target: Annotated[
        Path, typer.Argument(help="A recipe (.yaml) or data.", metavar="RECIPE|DATA", show_default=False)
    ],
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Of data: grounding, counting, detection, ocr.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", "-f", help="The model's family.", show_default="the recipe's")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="Reward: robust or released.", show_default="the recipe's, robust"),
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Of data: answers have <think> and <answer> blocks.")] = (
        False
    ),
    source: Annotated[
        str | None, typer.Option("--from", help="Format of data (see pr1 data convert).", show_default="by its name")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Of data: root folder of the images.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of data: which part, where the format has parts.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or hub id: its tokenizer and chat template are checked and count tokens.",
            show_default="the recipe's, if it is here",
        ),
    ] = None,
    responses: Annotated[
        Path | None, typer.Option("--responses", help="Real answers (JSON lines: response, and id or target).")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="An evaluation set (recipe or data): list the images shared with it.",
            show_default="the recipe's, as a warning",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read the headers of pictures only, instead of decoding each.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="That decode pictures.", show_default="one a core")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="That many rows, drawn at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --limit and of the rows that hacks are tried on.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> int:
    """Check a recipe or data before training.

    Names every bad row, those whose picture does not decode included; writes each right answer in the model's own form,
    reads it back and scores it; tries known hacks on the reward; renders a prompt with the model's own chat template;
    verifies that the longest fits with its image. Exit code 1 when something is wrong.
    """
    import random

    from perception_r1.check.frames import read_answers
    from perception_r1.check.inputs import RECIPES, evaluation_rows, of_data, of_recipe
    from perception_r1.check.model import model_of
    from perception_r1.check.pictures import decoded
    from perception_r1.check.run import run_checks
    from perception_r1.progress import progress

    if target.suffix in RECIPES:
        inputs = of_recipe(target, family=family, preset=preset, overrides=overrides or ())
    else:
        inputs = of_data(
            target,
            family=family,
            preset=preset,
            task=task,
            source=source,
            images=images,
            split=split,
            thinking=thinking,
        )
    samples = inputs.samples
    # Answers name rows of the whole data, so they are looked up before --limit draws some.
    answers = None if responses is None else read_answers(responses, inputs.task, samples)
    if limit is not None and limit < len(samples):
        samples = random.Random(seed).sample(samples, limit)
    own = inputs.evaluation if against is None and inputs.evaluation and samples is not inputs.evaluation else None
    if not quick:
        samples = decoded(samples, inputs.bad, processes, quiet)
        if own is not None:
            own = decoded(own, inputs.bad, processes, quiet)
    used = model_of(model, inputs, samples)
    with progress("checking", len(samples), enabled=not quiet) as advance:
        report = run_checks(
            inputs.task,
            samples,
            bad=inputs.bad,
            counter=used.counter,
            tokenizer=used.findings,
            limits=inputs.limits,
            answers=answers,
            against=own if against is None else evaluation_rows(against, inputs.task.name, source),
            own_evaluation=own is not None,
            seed=seed,
            advance=advance,
        )
    if json_:
        import json

        typer.echo(json.dumps({"target": str(target), **report.to_dict(), "notes": inputs.notes}, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        for note in inputs.notes:
            console.print(f"note: {note}", markup=False)
        _show(console, report, target, used.name)
    return 0 if report.ok else 1


def _show(console: Console, report: CheckReport, target: Path, model: str | None) -> None:
    from rich.markup import escape

    from perception_r1.check.run import NO_ROW

    def line(part: str, what: str) -> None:
        levels = {finding.severity for finding in report.findings if finding.part == part}
        mark = "[red]✗[/]" if "error" in levels else "[yellow]![/]" if levels else "[green]✓[/]"
        console.print(f"{mark} {escape(what)}")
        mine = [finding for finding in report.findings if finding.part == part]
        for finding in mine[:SHOWN_ROWS]:
            where = f"{finding.sample}: " if finding.sample and part != "rows" else ""
            console.print(f"    {where}{finding.message}", markup=False)
        if len(mine) > SHOWN_ROWS:
            console.print(f"    and {len(mine) - SHOWN_ROWS:,} more (--json lists all)")

    console.print(f"[bold]{escape(str(target))}[/]: {report.task}, family {report.family}")
    n_bad = sum(finding.part == "rows" and finding.message != NO_ROW for finding in report.findings)
    line("rows", f"rows: {report.n_rows:,} good, {n_bad:,} bad")
    gold = report.gold
    if gold.mean is not None:
        own = "" if gold.own_mean is None else f"; the recipe's own reward: mean {gold.own_mean:.4f}"
        line("gold", f"right answers, written and read back: mean {gold.mean:.4f}, least {gold.least:.4f}{own}")
    if report.hacks:
        line(
            "hacks",
            f"hacks: {sum(row.ok for row in report.hacks)} of {len(report.hacks)} do not pay ({report.hack_rows} rows)",
        )
        _hack_table(console, report)
    if model is not None:
        line("tokenizer", f"tokenizer and chat template of {model}")
    lengths = report.lengths
    if lengths is not None:
        about = "" if lengths.exact else "about "
        context = "context unknown" if lengths.context is None else f"context {lengths.context:,}"
        estimate = "" if lengths.exact else " (an estimate of the text; --model FOLDER_OR_ID counts)"
        line(
            "lengths",
            f"longest prompt: {about}{lengths.prompt_tokens:,} tokens, {lengths.image_tokens:,} of them its image "
            f"({lengths.prompt_id}); longest right answer: {about}{lengths.answer_tokens:,}; {context}{estimate}",
        )
    frame = report.frame
    if frame is not None:
        fits = ", ".join(f"{kind} {value:.3f}" for kind, value in frame.agreement.items())
        line(
            "frame",
            f"{frame.n:,} real answers, agreement with the targets by frame: {fits} ({frame.declared} declared)",
        )
    if report.shared is not None:
        line("overlap", f"images shared with the evaluation set: {len(report.shared):,}")
        for image in report.shared[:SHOWN_ROWS]:
            console.print(f"    {image.image_a} = {image.image_b} (by {image.by})", markup=False)
    n_errors = sum(finding.severity == "error" for finding in report.findings)
    n_warnings = len(report.findings) - n_errors
    verdict = "[green]ok[/]" if report.ok else "[red]not ok[/]"
    console.print(f"{verdict}: {n_errors} to fix, {n_warnings} to know")


def _hack_table(console: Console, report: CheckReport) -> None:
    from rich.padding import Padding
    from rich.table import Table

    paid = [row for row in report.hacks if row.n_over or row.worst >= 0.005]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("    hack", "earns at most", "honest limit", "rows over"):
        table.add_column(column, justify="left" if column == "    hack" else "right")
    for row in sorted(paid, key=lambda row: (row.ok, -row.worst)):
        over = f"[red]{row.n_over} of {row.n}[/]" if row.n_over else f"0 of {row.n}"
        table.add_row(f"    {row.name}", f"{row.worst:.0%}", f"{row.limit:.0%}", over)
    if paid:
        console.print(table)
    nothing = [row.name for row in report.hacks if row not in paid]
    if nothing:
        console.print(Padding(f"[dim]earn nothing: {', '.join(nothing)}[/]", (0, 0, 0, 4)), soft_wrap=False)
