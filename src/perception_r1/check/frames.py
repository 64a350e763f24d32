"""Do a model's real answers fit the coordinate frame that its family declares, or would another one fit them better?

The most common mistake with boxes of vision-language models, and a silent one: a model that answers in pixels of the
resized image, read as 0..1000, earns almost nothing and trains on noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import get_args

from perception_r1.boxes import center, iou_matrix, to_image_box, to_image_point
from perception_r1.check.findings import Finding
from perception_r1.data.files import broken_json, existing_file
from perception_r1.data.row import sample_from_row
from perception_r1.errors import DataError
from perception_r1.evaluate.generate import finish_reason
from perception_r1.tasks import Task
from perception_r1.types import BoxTarget, Completion, Frame, FrameKind, Parsed, PointTarget, Sample, Size

FRAMES: tuple[FrameKind, ...] = get_args(FrameKind)
LEAST_GAIN = 0.02
"""A frame must agree better than the declared one by this much, and by three standard errors of the difference, to be
worth a finding: the frames of pixels differ little where images are hardly resized."""

CLEAR_GAIN = 0.1
"""A gain from which the family is surely the wrong one."""

NO_AGREEMENT = 0.05

_TARGET_KEYS = {"boxes", "points", "count", "text"}
Answer = tuple[Sample, Completion]


@dataclass(frozen=True, slots=True)
class FrameFit:
    """Agreement of the answers with the targets under every frame, in [0, 1].

    Agreement is the mean over targets of the best IoU that an entry has with it (boxes), or of 1 − distance to the
    nearest entry / a tenth of the image's diagonal (points); 0 for a target without any. ``n`` answers were compared,
    those with at least one readable entry and one target.
    """

    n: int
    declared: FrameKind
    agreement: Mapping[FrameKind, float]
    best: FrameKind
    findings: tuple[Finding, ...]


def fit_frames(task: Task, answers: Iterable[Answer]) -> FrameFit:
    """Compare answers with their targets under each frame.

    Args:
        task: parses; its family declares the frame.
        answers: prepared samples (image size and model size known) with the model's completions.
    """
    seen: dict[FrameKind, list[float]] = {kind: [] for kind in FRAMES}
    for sample, completion in answers:
        parsed = task.parse(sample, completion)
        if sample.image_size is None or not _comparable(sample, parsed):
            continue
        for kind in FRAMES:
            seen[kind].append(_agreement(sample, parsed, Frame(kind, sample.image_size, sample.model_size)))
    declared = task.family.frame
    n = len(seen[declared])
    agreement = {kind: math.fsum(values) / n if n else 0.0 for kind, values in seen.items()}
    # On a tie the declared frame is right: 0..1000 and pixels agree where an image has 1000 of them.
    best = max(FRAMES, key=lambda kind: (agreement[kind], kind == declared))
    gain = agreement[best] - agreement[declared]
    findings = []
    if gain >= LEAST_GAIN and gain > 3 * _standard_error(seen[best], seen[declared]):
        name = task.family.name
        findings.append(
            Finding(
                "frame",
                f"the answers fit frame '{best}' better ({agreement[best]:.2f}) than '{declared}' "
                f"({agreement[declared]:.2f}), which family '{name}' declares: is it the right family, with the sizes "
                f"that the model saw? (else set family: {{base: {name}, frame: {best}}})",
                "error" if gain >= CLEAR_GAIN else "warning",
            )
        )
    elif n and agreement[best] < NO_AGREEMENT:
        findings.append(
            Finding("frame", f"under no frame do answers overlap the targets (best {agreement[best]:.2f})", "warning")
        )
    elif not n:
        findings.append(Finding("frame", "no answer has a readable box or point to compare", "warning"))
    return FrameFit(n, declared, agreement, best, tuple(findings))


def read_answers(path: str | Path, task: Task, samples: Sequence[Sample] = ()) -> list[Answer]:
    """A model's saved answers with their samples.

    Args:
        path: JSON lines with ``response``, and either the ``id`` of one of ``samples`` or the row's own target and
            sizes (the forms of ``pr1 score`` and of an evaluation's ``samples.jsonl``).
        task: whose answers they are.
        samples: to look ids up in.

    Raises:
        DataError: naming file, line and field.
    """
    path = existing_file(Path(path))
    by_id = {sample.id: sample for sample in samples}
    found: list[Answer] = []
    with path.open("rb") as stream:
        for line, raw in enumerate(stream, start=1):
            if raw.strip():
                found.append(_answer(raw, path, line, task, by_id))
    if not found:
        raise DataError("the file is empty (expected one JSON object a line)", path=path)
    return found


def _answer(raw: bytes, path: Path, line: int, task: Task, by_id: Mapping[str, Sample]) -> Answer:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text (save it as UTF-8)", path=path, line=line) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{broken_json(error)} (expected one JSON object a line)", path=path, line=line) from None
    if not isinstance(row, dict) or not isinstance(row.get("response"), str):
        raise DataError("expected the model's answer as text", path=path, line=line, field="response")
    completion = Completion(row["response"], finish_reason(row, path, line))
    known = by_id.get(str(row.get("id")))
    if known is not None:
        return known, completion
    fields = {key: value for key, value in row.items() if key not in ("image", "record", "target")}
    fields |= row["target"] if isinstance(row.get("target"), dict) else {}
    for key, prefix in (("image_size", ""), ("model_size", "model_")):
        if isinstance(row.get(key), list) and len(row[key]) == 2:
            fields[f"{prefix}width"], fields[f"{prefix}height"] = row[key]
    if not _TARGET_KEYS & fields.keys():
        where = "is not a row of the data" if "id" in row else "is missing"
        raise DataError(
            f"{where}, and the line has no target of its own (boxes, points, count or text)",
            path=path,
            line=line,
            field="id",
        )
    defaults = {"id": str(line), **({"question": "the object"} if task.question_says else {})}
    sample = sample_from_row(
        {**defaults, **fields}, path=path, line=line, task=task.name, check_image=False, image_required=False
    )
    if sample.image_size is not None and sample.model_size is None:
        try:
            sample = replace(sample, model_size=_seen_size(sample.image_size, task))
        except DataError as error:
            raise DataError(error.message, path=path, line=line) from None
    return sample, completion


def _seen_size(size: Size, task: Task) -> Size:
    """What a model sees of an image; refused where boxes are pixels of it and its limits are not known."""
    return task.family.seen_size(size) if task.family.frame == "resized" else task.family.model_size(size)


def _comparable(sample: Sample, parsed: Parsed) -> bool:
    target = sample.target
    wanted = (
        target.boxes_xyxy
        if isinstance(target, BoxTarget)
        else target.points_xy
        if isinstance(target, PointTarget)
        else ()
    )
    return bool(wanted) and any(entry.issue is None for entry in parsed.objects)


def _standard_error(a: Sequence[float], b: Sequence[float]) -> float:
    """Of the mean difference of paired values; 0 with fewer than two pairs."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0


def _agreement(sample: Sample, parsed: Parsed, frame: Frame) -> float:
    if frame.kind == "resized" and frame.model_size is None:
        return 0.0
    boxes = [to_image_box(entry.box_xyxy, frame) for entry in parsed.objects if entry.box_xyxy is not None]
    target = sample.target
    if isinstance(target, BoxTarget):
        return float(iou_matrix(boxes, target.boxes_xyxy).max(axis=0).mean()) if boxes else 0.0
    assert isinstance(target, PointTarget)
    points = [center(box) for box in boxes]
    points += [to_image_point(entry.point_xy, frame) for entry in parsed.objects if entry.point_xy is not None]
    if not points:
        return 0.0
    reach = math.hypot(*frame.image_size) / 10
    near = [min(math.dist(point, wanted) for point in points) for wanted in target.points_xy]
    return math.fsum(max(0.0, 1 - distance / reach) for distance in near) / len(near)
