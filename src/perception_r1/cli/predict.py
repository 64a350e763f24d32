"""``pr1 predict``: ask a model one question about one picture, print the answer, draw it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def predict(
    image: Annotated[Path, typer.Argument(help="The picture.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or hub id of the model; its name at a server.")],
    task: Annotated[str, typer.Option("--task", "-t", help="grounding, counting, detection, ocr, geometry.")],
    question: Annotated[
        str, typer.Option("--question", "-q", help="What to find or count; for detection, the categories by commas.")
    ] = "",
    family: Annotated[
        str | None, typer.Option("--family", "-f", help="The model's family.", show_default="from its configuration")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The picture to write.", show_default="IMAGE-TASK.png here")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="transformers, vllm, or openai.")] = "transformers",
    server: Annotated[str | None, typer.Option("--server", help="openai: its address, http://HOST:PORT/v1.")] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="Ask as the released evaluation of this published checkpoint does.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="training, or evaluation.", show_default="training")
    ] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="Ask for <think> and <answer> blocks.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, show_default="1024")] = None,
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", min=1, show_default="the model's")] = None,
    device: Annotated[str | None, typer.Option("--device", show_default="cuda where there is one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer with its boxes as JSON.")] = False,
) -> None:
    """Ask a model one question about one picture, print the answer, and draw it.

    Boxes come out in pixels of the picture as it is, whatever frame the model answers in.

    Example: pr1 predict street.jpg --task grounding -q "the red car" --model Kangheng/PR1-Qwen2-VL-2B-Grounding
    """
    import json

    from perception_r1.cli.asking import family_of, limits_of, own_limits
    from perception_r1.data.images import image_size, prepare
    from perception_r1.errors import UserError
    from perception_r1.evaluate.backends import Decoding, ServerSettings, open_backend
    from perception_r1.evaluate.checkpoints import checkpoint_for
    from perception_r1.evaluate.generate import NoAnswer, Streamer
    from perception_r1.evaluate.results import Result
    from perception_r1.report.prediction import answer_line, save_prediction
    from perception_r1.tasks import make_task

    checkpoint = checkpoint_for(like, model)
    known = family_of(family or (checkpoint.family if checkpoint else None), None, model, backend)
    preset: Any = prompt or (checkpoint.prompt if checkpoint else "training")
    asker = make_task(task, family=known, thinking=thinking, prompt=preset)
    low, high = limits_of(None, checkpoint, asker.family, own_limits(model, backend), None, max_pixels)
    sample = prepare(_sample(image, image_size(image), task, question), asker.family, min_pixels=low, max_pixels=high)
    decoding = Decoding(
        max_new_tokens or (checkpoint.max_new_tokens if checkpoint else 1024),
        1,
        checkpoint.repetition_penalty if checkpoint else 1.0,
    )
    answers = open_backend(
        backend, model, asker.family, decoding, device=device, server=ServerSettings(server, 1, 600.0)
    )
    asked = asker.prompt(sample)
    if isinstance(answers, Streamer):
        ((_, completion),) = answers.stream([sample], [asked])
    else:
        (completion,) = answers([sample], [asked])
    if isinstance(completion, NoAnswer):
        raise UserError(str(completion))
    result = Result(sample, completion, asker.score(sample, completion))
    drawn = save_prediction(result, out or Path(f"{image.stem}-{task}.png"))
    record = result.record
    if as_json:
        shown = {
            "answer": record.answer,
            "status": record.status,
            "boxes": record.pred_xyxy,
            "points": record.pred_points,
            "labels": record.pred_labels,
            "response": completion.text,
            "prompt": asked.user,
            "picture": str(drawn),
        }
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    typer.echo(answer_line(result))
    for index, box in enumerate(record.pred_xyxy):
        if box is not None:
            label = record.pred_labels[index] if index < len(record.pred_labels) else None
            typer.echo(f"  {label or question}: " + " ".join(f"{value:.1f}" for value in box))
    typer.echo(f"picture: {drawn}")


def _sample(image: Path, size: tuple[int, int], task: str, question: str) -> Any:
    """The question as a sample; its target is empty, and its score means nothing."""
    from perception_r1.errors import UserError
    from perception_r1.tasks import task_class
    from perception_r1.types import Sample

    kind = task_class(task)
    if not question.strip() and (kind.question_says or kind.asks_categories):
        raise UserError(f'say what to ask: --question "{kind.example_question}"')
    categories = tuple(part.strip() for part in question.split(",") if part.strip()) if kind.asks_categories else ()
    text = "" if categories else question
    return Sample(image.stem, task, text, kind.nothing, str(image), size, categories=categories)
