"""A real verl, driven by what `pr1 export verl` writes (`make test-verl`; skipped where verl is not installed)."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import numpy as np
import torch
import yaml

from engine_data import make_recipe
from perception_r1.export import export
from perception_r1.export.rows import rows_of
from perception_r1.integrations.verl import reward_key
from perception_r1.models.tiny import build_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model's folder and its processor."""
    folder = tmp_path_factory.mktemp("model")
    made, processor = build_tiny("qwen2_5_vl")
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, processor


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Any:
    return make_recipe(tmp_path_factory.mktemp("data"), str(model[0]))


def composed(recipe: Any, out: Path, *more: str, **options: Any) -> Any:
    """The configuration as verl's own entry point composes it for launch.sh."""
    from omegaconf import OmegaConf

    export(recipe, "verl", out, gpus=2, **options)
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", str(out / "launch.sh"), *more, "--cfg", "job"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return OmegaConf.create(yaml.safe_load(done.stdout[done.stdout.index("actor_rollout_ref:") :]))


@pytest.fixture(scope="module")
def config(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    # A folder whose name Hydra would misread without quotes.
    return composed(recipe, tmp_path_factory.mktemp("with space, and=signs"))


def test_its_configuration_takes_our_overrides(config: Any) -> None:
    from verl.utils.config import validate_config

    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.algorithm.adv_estimator == "grpo"
    assert (rollout.n, rollout.name, rollout.max_model_len) == (4, "vllm", config.data.max_prompt_length + 64)
    assert (actor.optim.lr, actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type) == (
        2e-6,
        True,
        0.04,
        "low_var_kl",
    )
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode) == (0.2, 0.28, "seq-mean-token-mean")
    # 4 completions × 2 devices × 2 accumulated / groups of 4.
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size, actor.ppo_micro_batch_size_per_gpu) == (4, 4, 4)
    assert (config.trainer.total_epochs, config.trainer.nnodes, config.trainer.n_gpus_per_node) == (2, 1, 2)
    assert Path(config.reward.custom_reward_function.path).is_file()
    validate_config(config, use_reference_policy=True, use_critic=False)


def test_lora_megatron_and_frozen_towers_are_known_settings(recipe: Any, tmp_path: Path) -> None:
    lora = recipe.model_copy(update={"lora": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}})
    found = composed(lora.model_copy(update={"freeze_vision": True}), tmp_path / "a", "trainer.nnodes=2")
    assert (found.actor_rollout_ref.model.lora_rank, found.actor_rollout_ref.model.lora_alpha) == (16, 32)
    assert list(found.actor_rollout_ref.model.target_modules) == ["q_proj", "v_proj"]
    assert found.actor_rollout_ref.actor.freeze_vision_tower
    assert found.trainer.nnodes == 2  # what is given on the command line wins
    found = composed(lora, tmp_path / "b", strategy="megatron")
    assert found.actor_rollout_ref.actor.strategy == "megatron"
    assert found.actor_rollout_ref.model.lora.rank == 16


def test_an_unknown_key_is_refused(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Key 'nodes' is not in struct"):
        composed(recipe, tmp_path, "trainer.nodes=2")


def test_its_data_set_reads_our_parquet(config: Any, recipe: Any, model: Any) -> None:
    from verl.utils.dataset.rl_dataset import get_dataset_class

    processor = model[1]
    kind = get_dataset_class(config.data)
    assert kind.__name__ == "PerceptionDataset"
    data = kind(config.data.train_files, processor.tokenizer, config.data, processor)
    samples = {sample.id: sample for sample in rows_of(recipe).train}
    assert len(data) == len(samples) == 8
    for i in range(8):
        row = data[i]
        sample = samples[row["extra_info"]["id"]]
        assert row["extra_info"]["index"] == row["index"] == i
        messages = row["raw_prompt"]
        assert [part["type"] for part in messages[1]["content"]] == ["image", "text"]
        images, videos = asyncio.run(kind.process_vision_info(messages, 14, config.data))
        again, _, _ = asyncio.run(kind.process_multi_modal_info(messages, image_patch_size=14, config=config.data))
        assert videos is None
        assert [image.size for image in images] == [image.size for image in again] == [sample.model_size]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        encoded = processor(text=[text], images=images, return_tensors="pt")
        height, width = (14 * int(n) for n in encoded["image_grid_thw"][0, 1:])
        assert (width, height) == sample.model_size  # the processor had nothing left to resize
        assert encoded["input_ids"].shape[1] <= config.data.max_prompt_length
        # verl's prompt is the prompt that TRL gets, token for token.
        ours = processor.apply_chat_template(
            rows_of(recipe).task.prompt(sample).messages(), add_generation_prompt=True, tokenize=False
        )
        assert text == ours


def test_filtering_by_length_keeps_every_row(config: Any, model: Any) -> None:
    """verl drops a row whenever measuring it raises; with our data set nothing does."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import get_dataset_class

    changed = OmegaConf.merge(config.data, {"filter_overlong_prompts": True, "filter_overlong_prompts_workers": 1})
    data = get_dataset_class(changed)(changed.val_files, model[1].tokenizer, changed, model[1])
    assert len(data) == 4


def test_its_reward_manager_loads_and_calls_ours(config: Any, recipe: Any, model: Any) -> None:
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    tokenizer = model[1].tokenizer
    manager = load_reward_manager(config, tokenizer)
    rows = rows_of(recipe)
    rewards = set()
    from perception_r1.integrations.scoring import pack

    for sample in rows.train[:4]:
        for text in (rows.task.gold(sample), rows.task.gold(sample).replace("6", "9"), "nothing", "[]"):
            ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            padded = torch.full((1, 200), tokenizer.pad_token_id)
            padded[0, : len(ids)] = torch.tensor(ids)
            mask = torch.zeros(1, 210, dtype=torch.long)
            mask[0, : 10 + len(ids)] = 1
            data = DataProto.from_dict(
                tensors={"responses": padded, "attention_mask": mask},
                non_tensors={
                    "data_source": np.array(["pr1/detection"], dtype=object),
                    "reward_model": np.array([{"style": "rule", "ground_truth": pack(sample)}], dtype=object),
                    "extra_info": np.array([{"index": 0}], dtype=object),
                },
            )
            result = manager.loop.run_until_complete(manager.run_single(data))
            expected = rows.task.score(sample, re.sub(r"<\|[a-z_]+\|>", "", text))
            assert result["reward_score"] == expected.reward
            assert result["reward_extra_info"]["is_malformed"] == float(expected.status == "malformed")
            rewards.add(expected.reward)
    assert len(rewards) > 2


def test_the_key_of_the_reward_is_the_installed_versions(config: Any) -> None:
    from omegaconf import OmegaConf

    assert OmegaConf.select(config, f"{reward_key()}.name") == "compute_score"


def test_its_advantages_are_ours() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    from perception_r1.stats import group_advantages

    generator = np.random.default_rng(0)
    rewards = generator.choice([0.0, 0.25, 0.5, 1.0, 1.7], size=(6, 8))
    rewards[2] = 0.5  # a group that agrees has no advantage
    tokens = torch.zeros(48, 5)
    tokens[:, -1] = torch.tensor(rewards.reshape(-1))
    groups = np.repeat(np.arange(6), 8).astype(object)
    theirs, _ = compute_grpo_outcome_advantage(tokens, torch.ones(48, 5), groups, epsilon=1e-4)
    ours = [value for group in rewards for value in group_advantages(group.tolist())]
    assert theirs[:, 0].tolist() == pytest.approx(ours, abs=1e-5)
