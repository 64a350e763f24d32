"""A recipe's rows for VLM-R1's ``grpo_jsonl.py``: conversations whose answer is the packed row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception_r1.evaluate.results import write_lines
from perception_r1.export.rows import PLACEHOLDER, Rows, engine_images, packed
from perception_r1.export.settings import grpo_values
from perception_r1.recipe.schema import Recipe

REWARD = '''"""The reward of the recipe {name} for VLM-R1 (written by pr1 export).

In grpo_jsonl.py:  from reward import reward_funcs_registry        and run with  --reward_funcs accuracy
"""

from pathlib import Path

from perception_r1.integrations.vlm_r1 import reward_registry

reward_funcs_registry = reward_registry(Path(__file__).resolve().with_name("task.json"), unscored={unscored!r})
'''


def write(out: Path, recipe: Recipe, rows: Rows, options: dict[str, Any]) -> list[str]:
    """Write the folder; returns notes."""
    values = grpo_values(recipe)
    for name, samples in (("train", rows.train), ("val", rows.eval)):
        if not samples:
            continue
        images = engine_images(samples, rows.family, out / "images" / name)
        lines = [
            {
                "id": sample.id,
                "image": image,
                "conversations": [
                    {"from": "human", "value": PLACEHOLDER + rows.task.prompt(sample).user},
                    {"from": "gpt", "value": truth},
                ],
            }
            for sample, image, truth in zip(samples, images, packed(samples), strict=True)
        ]
        write_lines(out / f"{name}.jsonl", lines)
    (out / "reward.py").write_text(REWARD.format(name=recipe.name, unscored=options["unscored"]), encoding="utf-8")
    high = recipe.image.max_pixels or rows.family.max_pixels
    keys = (
        "num_generations",
        "max_completion_length",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "num_train_epochs",
        "beta",
        "temperature",
        "save_steps",
        "seed",
    )
    words = [f"--{key} {values[key]}" for key in keys]
    (out / "arguments.txt").write_text(
        "\n".join(
            [
                f"--model_name_or_path {recipe.model}",
                f"--data_file_paths {out.absolute() / 'train.jsonl'}",
                "--image_folders /",
                "--reward_funcs accuracy",
                f"--max_pixels {high}",
                *words,
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    return [
        "prompts: VLM-R1 wraps each question in a template of its own (thinking) and has no system turn",
        "reward: replace reward_funcs_registry of grpo_jsonl.py by the one in reward.py",
    ]
