"""``pr1 report``: the page of a run, made again from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Run folders: trainings, evaluations, or folders that hold some.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page.", show_default="report.html in the first folder")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title.", show_default="the folder's name")] = None,
    gallery: Annotated[int, typer.Option("--gallery", min=0, help="How many samples to show.")] = 24,
    rollouts: Annotated[
        int, typer.Option("--rollouts", min=0, help="How many rollouts the group inspector holds at most; 0: none.")
    ] = 16_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the gallery's choice and the bootstrap.")] = 0,
    paper: Annotated[
        str | None,
        typer.Option("--paper", help="pr1 or vpr: the paper's tables with our rows, as HTML, Markdown and JSON."),
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Also a still picture of the result.")] = None,
) -> None:
    """Write report.html of a run or evaluation: one file that opens from disk.

    Evaluations are compared with the first one: a training's stages (warm-start, sft, rl) in their order, others as
    given.
    """
    if paper is not None:
        from perception_r1.report.paper_page import write_paper_report

        for path in write_paper_report(paper, folders, out, gallery=gallery, seed=seed):
            typer.echo(f"{path.suffix[1:]:<5} {path}")
        return
    from perception_r1.report import write_report

    page = write_report(folders, out, title=title, gallery=gallery, rollouts=rollouts, seed=seed)
    typer.echo(f"report:  {page}")
    if png is not None:
        from perception_r1.report.picture import write_picture

        typer.echo(f"picture: {write_picture(folders, png, title=title or '', seed=seed)}")
