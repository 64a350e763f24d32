"""G answers to each question, sampled as a training would, and kept as rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception_r1.analysis.rollouts import Group, group_of, read_groups, write_groups
from perception_r1.evaluate.generate import TransformersGenerator
from perception_r1.progress import progress
from perception_r1.tasks import Task
from perception_r1.types import Sample


def sampling_generator(
    model: Any,
    processor: Any,
    family: Any,
    *,
    group_size: int,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
) -> TransformersGenerator:
    """The evaluation's generator, but sampling ``group_size`` answers a question from the full softmax."""
    generator = TransformersGenerator(model, processor, family, max_new_tokens=max_new_tokens, batch_size=batch_size)
    generator.options.update(
        do_sample=True, temperature=temperature, top_p=1.0, top_k=0, num_return_sequences=group_size
    )
    return generator


def sample_groups(
    task: Task,
    samples: Sequence[Sample],
    generator: TransformersGenerator,
    out: str | Path,
    *,
    group_size: int,
    seed: int = 0,
    show_progress: bool = True,
) -> list[Group]:
    """Sample and score; every batch is saved in ``OUT/rollouts`` as a step of its own, and one that is there is kept.

    Args:
        task: scores the answers.
        samples: prepared ones.
        generator: of `sampling_generator`.
        out: the run's folder.
        group_size: answers a question.
        seed: of the sampling; each batch has its own, so that a resumed run samples the same.
        show_progress: on standard error.
    """
    import torch

    folder = Path(out) / "rollouts"
    size = generator.batch_size
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    todo = [index for index in range(len(batches)) if not (folder / f"step-{index + 1:06d}.parquet").is_file()]
    done = len(samples) - sum(len(batches[index]) for index in todo)
    with progress("sampling", len(samples), done=done, unit="questions", enabled=show_progress) as advance:
        for index in todo:
            batch = batches[index]
            torch.manual_seed(1_000_003 * seed + index)
            answers = generator(batch, [task.prompt(sample) for sample in batch])
            groups = []
            for number, sample in enumerate(batch):
                own = answers[number * group_size : (number + 1) * group_size]
                groups.append(group_of(index + 1, sample, [(answer, task.score(sample, answer)) for answer in own]))
            write_groups(folder, groups)
            advance(len(batch))
    return read_groups(folder)
