"""The supervised warm start of the embedded default: what ``pr1 demo --rebuild`` runs, and made the packaged weights.

Two stages. The vision tower alone learns which digit lies on each of its patches and which token names it (every VLM
starts from a pre-trained, aligned encoder; from the few labels in answers it would take hours). Then a plain loop:
fresh scenes of one digit, then one or two, then (the last 100 steps) one to three, all four tasks mixed in every batch,
cross entropy on the answer. Scenes of more than three digits are all but unseen (3 % of those last steps): they are
what reinforcement learning is for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from perception_r1.data.digits import CATEGORIES, scene
from perception_r1.errors import ModelError
from perception_r1.models.tiny import build_tiny
from perception_r1.progress import progress
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Sample, TaskName

OnStep: TypeAlias = Callable[[int, float, Any], None]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class WarmStartConfig:
    """Settings of the warm start; the defaults made the packaged weights.

    ``mix``: scenes of each task in a batch. ``stages``: (share of the steps at which it ends, most digits) each.
    After these, ``last_steps`` on scenes of one to three digits, a share of ``rare`` of them with four or five: a model
    that has never gone on after a third digit never samples a fourth, and reinforcement learning then has nothing to
    reinforce.
    ``tower_share``: the learning rate of the trained vision tower after its own stage, as a share of the others'.
    """

    vision_steps: int = 1200
    vision_batch: int = 64
    vision_learning_rate: float = 8e-3
    steps: int = 1200
    mix: tuple[tuple[TaskName, int], ...] = (("grounding", 32), ("counting", 10), ("detection", 16), ("ocr", 16))
    stages: tuple[tuple[float, int], ...] = ((0.1, 1), (1.0, 2))
    learning_rate: float = 4e-3
    tower_share: float = 0.25
    last_steps: int = 100
    last_learning_rate: float = 2e-3
    rare: float = 0.03
    warmup: int = 50
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0


def build_warm_start(
    out_dir: str | Path,
    *,
    seed: int = 0,
    config: WarmStartConfig | None = None,
    on_step: OnStep | None = None,
    show_progress: bool = False,
) -> Path:
    """Train the tiny Qwen3-VL from scratch and write model and processor into ``out_dir``, loadable by transformers.

    Args:
        out_dir: where the model's folder goes.
        seed: of the initial weights and of the scenes; the same seed on the same machine gives the same weights.
        config: other settings than those of the packaged weights.
        on_step: called after each step as ``on_step(step, loss, model)``.
        show_progress: print progress on standard error.

    Returns:
        ``out_dir``. Its ``warm_start.json`` records the settings and the loss.
    """
    import torch

    settings = config or WarmStartConfig()
    model, processor = build_tiny("qwen3_vl", seed=seed)
    began, losses = time.perf_counter(), []
    with progress("vision", settings.vision_steps, unit="steps", enabled=show_progress) as advance:
        for loss in _train_vision(model, processor, settings, seed):
            advance(1, f"loss {loss:.2f}")
    last = replace(
        settings, steps=settings.last_steps, stages=((1.0, 3),), learning_rate=settings.last_learning_rate, warmup=10
    )
    training = chain(
        _train(model, processor, settings, seed, rare=0.0),
        _train(model, processor, last, seed + 1, rare=settings.rare),
    )
    n_steps = settings.steps + settings.last_steps
    with progress("warm start", n_steps, unit="steps", enabled=show_progress) as advance:
        for step, loss in enumerate(training, start=1):
            losses.append(loss)
            advance(1, f"loss {loss:.2f}")
            if on_step is not None:
                on_step(step, loss, model)
    record = {
        "seed": seed,
        "config": asdict(settings),
        "loss": [round(float(np.mean(losses[i : i + 50])), 4) for i in range(0, len(losses), 50)],
        "seconds": round(time.perf_counter() - began, 1),
        "torch": torch.__version__,
    }
    return _finish(Path(out_dir), model.eval(), processor, record)


def unpack_warm_start(out_dir: str | Path) -> Path:
    """Write the packaged warm start into ``out_dir`` as a model folder, the same as ``build_warm_start`` writes.

    Raises:
        ModelError: the package came without its weights.
    """
    from safetensors.torch import load_file

    assets = Path(str(files("perception_r1") / "assets" / "warm_start"))
    if not (assets / WEIGHTS).is_file():
        raise ModelError(f"{assets / WEIGHTS}: the packaged weights are missing: train them with pr1 demo --rebuild")
    model, processor = build_tiny("qwen3_vl")
    model.load_state_dict(load_file(assets / WEIGHTS), strict=False)
    model.tie_weights()
    record = json.loads((assets / "warm_start.json").read_text(encoding="utf-8"))
    return _finish(Path(out_dir), model, processor, record)


def pack_warm_start(model_dir: str | Path, assets: str | Path) -> None:
    """Make the package's files of what ``build_warm_start`` wrote: weights in half precision and the record."""
    from safetensors.torch import load_file, save_file

    source, target = Path(model_dir), Path(assets)
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in load_file(source / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    (target / "warm_start.json").write_text((source / "warm_start.json").read_text(encoding="utf-8"), encoding="utf-8")


def _finish(folder: Path, model: Any, processor: Any, record: dict[str, Any]) -> Path:
    """Save in float32 what half precision can hold: the package carries half precision, and both ways must be equal."""
    model.half().float().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "warm_start.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def _train_vision(model: Any, processor: Any, config: WarmStartConfig, seed: int) -> Iterator[float]:
    """Teach the vision tower what it sees; yields the loss of each step.

    Each patch learns which digit (or none) lies at its centre, through a linear head that is thrown away. Each token
    that the language model will get learns which digits it shows, through its likeness to the language model's own
    embeddings of the ten digits, as the towers of real models are aligned with text: matching a question's digit with
    the image is otherwise left to luck.
    """
    import torch

    tower, embeddings = model.model.visual, model.get_input_embeddings().weight
    digits = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(CATEGORIES)))
    bias = torch.nn.Parameter(torch.full((1,), -2.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(tower.config.hidden_size, 11)  # thrown away afterwards
    named = [*tower.named_parameters(), *head.named_parameters(), ("embeddings", embeddings), ("bias", bias)]
    optimizers = _optimizers(named, config)
    rng = np.random.default_rng([seed, 76])
    tower.train()
    for step in range(config.vision_steps):
        _set_rate(optimizers, config.vision_learning_rate * _schedule(step, config.vision_steps, config.warmup))
        drawn = [scene(rng, "detection", max_digits=3) for _ in range(config.vision_batch)]
        pixels, grid = patchify(processor, [image for image, _ in drawn])
        seen = tower(pixels, grid_thw=grid)
        labels = torch.from_numpy(np.concatenate([_patch_labels(processor, sample) for _, sample in drawn]))
        of_patch = torch.nn.functional.cross_entropy(head(seen.last_hidden_state), labels)
        shown = torch.nn.functional.one_hot(labels.view(len(seen.pooler_output), -1), 11).amax(1)[:, :10].float()
        likeness = seen.pooler_output @ embeddings[digits].T + bias
        of_token = torch.nn.functional.binary_cross_entropy_with_logits(likeness, shown)
        (of_patch + 3 * of_token).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield of_patch.item() + of_token.item()


def _patch_labels(processor: Any, sample: Sample) -> np.ndarray:
    """The class of the digit whose box covers each patch's centre, 10 for none, in the vision tower's order."""
    images = processor.image_processor
    patch, merge = images.patch_size, images.merge_size
    side = sample.image_size[0] // patch  # type: ignore[index]
    order = np.arange(side * side).reshape(side // merge, merge, side // merge, merge).transpose(0, 2, 1, 3).reshape(-1)
    y, x = (order // side + 0.5) * patch, (order % side + 0.5) * patch
    labels = np.full(side * side, 10)
    assert isinstance(sample.target, BoxTarget)
    for (x1, y1, x2, y2), label in zip(sample.target.boxes_xyxy, sample.target.labels, strict=True):
        labels[(x >= x1) & (x < x2) & (y >= y1) & (y < y2)] = int(label)
    return labels


def _train(model: Any, processor: Any, config: WarmStartConfig, seed: int, rare: float) -> Iterator[float]:
    """Train the whole model in place on questions and answers; yields the loss of each step."""
    import torch

    optimizers = _optimizers(list(model.named_parameters()), config, tower_share=config.tower_share)
    rng = np.random.default_rng([seed, 77])
    model.train()
    for step in range(config.steps):
        _set_rate(optimizers, config.learning_rate * _schedule(step, config.steps, config.warmup))
        most = next(digits for end, digits in config.stages if step < end * config.steps)
        drawn = [row for task, n in config.mix for row in _draw(rng, task, n, most, rare)]
        batch, targets = collate(processor, drawn)
        hidden = model.model(**batch).last_hidden_state
        asked = targets[:, 1:] != -100  # the head is applied to the answers' positions only
        logits = model.lm_head(hidden[:, :-1][asked])
        loss = torch.nn.functional.cross_entropy(logits, targets[:, 1:][asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def _draw(rng: np.random.Generator, task: TaskName, n: int, most: int, rare: float) -> list[tuple[Any, Sample]]:
    """``n`` questions of a task over scenes of at most ``most`` digits; a share of ``rare`` has four or five.

    In grounding each digit of a scene that appears once is asked for: with one question a scene the model learns to
    point at any digit and to ignore the question.
    """
    rows: list[tuple[Any, Sample]] = []
    while len(rows) < n:
        crowded = rare > 0 and rng.random() < rare
        low, high = (4, 5) if crowded else (min(2, most) if task == "grounding" else 1, most)
        if task != "grounding":
            rows.append(scene(rng, task, min_digits=low, max_digits=high))
            continue
        image, sample = scene(rng, "detection", min_digits=low, max_digits=high)
        assert isinstance(sample.target, BoxTarget)
        for box, label in zip(sample.target.boxes_xyxy, sample.target.labels, strict=True):
            if sample.target.labels.count(label) == 1:
                name = f"digit {label}"
                rows.append((image, replace(sample, task=task, question=name, target=BoxTarget((box,), (name,)))))
    return rows[:n]


def _optimizers(named: list[tuple[str, Any]], config: WarmStartConfig, tower_share: float = 1.0) -> list[Any]:
    """Muon for the matrices inside the layers (half the steps of AdamW alone), AdamW for the rest."""
    import torch

    groups: dict[tuple[bool, float], list[Any]] = {}
    for name, p in named:
        inside = p.ndim == 2 and len(p) > 11 and "embed" not in name and "lm_head" not in name
        tower = any(part in name for part in ("visual.patch_embed", "visual.pos_embed", "visual.blocks"))
        groups.setdefault((inside, tower_share if tower else 1.0), []).append(p)
    muon = [{"params": params, "share": share} for (inside, share), params in groups.items() if inside]
    adam = [{"params": params, "share": share} for (inside, share), params in groups.items() if not inside]
    return [
        torch.optim.Muon(muon, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_rate(optimizers: list[Any], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a half cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def patchify(processor: Any, pictures: list[Any]) -> tuple[Any, Any]:
    """Patchify square pictures of one size at once, as the image processor does one by one.

    Returns:
        Pixels (patches, values) and the grid (pictures, 3), as tensors.
    """
    import torch

    images = processor.image_processor
    patch, merge, time_patch = images.patch_size, images.merge_size, images.temporal_patch_size
    pixels = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures]) / 255.0
    pixels = (pixels - np.float32(images.image_mean)) / np.float32(images.image_std)
    n, side = len(pictures), pixels.shape[1] // patch
    blocks = pixels.reshape(n, side // merge, merge, patch, side // merge, merge, patch, 3)
    flat = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]  # a picture is repeated in time
    flat = np.repeat(flat, time_patch, axis=6).reshape(n * side * side, -1)
    return torch.from_numpy(flat), torch.tensor([[1, side, side]]).expand(n, 3)


def collate(processor: Any, drawn: list[tuple[Any, Sample]]) -> tuple[dict[str, Any], Any]:
    """A batch of questions with their gold answers.

    Returns:
        The model's inputs, padded on the right, and targets (-100 outside the answers).
    """
    import torch

    tokenizer = processor.tokenizer
    pixels, grid = patchify(processor, [image for image, _ in drawn])
    tokens = int(grid[0].prod()) // processor.image_processor.merge_size**2
    rows, answers = [], []
    for _, sample in drawn:
        question, answer = texts(processor, sample)
        rows.append(tokenizer(question.replace(processor.image_token, processor.image_token * tokens))["input_ids"])
        answers.append([*tokenizer(answer)["input_ids"], tokenizer.eos_token_id])
    shape = len(drawn), max(len(q) + len(a) for q, a in zip(rows, answers, strict=True))
    ids, targets = torch.full(shape, tokenizer.pad_token_id), torch.full(shape, -100)
    mask = torch.zeros(shape, dtype=torch.long)
    for i, (q, a) in enumerate(zip(rows, answers, strict=True)):
        end = len(q) + len(a)
        ids[i, :end] = torch.tensor(q + a)
        targets[i, len(q) : end] = torch.tensor(a)
        mask[i, :end] = 1
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == processor.image_token_id).long(),
        "pixel_values": pixels,
        "image_grid_thw": grid,
    }
    return batch, targets


def texts(processor: Any, sample: Sample) -> tuple[str, str]:
    """The question in the chat template and the gold answer, as the qwen3_vl family writes them."""
    task = make_task(sample.task, family="qwen3_vl")
    messages = task.prompt(sample).messages()
    question = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return question, task.gold(sample)
