"""GRPO with colocated vLLM: the rollouts are the policy's, for every family, through resumes and adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perception_r1.errors import ModelError
from perception_r1.models.tiny import TINY_FAMILIES
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.rollout_guard import METRIC, RolloutGuard
from perception_r1.train.run import run_grpo

pytestmark = [pytest.mark.usefixtures("cpu_vllm"), pytest.mark.timeout(1800)]

Folders = Callable[[str], Path]
Recipes = Callable[..., Path]
BOUND = 0.02  # nats, in float32; the banned image tokens of an untrained model are most of it


def logged(out: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_reads_the_trainers_prompt(
    family: str, folders: Folders, write_recipe: Recipes, tmp_path: Path
) -> None:
    # Padding on the right, scenes of two sizes (so prompts of two lengths), and limits of the folder's processor that
    # would enlarge them: vLLM's own reading of the folder would give other prompts.
    recipe = load_recipe(write_recipe(folders(family)))
    run_grpo(recipe, tmp_path / "run", show_progress=False)
    assert len(logged(tmp_path / "run", METRIC)) == 2
    assert max(logged(tmp_path / "run", METRIC)) < BOUND


def test_limits_of_the_models_folder_do_not_count(folders: Folders, write_recipe: Recipes, tmp_path: Path) -> None:
    shutil.copytree(folders("qwen3_vl"), tmp_path / "published")
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = tmp_path / "published" / name
        if file.is_file():
            values = json.loads(file.read_text())
            table = values.get("image_processor", values)
            table.pop("min_pixels", None), table.pop("max_pixels", None)
            table["size"] = {"shortest_edge": 65536, "longest_edge": 16777216}  # as Qwen3-VL is published
            file.write_text(json.dumps(values))
    run_grpo(load_recipe(write_recipe(tmp_path / "published", max_steps=1)), tmp_path / "run", show_progress=False)
    assert max(logged(tmp_path / "run", METRIC)) < BOUND


def test_prompts_expanded_twice_are_stopped(
    folders: Folders, write_recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception_r1.train.vllm_prompts.keep_prompts", lambda trainer: None)  # TRL 1.16 as it is
    recipe = load_recipe(write_recipe(folders("trained")))
    with pytest.raises(ModelError, match=r"not the policy's: up to step 1 .*another prompt or image"):
        run_grpo(recipe, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run" / "model").exists()


def test_adapters_are_synced(folders: Folders, write_recipe: Recipes, tmp_path: Path) -> None:
    lora = "lora={r: 4, target_modules: [q_proj, v_proj], init_lora_weights: false}"  # changes the model from the start
    recipe = load_recipe(write_recipe(folders("trained"), max_steps=3, learning_rate=1e-2), [lora])
    run_grpo(recipe, tmp_path / "run", show_progress=False)
    assert max(logged(tmp_path / "run", METRIC)) < BOUND


def test_a_resumed_run_samples_from_the_checkpoint(folders: Folders, write_recipe: Recipes, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "run"
    recipe = load_recipe(write_recipe(folders("trained"), learning_rate=1e-2, max_steps=4))
    run_grpo(recipe, out, show_progress=False)
    for left in (out / "model", out / "checkpoints" / "checkpoint-4"):  # as if it had been stopped in step 4
        shutil.rmtree(left)
    middle = load_file(out / "checkpoints" / "checkpoint-2" / "model.safetensors")
    run_grpo(recipe, out, resume=True, show_progress=False)
    differences = logged(out, METRIC)
    assert len(differences) == 4
    assert max(differences) < BOUND
    start = load_file(folders("trained") / "model.safetensors")  # other weights than those to sample from
    assert max(float((middle[name].float() - start[name].float()).abs().max()) for name in middle) > 1e-3


def test_rewards_are_those_of_transformers(folders: Folders, write_recipe: Recipes, tmp_path: Path) -> None:
    """128 rollouts of the same model by each engine; the mean rewards differ by no more than chance would."""
    settings = {"n": 16, "max_steps": 1, "per_device_train_batch_size": 128, "learning_rate": 0.0}
    means = {}
    for engine in (True, False):
        recipe = load_recipe(write_recipe(folders("trained"), **{**settings, "use_vllm": engine}))
        out = tmp_path / f"vllm-{engine}"
        run_grpo(recipe, out, show_progress=False)
        means[engine] = logged(out, "reward")[0], logged(out, "reward_std")[0]
    (ours, spread), (theirs, _) = means[True], means[False]
    assert theirs > 0.3
    assert abs(ours - theirs) < 4 * max(spread, 0.1) * (2 / 128) ** 0.5 + 1e-9


def test_two_images_a_prompt_in_a_script_of_ones_own(folders: Folders, tmp_path: Path) -> None:
    from datasets import Dataset
    from PIL import Image
    from trl import GRPOConfig, GRPOTrainer

    from perception_r1.models.load import load_model
    from perception_r1.train.vllm_prompts import keep_prompts

    model, processor = load_model(folders("trained"), dtype="float32")
    processor.tokenizer.padding_side = "left"
    pictures = [Image.effect_noise((32 * (2 + i % 3), 32 * (1 + i % 4)), 60).convert("RGB") for i in range(8)]
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What differs?"}]
    rows = {
        "prompt": [[{"role": "user", "content": content}]] * 4,
        "images": [pictures[2 * i : 2 * i + 2] for i in range(4)],
    }
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        num_generations=2,
        per_device_train_batch_size=4,
        report_to="none",
        max_completion_length=8,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.1,
        bf16=False,
        vllm_max_model_length=1024,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        log_multimodal=False,
    )
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=processor,
        callbacks=[guard := RolloutGuard()],
    )
    keep_prompts(trainer)
    keep_prompts(trainer)  # twice is once
    trainer.train()
    assert len(guard.values) == 2
    assert max(guard.values) < BOUND
