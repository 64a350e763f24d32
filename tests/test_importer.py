"""Launch scripts as PR1 and VLM-R1 publish them, as recipes that train."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from perception_r1.cli import app
from perception_r1.config import load_recipe
from perception_r1.errors import RecipeError
from perception_r1.importer import import_launch, launch, parse_arguments
from perception_r1.train.renamed import installed_names

PR1 = """#!/bin/bash
NNODES=1
DATASET_ROOT="/data/PR1 Counting"   # a folder with a space
RUN_NAME="count it"
OUTPUT_DIR="${CHECKPOINT_PATH}/${RUN_NAME}"
export LOG_DIR="${OUTPUT_DIR}/logs"
# --learning_rate 1 is a comment
cp -r ${PR1_PATH}/src ${SRC_PATH}
torchrun \\
    --nproc_per_node="7" \\
    --nnodes="${NNODES}" \\
    ${PR1_PATH}/src/open_r1/grpo_vllm.py \\
    --deepspeed ${PR1_PATH}/configs/zero3.json \\
    --output_dir "${OUTPUT_DIR}" \\
    --model_name_or_path Qwen/Qwen2-VL-2B-Instruct \\
    --dataset_name "${DATASET_ROOT}/json/pr1_counting_10k.json" \\
    --image_dir "${DATASET_ROOT}/" \\
    --max_completion_length 768 \\
    --num_generations 8 \\
    --bf16 \\
    --gradient_checkpointing true \\
    --attn_implementation flash_attention_2 \\
    --max_pixels 1000000 \\
    --reward_funcs "pr1_counting" \\
    --question_template "pr1_counting" \\
    --answer_key "clicks" \\
    --train_sample_size 10000 \\
    --learning_rate 1e-6 \\
    --vllm_device auto \\
    --temperature 1.0
"""

VLM_R1 = """
data_paths="a/refcoco_train.jsonl:b/refcocog_train.jsonl"
image_folders=${7:-"coco:coco"}
torchrun --nproc_per_node="8" src/open_r1/grpo_jsonl.py \\
    --use_vllm False \\
    --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \\
    --data_file_paths $data_paths \\
    --image_folders $image_folders \\
    --is_reward_customized_from_vlm_module true \\
    --task_type rec \\
    --per_device_train_batch_size 8 \\
    --num_train_epochs 2 --bf16 --beta 0.04 \\
    --learning_rate 1.0e-5 --use_peft true --lora_r 64 --lora_alpha 128 --lora_dropout 0.05 \\
    --lora_task_type CAUSAL_LM --freeze_vision_modules true \\
    --reward_funcs accuracy format 2>&1 | tee train.log
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_pr1(tmp_path: Path) -> None:
    found = import_launch(write(tmp_path / "train_counting.sh", PR1))
    out = write(tmp_path / "r.yaml", found.to_yaml("train_counting.sh"))
    recipe = load_recipe(out)
    assert (recipe.task, recipe.model, recipe.thinking) == ("counting", "Qwen/Qwen2-VL-2B-Instruct", False)
    assert recipe.reward.preset == "paper"
    assert recipe.image.max_pixels == 1_000_000
    (source,) = recipe.data.train
    assert source.path == "/data/PR1 Counting/json/pr1_counting_10k.json"
    assert (source.images, source.count) == ("/data/PR1 Counting/", 10_000)
    assert source.options == {"coordinates": "norm1000", "answer": "clicks"}
    assert recipe.grpo == {
        "beta": 0.04,  # their trainer's default, which TRL's is no more
        "loss_type": "grpo",
        "use_bias_correction_kl": False,
        "max_completion_length": 768,
        "num_generations": 8,
        "bf16": True,
        "activation_checkpointing": True,
        "learning_rate": 1e-6,
        "temperature": 1.0,
        "model_init_kwargs": {"attn_implementation": "flash_attention_2"},
    }
    assert any("--vllm_device auto: not carried over" in note for note in found.notes)
    (launch,) = (note for note in found.notes if note.startswith("deepspeed"))
    (config,) = re.findall(r"configs/\S+", launch)
    assert (Path(__file__).parents[1] / config).is_file()


def test_a_published_script_is_imported_as_it_is(tmp_path: Path) -> None:
    """PR1's scripts come with ``<path to …>`` to fill in, and variables without quotes."""
    script = PR1.replace("/data/PR1 Counting", "<path to PR1-Datasets>").replace(
        '"${DATASET_ROOT}/', "${DATASET_ROOT}/"
    )
    found = import_launch(write(tmp_path / "x.sh", script.replace('10k.json"', "10k.json").replace('/" \\', "/ \\")))
    (source,) = found.values["data"]["train"]
    assert source["path"] == "<path to PR1-Datasets>/json/pr1_counting_10k.json"
    assert source["images"] == "<path to PR1-Datasets>/"
    assert "the script does not set <path to PR1-Datasets>: fill in" in found.notes


def test_names_with_dashes_products_and_unset_variables(tmp_path: Path) -> None:
    script = (
        "python grpo_jsonl.py --task_type rec --model_name_or_path $1 --data_file_paths a.jsonl --image_folders $ROOT"
        " --dataset-name this_is_not_used --max_pixels $((128 * 28 * 28)) --warmup_ratio 0.03 --val_iter 50"
    )
    found = import_launch(write(tmp_path / "x.sh", script))
    assert found.values["image"] == {"max_pixels": 128 * 28 * 28}
    assert found.values["grpo"]["warmup_steps"] == 0.03
    assert "the script does not set $1, $ROOT: fill in" in found.notes
    assert "--val_iter 50: not carried over" in found.notes
    assert not any("dataset" in note for note in found.notes)


def test_what_is_passed_on_is_known_to_trl() -> None:
    trl = pytest.importorskip("trl")
    names = {field.name for field in fields(trl.GRPOConfig)}
    passed = dict.fromkeys({*launch._NUMBERS, *launch._PASSED, *launch._RENAMED.values(), *launch._OLD_DEFAULTS})
    assert installed_names(passed, names, "r").keys() <= names


def test_vlm_r1(tmp_path: Path) -> None:
    found = import_launch(write(tmp_path / "run.sh", VLM_R1))
    recipe = load_recipe(write(tmp_path / "r.yaml", found.to_yaml("run.sh")))
    assert (recipe.task, recipe.thinking, recipe.freeze_vision) == ("grounding", True, True)
    assert [(source.path, source.images) for source in recipe.data.train] == [
        ("a/refcoco_train.jsonl", "coco"),
        ("b/refcocog_train.jsonl", "coco"),
    ]
    assert recipe.lora == {"target_modules": "all-linear", "r": 64, "lora_alpha": 128, "lora_dropout": 0.05}
    assert recipe.grpo is not None
    assert recipe.grpo["learning_rate"] == 1e-5
    assert recipe.grpo["use_vllm"] is False


def test_data_yaml_of_vlm_r1(tmp_path: Path) -> None:
    listed = {
        "datasets": [
            {"json_path": "/d/a.json", "sampling_strategy": "random:500"},
            {"json_path": "/d/b.json", "sampling_strategy": "first:10%"},
            {"json_path": "/d/c.json"},
        ]
    }
    file = write(tmp_path / "rec.yaml", yaml.safe_dump(listed))
    found = import_launch(file, model="Qwen/Qwen2.5-VL-3B-Instruct")
    assert [source.get("count") for source in found.values["data"]["train"]] == [500, None, None]
    assert any("first:10% is taken whole" in note for note in found.notes)
    # The same by a launch script that names the file beside it.
    script = "python grpo_rec.py --model_name_or_path m/m --dataset_name rec.yaml --image_root /images"
    (first, *_) = import_launch(write(tmp_path / "x.sh", script)).values["data"]["train"]
    assert first == {"source": "records", "path": "/d/a.json", "images": "/images", "count": 500}


def test_nothing_of_a_script_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    script = (
        f"X=$(touch {trap})\npython grpo_rec.py --output_dir $(touch {trap}) --model_name_or_path '`touch {trap}`'"
        " --dataset_name a.json"
    )
    import_launch(write(tmp_path / "x.sh", script))
    assert not trap.exists()
    assert parse_arguments("python x.py --name 'it is") == {"name": ["'it", "is"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo hello", "no launch arguments"),
        ("python x.py --model_name_or_path m/m --dataset_name a.json", "does not tell the task"),
        ("python x.py --task_type rec --dataset_name a.json", "names no model"),
        ("python x.py --task_type rec --model_name_or_path m/m", "names no data"),
        (
            "python x.py --task_type rec --model_name_or_path m/m --data_file_paths a:b --image_folders c",
            "2 data files",
        ),
        ("python x.py --task_type rec --model_name_or_path m/m --dataset_name a.json --seed x", "--seed x: expected a"),
        (
            "python x.py --task_type rec --model_name_or_path m/m --dataset_name a.json --beta 0.1 0.2",
            "expected a number",
        ),
        (
            "python x.py --task_type rec --model_name_or_path m/m --dataset_name a.json --max_pixels",
            "expected a number",
        ),
        (
            "python x.py --task_type rec --model_name_or_path m/m --dataset_name a.json --max_pixels 0.5",
            "a whole number",
        ),
    ],
)
def test_what_cannot_be_imported_is_said(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        import_launch(write(tmp_path / "x.sh", text))


def test_from_the_command_line(tmp_path: Path) -> None:
    script = write(tmp_path / "run.sh", VLM_R1)
    out = tmp_path / "recipe.yaml"
    done = CliRunner().invoke(app, ["import", str(script), str(out)])
    assert done.exit_code == 0, done.output
    assert "grounding, Qwen/Qwen2.5-VL-3B-Instruct" in done.output
    assert load_recipe(out).name == "run"
    assert CliRunner().invoke(app, ["import", str(script), str(out)]).exit_code == 2
