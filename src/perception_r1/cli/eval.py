"""``pr1 eval``: a model, or answers saved earlier, against data or a named benchmark, with the field's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perception_r1.types import Sample


def eval_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe: its task, family, image limits and data.eval are used.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or hub id of the model; its name at a server.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", help="refcoco, refcoco+-testA, pixmo-count, pageocr, coco2017 …; several by commas."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="grounding, counting, detection, ocr.")] = None,
    family: Annotated[
        str | None, typer.Option("--family", "-f", help="The model's family.", show_default="from its configuration")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Rows to evaluate on (JSON lines); with --benchmark, its official files."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Root of the image paths.", show_default="the folder of --data")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results.", show_default="runs/eval-TASK-RUN")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", "-b", help="transformers, vllm, openai (a server), or replay (saved answers).")
    ] = "transformers",
    responses: Annotated[
        Path | None,
        typer.Option("--responses", help="Saved answers for replay: (id, response) lines, or a result file of PR1's."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="openai: its address, http://HOST:PORT/v1 (key: OPENAI_API_KEY).")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="openai: requests at a time.")] = 16,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="openai: seconds for an answer.")] = 600.0,
    request: Annotated[
        str | None, typer.Option("--request", help="openai: further fields of each request, as a JSON object.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help='vllm: its arguments as JSON, {"tensor_parallel_size": 4}.')
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="Ask as the released evaluation of this published checkpoint does.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Reward preset of the records.", show_default="robust")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="training, or evaluation (PR1's evaluation code).", show_default="training"),
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Ask for <think> and <answer> blocks.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, show_default="the benchmark's, or 1024")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option("--repetition-penalty", min=0.01, show_default="1")
    ] = None,
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", min=1, help="Of the image the model sees.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", min=1, show_default="the recipe's, or the model's")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, show_default="16")] = None,
    box_scores: Annotated[
        str, typer.Option("--box-scores", help="Detection: one (1.0 for each box); logprob adds COCO figures by it.")
    ] = "one",
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="That many samples, drawn at random.")] = (
        None
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of --limit and of the bootstrap.")] = 0,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="Detection: COCO's official annotation file.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Benchmark: leave out samples whose image is not there.")
    ] = False,
    device: Annotated[str | None, typer.Option("--device", show_default="cuda where there is one")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with answers already in --out.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Evaluate a model, or saved responses, with the field's metrics.

    Greedy answers are written to samples.jsonl as they come; started again, a killed evaluation goes on. metrics.json
    has each figure with its 95 % bootstrap interval. Started by torchrun or accelerate, all processes share the work.

    Example: pr1 eval --model Kangheng/PR1-Qwen2-VL-2B-Counting --data eval --images eval/images
    """
    import json

    from perception_r1.cli.asking import (
        benchmarks_of,
        decoding_of,
        family_of,
        json_object,
        limited,
        limits_of,
        other_sizes,
        own_limits,
        samples_of,
        task_of,
    )
    from perception_r1.errors import UserError
    from perception_r1.evaluate.backends import BACKENDS, ServerSettings, backend_identity, open_backend
    from perception_r1.evaluate.benchmarks import load_benchmark
    from perception_r1.evaluate.checkpoints import checkpoint_for
    from perception_r1.evaluate.folder import results_folder
    from perception_r1.evaluate.run import evaluate
    from perception_r1.evaluate.workers import started_workers
    from perception_r1.models.identity import file_identity, model_label

    if backend not in BACKENDS:
        raise UserError(f"--backend {backend}: expected {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}")
    if backend == "replay" and responses is None:
        raise UserError("--backend replay needs the saved answers: --responses FILE.jsonl")
    if box_scores not in ("one", "logprob"):
        raise UserError(f"--box-scores {box_scores}: expected one or logprob")
    settings = None
    if recipe is not None:
        from perception_r1.recipe.schema import load_recipe

        settings = load_recipe(recipe)
    name = model or (settings.model if settings else None)
    checkpoint = checkpoint_for(like, name)
    chosen = benchmarks_of(benchmark, checkpoint, data, task)
    task_name = task or (chosen[0].task if chosen else settings.task if settings else None)
    if task_name is None:
        raise UserError("say which task: --task grounding|counting|detection|ocr (or give a recipe, or --benchmark)")
    if settings and settings.task != task_name:
        raise UserError(f"--task {task_name}: the recipe's task is {settings.task}")
    if backend != "replay" and name is None:
        raise UserError("say which model: --model FOLDER_OR_ID (or --backend replay --responses FILE)")

    if chosen and data is None:
        raise UserError("say where the benchmark's files are: --data FOLDER")

    workers = started_workers(cpu=device == "cpu")
    decoding = decoding_of(settings, checkpoint, chosen, max_new_tokens, batch_size, repetition_penalty, box_scores)
    prompt = prompt or (checkpoint.prompt if checkpoint else None)
    like_family = family or (checkpoint.family if checkpoint and (like or settings is None) else None)
    scorer = task_of(task_name, family_of(like_family, settings, name, backend), settings, preset, prompt, thinking)
    own = own_limits(name, backend)
    min_pixels, max_pixels = limits_of(settings, checkpoint, scorer.family, own, min_pixels, max_pixels)
    shown_name = model_label(name) if name else Path(str(responses)).stem
    # Before the model is loaded, which may take minutes: bad data is said at once.
    parts: list[tuple[str | None, list[Sample], Path | None, list[str]]] = []
    if chosen:
        for item in chosen:
            found = load_benchmark(item, Path(str(data)), images, missing="skip" if skip_missing else "error")
            rows = limited(found.samples, limit, seed)
            parts.append((item.name, rows, found.annotations, [f"{item.title} from {found.path}", *found.notes]))
    else:
        parts.append((None, limited(samples_of(data, images, scorer, settings), limit, seed), annotations, []))

    generator: Any = None
    label = (benchmark or "").replace(",", "_") or (chosen[0].name if len(chosen) == 1 else task_name)
    if backend == "replay":
        folder = results_folder(out, label, shown_name, file_identity(Path(str(responses))), resume)
    else:
        extra, arguments = json_object("--request", request), json_object("--engine", engine)
        server_settings = ServerSettings(server, concurrency, timeout, extra)
        identity = backend_identity(backend, str(name), server_settings, arguments)
        folder = results_folder(out, label, shown_name, identity, resume)
        generator = open_backend(
            backend, str(name), scorer.family, decoding, device=device, server=server_settings, engine=arguments
        )
    workers.wait()  # nobody writes while another still looks for its folder
    if folder.why and workers.is_first:
        typer.echo(f"note: {folder.why}", err=True)
    results = []
    for part_name, rows, part_annotations, notes in parts:
        answers = generator
        if backend == "replay":
            from perception_r1.evaluate.answers import read_answers

            answers = read_answers(Path(str(responses)), rows)
        part_folder = folder.path / str(part_name) if len(parts) > 1 else folder.path
        resized = other_sizes(rows, scorer.family, (min_pixels, max_pixels), own)
        if resized is not None:
            notes = [*notes, resized]
            if workers.is_first:
                typer.echo(f"warning: {resized}", err=True)
        metrics = evaluate(
            scorer,
            rows,
            answers,
            part_folder,
            model_name=shown_name,
            identity=folder.identity,
            resume=resume,
            progress=not quiet,
            label=f"evaluating {part_name}" if part_name else "evaluating",
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            annotations=annotations or part_annotations,
            seed=seed,
            benchmark=part_name,
            notes=notes,
            workers=workers,
        )
        if not workers.is_first:
            continue
        results.append({**metrics, "out": str(part_folder)})
        if not as_json:
            typer.echo(metrics_table(metrics))
    if not workers.is_first:
        return
    if as_json:
        typer.echo(json.dumps(results[0] if len(results) == 1 else results, ensure_ascii=False))
    else:
        paper = " --paper pr1" if chosen else ""
        typer.echo(f"results: {folder.path}   next: pr1 report {folder.path}{paper}")


def metrics_table(metrics: dict[str, Any]) -> str:
    """Metrics as aligned text: the primary one, or those of the papers' tables first, values with their intervals."""
    from perception_r1.evaluate.benchmarks import BENCHMARKS

    what = metrics.get("benchmark") or metrics["task"]
    lines = [f"{metrics['model']} · {what} · {metrics['n_scored']} of {metrics['n']} samples scored"]
    published = BENCHMARKS[metrics["benchmark"]].columns if metrics.get("benchmark") in BENCHMARKS else {}
    marks = dict.fromkeys(published, "in the papers' tables") or {metrics["primary"]: "primary"}
    names = sorted(metrics["metrics"], key=lambda name: name not in marks)
    width = max((len(name) for name in names), default=0)
    for name in names:
        entry = metrics["metrics"][name]
        span = f"   [{entry['low']:.4f}, {entry['high']:.4f}]" if "low" in entry else ""
        lines.append(f"  {name:<{width}}  {entry['value']:8.4f}{span}{f'   ← {marks[name]}' if name in marks else ''}")
    if metrics["unparsable"]:
        lines.append("  not usable: " + ", ".join(f"{reason} {n}" for reason, n in metrics["unparsable"].items()))
    return "\n".join(lines)
