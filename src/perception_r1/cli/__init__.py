"""The command ``pr1``: a table of commands, each in a module of its own that is imported when it is called.

Exit codes: 0 done; 1 it ran and the answer is no; 2 the input is wrong (one line on standard error says what, where and
the fix); 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from perception_r1.cli.lazy import LazyGroup, Spec

# The order is the order of a first day with the program; `--help` shows it.
COMMANDS: dict[str, Spec] = {
    "demo": Spec(
        "perception_r1.cli.demo:demo",
        "Train a tiny model to see on handwritten digits, and open the evidence (minutes, no GPU, no download).",
        "Start here",
    ),
    "doctor": Spec(
        "perception_r1.cli.doctor:doctor",
        "Say what this installation can do, and the pip line for what it cannot.",
        "Start here",
    ),
    "data": Spec("perception_r1.cli.data:data_app", "Convert data into rows, and draw them.", "Data and rewards"),
    "check": Spec(
        "perception_r1.cli.check:check",
        "Check a recipe or data before training: rows, round trip of every gold answer, hacks, prompt lengths.",
        "Data and rewards",
    ),
    "score": Spec(
        "perception_r1.cli.score:score", "Score responses in a JSONL file, one record a line.", "Data and rewards"
    ),
    "sft": Spec("perception_r1.cli.train:sft", "Supervised fine-tuning of a recipe (TRL).", "Train and evaluate"),
    "train": Spec(
        "perception_r1.cli.train:train",
        "Train a recipe with GRPO on verifiable rewards (TRL).",
        "Train and evaluate",
    ),
    "eval": Spec(
        "perception_r1.cli.eval:eval_command",
        "Evaluate a model, or saved responses, with the field's metrics.",
        "Train and evaluate",
    ),
    "predict": Spec(
        "perception_r1.cli.predict:predict",
        "Ask a model one question about one picture, print the answer, draw it.",
        "Train and evaluate",
    ),
    "compare": Spec(
        "perception_r1.cli.compare:compare",
        "Compare two evaluations, sample by sample: paired differences, McNemar's test.",
        "Train and evaluate",
    ),
    "vpr": Spec(
        "perception_r1.cli.vpr:vpr_app",
        "The visual perception reward: chains of thought, visual facts, judges, the perception study.",
        "Data and rewards",
    ),
    "report": Spec(
        "perception_r1.cli.report:report", "Write report.html of a run or evaluation.", "Train and evaluate"
    ),
    "diagnose": Spec(
        "perception_r1.cli.diagnose:diagnose",
        "Say whether these data and this model call for RL, SFT or neither, and why.",
        "See why",
    ),
    "replay": Spec(
        "perception_r1.cli.replay:replay",
        "Score a run's saved rollouts under another reward: would it have pushed the same way?",
        "See why",
    ),
    "curriculum": Spec(
        "perception_r1.cli.curriculum:curriculum",
        "Sort a recipe's questions from easy to hard and write one recipe a stage.",
        "See why",
    ),
    "ablate": Spec(
        "perception_r1.cli.ablate:ablate",
        "Run a grid of recipe changes and seeds; one table with intervals.",
        "See why",
    ),
    "plan": Spec(
        "perception_r1.cli.plan:plan",
        "Memory and time of a recipe on a machine, before it is rented.",
        "Other engines",
    ),
    "export": Spec(
        "perception_r1.cli.export:export_app",
        "Write a recipe out for verl, ms-swift, EasyR1 or VLM-R1.",
        "Other engines",
    ),
}


class _Root(LazyGroup):
    table = COMMANDS


app = typer.Typer(
    cls=_Root,
    name="pr1",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Perception-R1: reinforcement learning that teaches a vision-language model to see better.",
    epilog="Exit codes: 0 done, 1 it ran and the answer is no, 2 the input is wrong, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"perception-r1 {version('perception-r1')}")
        raise typer.Exit


@app.callback()
def _root(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show Python's traceback of an error as well as its message.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command; ``traceback`` is read by ``LazyGroup``."""


def main(args: list[str] | None = None) -> None:
    """Entry point of ``pr1``; never returns (``SystemExit`` with the exit code)."""
    app(args, prog_name="pr1")


__all__ = ["COMMANDS", "app", "main"]
