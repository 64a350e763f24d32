"""The commands of a run on models laid out as published ones: real vocabulary, right padding, bfloat16, own sampling.

Needs ``qwen.tiktoken`` (pip install --no-deps dashscope==2.0.2), which ``make test-vllm`` installs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import near_real

pytest.importorskip("trl")

from perception_r1.cli import main

FAMILIES = tuple(near_real.ADDED)

if near_real.table_file() is None:
    pytest.skip("qwen.tiktoken not found (pip install --no-deps dashscope==2.0.2)", allow_module_level=True)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one family, named after it."""
    return near_real.build(tmp_path_factory.mktemp("models") / request.param, request.param)


def pr1(*args: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 0


# Of a picture of 320 × 240 pixels InternVL's published processor makes 13 tiles of 256 tokens; here one, and three.
SIZES = {"internvl": ((240, 240), (240, 480))}


def write_rows(folder: Path, name: str, seed: int, sizes: tuple[tuple[int, int], tuple[int, int]]) -> Path:
    """Eight pictures of two sizes, with questions of different lengths."""
    rng = np.random.default_rng(seed)
    questions = ("cup", "the small cup left of the two tall blue bottles", "a dog that looks at its own tail", "cat")
    rows = []
    for index in range(8):
        width, height = sizes[0 if index % 3 else 1]
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        picture.save(folder / f"{name}-{index}.jpg")
        row = {"id": str(index), "image": f"{name}-{index}.jpg", "question": questions[index % 4]}
        rows.append({**row, "task": "grounding", "boxes": [[10, 10, 60 + 10 * index, 120]]})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(folder: Path, model: Path) -> Path:
    """A recipe of three steps of GRPO, or two of SFT."""
    sizes = SIZES.get(model.name, ((320, 240), (200, 420)))
    recipe: dict[str, Any] = {
        "name": model.name,
        "task": "grounding",
        "model": str(model),
        "data": {
            "train": [{"source": "jsonl", "path": str(write_rows(folder, "train", 0, sizes))}],
            "eval": [{"source": "jsonl", "path": str(write_rows(folder, "eval", 1, sizes))}],
        },
        "image": {"max_pixels": 80_000},
        "eval": {"max_new_tokens": 8, "batch_size": 4},
        "grpo": {
            "max_steps": 3,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 48,
            "beta": 0.04,
            "learning_rate": 1e-4,
            "gradient_checkpointing": False,
            "save_steps": 2,
        },
        "sft": {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_checkpointing": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def test_check_train_eval_report(model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    recipe = write_recipe(tmp_path, model)
    run = tmp_path / "run"
    pr1("check", recipe)
    pr1("train", recipe, "--out", run, "--quiet")
    logs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len([log for log in logs if "loss" in log]) == 3
    assert all(np.isfinite(log["grad_norm"]) for log in logs if "grad_norm" in log)
    saved = run / "model"
    published = json.loads((model / "generation_config.json").read_text())
    for folder in (saved, run / "checkpoints" / "checkpoint-2"):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config.get("padding_side", "right") == "right"
        assert json.loads((folder / "tokenizer.json").read_text())["padding"] is None
        assert json.loads((folder / "video_preprocessor_config.json").read_text())["video_processor_type"]
        assert json.loads((folder / "generation_config.json").read_text()) == published
    weights = {name: value for file in saved.glob("*.safetensors") for name, value in load_file(file).items()}
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert not any("lm_head" in name for name in weights)  # tied, as published
    pr1("eval", recipe, "--model", saved, "--out", tmp_path / "eval", "--quiet")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["n"] == 8
    pr1("report", run, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_saved_model_loads_in_the_stock_classes(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the stock processors need torchvision", exc_type=Exception)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    recipe = write_recipe(tmp_path, model)
    pr1("sft", recipe, "--out", tmp_path / "run", "--quiet")
    processors = [AutoProcessor.from_pretrained(folder) for folder in (model, tmp_path / "run" / "model")]
    image = Image.open(tmp_path / "train-1.jpg").resize((256, 256))  # within the published limits and the recipe's
    turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Where is it?"}]}
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    before, after = (processor.apply_chat_template([turn], **options) for processor in processors)
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)
    assert processors[0].video_processor.to_dict() == processors[1].video_processor.to_dict()
    AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")
