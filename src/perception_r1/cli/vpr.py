"""``pr1 vpr``: the data pipeline, judges and studies of the visual perception reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_r1.vpr.steps import StepReport

vpr_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The visual perception reward: chains of thought, visual facts, judges, the perception study.",
)

Url = Annotated[str, typer.Option("--url", help="Address of the server, with its version: http://HOST:PORT/v1")]
Model = Annotated[str, typer.Option("--model", "-m", help="The model's name there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with --out: what is there is not asked for again.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Requests at a time.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="A prompt file of your own.", show_default="ours")]
KeyName = Annotated[
    str | None, typer.Option("--key-env", help="Environment variable with the key.", show_default="OPENAI_API_KEY")
]
Price = Annotated[
    str | None, typer.Option("--price", metavar="IN,OUT", help="Prices of a million tokens, for the cost.")
]
Extra = Annotated[str | None, typer.Option("--extra", help="Further fields of each request, as JSON.")]
Preset = Annotated[str, typer.Option("--preset", "-p", help="robust or released.")]


@vpr_app.command()
def distill(
    data: Annotated[Path, typer.Argument(help="Problems: rows of task geometry, or any source with --from.")],
    out: Out,
    url: Url,
    model: Model,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Solutions a problem.")] = 1,
    source: Annotated[
        str | None, typer.Option("--from", help="jsonl, geometry3k, mathvista.", show_default="by its name")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Root folder of the images.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part, where the format has parts.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a solution.")] = 4096,
    prompt: Prompt = None,
    concurrency: Concurrency = 32,
    timeout: Timeout = 300.0,
    key_env: KeyName = None,
    price: Price = None,
    extra: Extra = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ask a vision-language model for chains of thought.

    Example: pr1 vpr distill data/geometry3k --from geometry3k --split train --url http://127.0.0.1:8000/v1 -m VLM
    --n 4 -o chains.jsonl
    """
    from perception_r1.data.sources import guess_source, load_source
    from perception_r1.judge.prompt import load_prompt
    from perception_r1.vpr.distill import distill as run

    paid = _prices(price)
    spec = {
        "source": source or guess_source(data),
        "path": str(data),
        "split": split,
        "images": None if images is None else str(images),
    }
    samples = load_source(spec, task="geometry", note=lambda note: typer.echo(f"note: {note}", err=True))
    report = run(
        samples,
        _server(url, model, concurrency, timeout, key_env),
        load_prompt(prompt or "distill", "distill"),
        out,
        n=n,
        temperature=temperature,
        max_tokens=max_tokens,
        resume=resume,
        extra_body=_extra(extra),
        show_progress=not quiet,
    )
    _tell(report, out, paid, as_json)


@vpr_app.command("filter")
def filter_command(
    data: Annotated[Path, typer.Argument(help="What distill wrote: rows with answer and response.")],
    out: Out,
    per_problem: Annotated[int | None, typer.Option(min=1, help="At most so many a problem, the shortest.")] = None,
    any_form: Annotated[bool, typer.Option("--any-form", help="Also keep answers without blocks or box.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Keep the chains whose final answer is right, by the same checker as the reward."""
    from perception_r1.vpr.distill import keep_right

    report = keep_right(data, out, per_problem=per_problem, strict=not any_form, show_progress=not quiet)
    _tell(report, out, None, as_json)


@vpr_app.command()
def annotate(
    data: Annotated[Path, typer.Argument(help="What filter wrote: rows with question, answer and response.")],
    out: Out,
    url: Url,
    model: Model,
    parquet: Annotated[
        Path | None, typer.Option(help="Also write the parquet that the authors' repository reads.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 1024,
    prompt: Prompt = None,
    concurrency: Concurrency = 64,
    timeout: Timeout = 120.0,
    key_env: KeyName = None,
    price: Price = None,
    extra: Extra = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let a text model turn chains of thought into atomic visual facts."""
    from perception_r1.judge.prompt import load_prompt
    from perception_r1.vpr.annotate import annotate as run
    from perception_r1.vpr.annotate import write_parquet

    paid = _prices(price)
    report = run(
        data,
        _server(url, model, concurrency, timeout, key_env),
        load_prompt(prompt or "annotate", "annotate"),
        out,
        max_tokens=max_tokens,
        resume=resume,
        extra_body=_extra(extra),
        show_progress=not quiet,
    )
    if parquet is not None:
        report.counts["rows of parquet"] = write_parquet(out, parquet)
    _tell(report, out, paid, as_json)


@vpr_app.command()
def judge(
    data: Annotated[
        Path | None, typer.Argument(help="Rows with question, answer, visual_annotations and response.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Address of the judge.", show_default="lexical judge")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The judge's name there.")] = None,
    gold: Annotated[
        Path | None, typer.Option(help="Measure the judge on labelled rows: facts, response, verdicts.")
    ] = None,
    generated: Annotated[int, typer.Option(help="Measure it on so many generated cases.", min=0)] = 0,
    battery: Annotated[int, typer.Option(help="Attack it, on so many diagrams.", min=0)] = 0,
    preset: Preset = "robust",
    cache: Annotated[Path | None, typer.Option(help="File of verdicts to keep.", show_default="in memory")] = None,
    prompt: Prompt = None,
    concurrency: Concurrency = 256,
    timeout: Timeout = 60.0,
    key_env: KeyName = None,
    price: Price = None,
    extra: Extra = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Score saved responses with a judge, or measure the judge itself (--gold, --generated, --battery).

    Without --url the lexical judge is used, which needs no server. Exit code 1: the judge was fooled by the battery.

    Example: pr1 vpr judge --url http://127.0.0.1:8001/v1 -m JUDGE --generated 200 --battery 20
    """
    from perception_r1.errors import UserError
    from perception_r1.judge import Judge, make_judge

    if url is not None and model is None:
        raise UserError("--url needs --model, the judge's name there")

    def made() -> Judge:
        if url is None:
            return make_judge(None)
        return make_judge(
            {
                "kind": "openai",
                "base_url": url,
                "model": model,
                "prompt": prompt or "judge",
                "api_key_env": key_env,
                "concurrency": concurrency,
                "timeout_s": timeout,
                "cache": None if cache is None else str(cache),
                "extra_body": _extra(extra),
            }
        )

    if gold is None and not generated and not battery:
        if data is None or out is None:
            raise UserError("say what to judge: pr1 vpr judge ROWS -o FILE (or --gold, --generated, --battery)")
        from perception_r1.vpr.score import judge_rows

        paid = _prices(price)
        report = judge_rows(data, made(), out, preset=preset, resume=resume, show_progress=not quiet)
        _tell(report, out, paid, as_json)
        return 0
    return _measured(made, gold, generated, battery, as_json)


def _measured(made: Any, gold: Path | None, generated: int, battery: int, as_json: bool) -> int:
    from perception_r1.vpr import gold as quality

    found: dict[str, Any] = {}
    if gold is not None:
        found["gold"] = quality.measure(made(), quality.read_gold(gold)).to_dict()
    if generated:
        found["generated"] = quality.measure(made(), quality.generated_gold(generated)).to_dict()
    if battery:
        found["battery"] = quality.battery(made(), n=battery)
    table = found.get("battery")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        lines = [line for name in found if name != "battery" for line in quality.quality_lines(name, found[name])]
        typer.echo("\n".join([*lines, *(quality.battery_lines(table) if table else ())]))
    return 1 if table is not None and (table["paid"] is None or table["paid"] > 0.05) else 0


@vpr_app.command()
def perception(
    a: Annotated[Path, typer.Argument(help="Responses of the first model: JSON lines, or an evaluation's folder.")],
    b: Annotated[Path, typer.Argument(help="Responses of the second model to the same samples.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many samples, drawn at random.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the draw and of the sides.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sheet to write.")] = Path("perception.html"),
    labels: Annotated[Path | None, typer.Option(help="The labels that the sheet saved: evaluate them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare how two models read pictures: write a blind labelling sheet, then evaluate its labels.

    Example: pr1 vpr perception runs/eval-base runs/eval-rl --n 50 --seed 1, label, then the same with --labels FILE
    """
    from perception_r1.vpr.perception import pick, read_labels, read_responses, study, write_sheet

    pairs = pick(read_responses(a), read_responses(b), n, seed)
    if labels is None:
        key = write_sheet(pairs, out, seed=seed)
        typer.echo(f"{len(pairs)} pairs → {out} (open it, label, save; then add --labels labels-{key}.json)")
        return
    found = study(read_labels(labels, pairs, seed=seed), len(pairs))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    typer.echo(f"{found.n} pairs labelled, {found.unlabelled} not")
    typer.echo(f"  read rightly: A {found.a_right}, B {found.b_right} (both {found.both}, neither {found.neither})")
    typer.echo(f"  only A {found.only_a}, only B {found.only_b}: exact p = {found.p:.4f}, mid-p = {found.p_mid:.4f}")
    for model, errors in (("A", found.errors_a), ("B", found.errors_b)):
        listed = ", ".join(f"{name} {number}" for name, number in sorted(errors.items(), key=lambda pair: -pair[1]))
        typer.echo(f"  errors of {model}: {listed or 'none'}")


@vpr_app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("runs/vpr-demo"),
    resume: Resume = False,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: key.sub=value.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a tiny model with and without the visual reward on generated diagrams, and compare the two."""
    from perception_r1.vpr.demo import run_demo

    result = run_demo(
        out,
        resume=resume,
        overrides=tuple(changes or ()),
        show_progress=not quiet,
        say=lambda line: typer.echo(line, err=as_json),
    )
    if as_json:
        typer.echo(json.dumps(result))
        return
    for row in result["comparisons"]:
        typer.echo(
            f"{row['what']}: {row['first']} {row['first_right']}, {row['second']} {row['second_right']} of {row['n']}; "
            f"only the first {row['only_first']}, only the second {row['only_second']}, exact p = {row['p']:.4g}"
        )


def _server(url: str, model: str, concurrency: int, timeout: float, key_env: str | None) -> Any:
    import os

    from perception_r1.errors import UserError
    from perception_r1.openai_server import PLAIN_DECODING, ChatServer

    if key_env is not None and key_env not in os.environ:
        raise UserError(f"--key-env {key_env}: the environment has no such variable")
    key = os.environ[key_env] if key_env else None
    return ChatServer(url, model, api_key=key, concurrency=concurrency, timeout_s=timeout, optional=PLAIN_DECODING)


def _extra(text: str | None) -> dict[str, Any]:
    from perception_r1.errors import UserError

    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"--extra {text!r}: expected a JSON object")
    return value


def _prices(text: str | None) -> tuple[float, float] | None:
    from perception_r1.errors import UserError

    if text is None:
        return None
    try:
        paid_in, paid_out = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--price {text!r}: expected two numbers, IN,OUT") from None
    return paid_in, paid_out


def _tell(report: StepReport, out: Path, paid: tuple[float, float] | None, as_json: bool) -> None:
    report.price(paid)
    if as_json:
        typer.echo(json.dumps({**report.to_dict(), "out": str(out)}, ensure_ascii=False))
        return
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{report.line()} → {out}")
    if report.n_failed:
        typer.echo(f"what failed, and why: {out}.failed.jsonl (--resume asks again)", err=True)
