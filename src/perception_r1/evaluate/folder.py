"""When an evaluation may go on with the answers in its folder: same model, same questions, same generation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from perception_r1.errors import UserError
from perception_r1.evaluate.results import (
    SAMPLES,
    SETTINGS,
    read_json_file,
    read_lines,
    write_json_file,
    write_lines,
)
from perception_r1.models.identity import identity_tag, same_model, shown_identity

if TYPE_CHECKING:
    from perception_r1.evaluate.generate import Generator, Streamer
    from perception_r1.tasks import Task
    from perception_r1.types import Completion, Sample

Others: TypeAlias = Literal["refuse", "replace"]
_ADVICE = "choose another --out, or --no-resume to replace them"


def answered_settings(
    task: Task,
    samples: Sequence[Sample],
    answers: Generator | Streamer | Mapping[str, Completion],
    model_name: str,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What answers depend on: ``settings.json``."""
    # The categories are asked for (detection), and the question need not say them.
    asked = [(s.id, s.question, s.target, s.model_size, s.categories, _picture(s.image)) for s in samples]
    prompts = [(prompt.system, prompt.user) for prompt in map(task.prompt, samples)]
    if isinstance(answers, Mapping):
        texts = [(answers[s.id].text, answers[s.id].finish_reason) for s in samples]
        backend: dict[str, Any] = {"backend": "replay", "responses": _digest(texts)}
    else:
        backend = dict(answers.settings)
    return {
        "task": task.name,
        "model": model_name,
        **({"identity": dict(identity)} if identity else {}),
        "family": task.family.name,
        "preset": task.reward.preset,
        "thinking": task.thinking,
        "prompt": task.prompt_preset,
        "n": len(samples),
        "data": _digest(asked),
        "prompts": _digest(prompts),
        **backend,
    }


def open_folder(
    out_dir: Path, settings: dict[str, Any], samples: Sequence[Sample], resume: bool, others: Others = "refuse"
) -> None:
    """Make the folder ready.

    Raises:
        UserError: it holds answers of another model or of other settings, or of a model that is not known.
    """
    file = out_dir / SAMPLES
    if not resume:
        _clear(out_dir)
    elif out_dir.is_dir():
        merge_shares(out_dir)  # what processes of a killed evaluation left
    rows = read_lines(file) if file.is_file() else []
    if rows and (changed := differences(read_json_file(out_dir / SETTINGS), settings)):
        if others == "refuse":
            raise UserError(f"{out_dir}: {changed}; {_ADVICE}")
        print(f"{out_dir}: {changed}: evaluating anew", file=sys.stderr)
        rows = []
        _clear(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json_file(out_dir / SETTINGS, settings)
    known = {sample.id for sample in samples}
    # Without the half line that a kill may have left, and without those to be asked again.
    write_lines(file, (row for row in rows if row.get("id") in known and "no_answer" not in row))


def differences(before: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    """Why answers made with the settings ``before`` are not those of ``settings``; "" where they are."""
    if before is None:
        return f"holds answers that no {SETTINGS} says the model of"
    old, new = before.get("identity"), settings.get("identity")
    if new and not old:
        return (
            "holds answers of an evaluation that did not record its model's fingerprint (an earlier version's): "
            "whether they are this model's cannot be told"
        )
    if (old or new) and not same_model(old, new):
        return f"holds the results of another model, {shown_identity(old)}" if old else "holds another model's results"
    ignored = {"identity"} | ({"model"} if new else set())  # a folder that was moved or renamed is the same model
    changed = [key for key in dict.fromkeys([*settings, *before]) if before.get(key) != settings.get(key)]
    changed = [key for key in changed if key not in ignored]
    return f"holds the results of another evaluation (differs in: {', '.join(changed)})" if changed else ""


class ResultsFolder(NamedTuple):
    """Where results go: ``path``, of which model, and ``why`` it is not the usual folder ("" where it is)."""

    path: Path
    identity: Mapping[str, Any]
    why: str = ""


def results_folder(
    out: Path | None, label: str, model_name: str, identity: Mapping[str, Any], resume: bool = True
) -> ResultsFolder:
    """``out``, or ``runs/eval-LABEL-MODEL``, with a tag of the model where that has answers of another one.

    Answers of another model are neither reused nor, unless asked for, replaced.

    Raises:
        UserError: ``out`` holds answers of another model (said before the model is loaded).
    """
    folder = out or Path("runs") / f"eval-{label}-{model_name.replace('/', '--')}"
    for settings in (folder / SETTINGS, *sorted(folder.glob(f"*/{SETTINGS}"))):
        before = read_json_file(settings)
        if not (settings.parent / SAMPLES).is_file() or same_model((before or {}).get("identity"), identity):
            continue
        why = f"{settings.parent}: {differences(before, {'identity': identity})}"
        if out is None:
            tagged = folder.with_name(f"{folder.name}-{identity_tag(identity)}")
            return ResultsFolder(tagged, identity, f"{why}; these results go to {tagged}")
        if resume:
            raise UserError(f"{why}; {_ADVICE}")
    return ResultsFolder(folder, identity)


def share_name(index: int) -> str:
    """The file that one of several processes writes."""
    return f"samples.{index}.jsonl"


def merge_shares(out_dir: Path) -> None:
    """All processes' files into ``samples.jsonl``."""
    shares = sorted(_shares(out_dir))
    rows = [row for path in (out_dir / SAMPLES, *shares) if path.is_file() for row in read_lines(path)]
    write_lines(out_dir / SAMPLES, rows)
    for path in shares:
        path.unlink()


def _shares(out_dir: Path) -> list[Path]:
    """Those files; a user's own beside them (samples.before.jsonl) is not one."""
    return [path for path in out_dir.glob("samples.*.jsonl") if path.name.split(".")[1].isdigit()]


def _clear(out_dir: Path) -> None:
    for path in (out_dir / SAMPLES, *_shares(out_dir)):
        path.unlink(missing_ok=True)


def _picture(image: str | None) -> tuple[str, int] | None:
    """Name and bytes of a picture's file: pictures of another folder (--images) are other questions."""
    if image is None:
        return None
    path = Path(image)
    return path.name, path.stat().st_size if path.is_file() else -1


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
