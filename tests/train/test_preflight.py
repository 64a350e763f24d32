"""What people type first: a line, exit code 2, before torch is loaded, and no folder that blocks the next try."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception_r1.errors import UserError
from perception_r1.packages import OPTIONAL, is_installed, pip_line
from perception_r1.recipe.schema import load_recipe
from perception_r1.train.preflight import check_writable, preflight

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "recipe"

REWARDS = """
def two(response, answer): return 1.0
async def later(sample, completion, parsed, match): return 1.0
def right(sample, completion, parsed, match): return 1.0
class Right:
    def __call__(self, *args): return 1.0
right_too = Right()
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe whose model is a folder that looks like one."""
    import numpy as np
    from safetensors.numpy import save_file

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"w": np.zeros(2, dtype=np.float32)}, model / "model.safetensors")
    (tmp_path / "some_rewards.py").write_text(REWARDS)
    (tmp_path / "broken_rewards.py").write_text("import json\n\nlimit = json.loads('{')\n")
    values: dict[str, Any] = {
        "name": "first",
        "task": "counting",
        "model": str(model),
        "data": {"train": [{"source": "jsonl", "path": "rows.jsonl"}]},
        "grpo": {"max_steps": 1},
    }
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# (settings, package that must be missing for the case, what the line says)
CASES: list[tuple[str, str | None, list[str]]] = [
    (f"@{CONFIGS / 'qlora.yaml'}", "bitsandbytes", ["grpo.model_init_kwargs", 'pip install "perception-r1[qlora]"']),
    (f"@{CONFIGS / 'vllm-colocate.yaml'}", "vllm", ["grpo.use_vllm", 'pip install "perception-r1[vllm]"']),
    (f"@{CONFIGS / 'vllm-server.yaml'}", "vllm", ["grpo.use_vllm", 'pip install "perception-r1[vllm]"']),
    ("grpo.report_to=wandb", "wandb", ["grpo.report_to", "pip install wandb"]),
    ("grpo.report_to=[none, mlflow]", "mlflow", ["grpo.report_to", "pip install mlflow"]),
    ("grpo.report_to=trackio", "trackio", ["grpo.report_to", "pip install trackio"]),
    ("grpo.report_to=wandbb", None, ["grpo.report_to", "did you mean 'wandb'"]),
    ("grpo.optim=adamw_8bit", "bitsandbytes", ["grpo.optim", 'pip install "perception-r1[qlora]"', "adamw_torch"]),
    ("grpo.optim=paged_adamw_32bit", "bitsandbytes", ["grpo.optim", "perception-r1[qlora]"]),
    ("grpo.optim=galore_adamw", "galore_torch", ["grpo.optim", "pip install galore-torch"]),
    ("grpo.deepspeed=zero.json", "deepspeed", ["grpo.deepspeed", 'pip install "perception-r1[deepspeed]"']),
    ("grpo.model_init_kwargs={attn_implementation: flash_attention_2}", "flash_attn", ["flash-attn", "sdpa"]),
    ("grpo.push_to_hub=true", None, ["grpo.push_to_hub", "HF_HUB_OFFLINE"]),
    ("grpo.eval_strategy=steps", None, ["grpo.eval_strategy", "data.eval"]),
    ("reward.function=some_rewards:two", None, ["takes (response, answer)", "fn(sample, completion, parsed, match)"]),
    ("reward.function=some_rewards:later", None, ["is async"]),
    ("reward.function=broken_rewards:f", None, ["broken_rewards.py:3", "JSONDecodeError"]),
    ("reward.function=nowhere:f", None, ["there is no module 'nowhere'"]),
    (
        "model=Qwen/Qwen2.5-VL-3B-Instruct",
        None,
        ["not in the cache", "HF_HUB_OFFLINE", "hf download Qwen/Qwen2.5-VL-3B"],
    ),
    ("model=no/such/folder", None, ["no such model folder"]),
]
RUN = """
import json, sys, time
from perception_r1.cli import main
cases, recipe, out = json.load(sys.stdin), sys.argv[1], sys.argv[2]
for case in cases:
    print("case", case, file=sys.stderr)
    try:
        main(["train", recipe, "--out", out, "--set", case])
    except SystemExit as end:
        assert end.code == 2, end.code
    assert not {"torch", "transformers", "trl"} & set(sys.modules), case
"""


def test_the_first_mistakes_are_a_line_before_anything_is_loaded(recipe_file: Path, tmp_path: Path) -> None:
    """All in one process, since it is Python's start that takes the time."""
    cases = [case for case in CASES if case[1] is None or not is_installed(case[1])]
    out = tmp_path / "runs" / "first"
    command = [sys.executable, "-c", RUN, str(recipe_file), str(out)]
    words = json.dumps([settings for settings, _, _ in cases])
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not out.parent.exists()
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(cases), done.stderr
    for (settings, _, parts), said, line in zip(cases, lines[::2], lines[1::2], strict=True):
        assert said == f"case {settings}"
        assert line.startswith("error: ") and all(part in line for part in parts), line


@pytest.mark.parametrize("setting", ["grpo.report_to=none", "grpo.optim=adamw_torch_fused", "grpo.report_to=[]"])
def test_what_is_there_passes(setting: str, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for function in ("right", "right_too"):
        recipe = load_recipe(recipe_file, [setting, f"reward.function=some_rewards:{function}"])
        preflight(recipe, "grpo", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_warm_start_is_looked_at_too(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["warm_start=sft", "sft.report_to=wandbb"])
    with pytest.raises(UserError, match=r"sft\.report_to"):
        preflight(recipe, "grpo", tmp_path / "run")
    preflight(load_recipe(recipe_file, ["sft.report_to=wandbb"]), "grpo", tmp_path / "run")  # not run


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; choose another --out"):
        check_writable(tmp_path / "file" / "run")
    if Path("/proc/self").is_dir():
        with pytest.raises(UserError, match="cannot be written to"):
            check_writable(Path("/proc/nowhere/run"))


def test_the_pip_lines_are_those_of_the_extras() -> None:
    """What doctor, errors and the preflight say is what pyproject.toml has."""
    from importlib.metadata import requires

    extras = [line.split(";") for line in requires("perception-r1") or () if "extra ==" in line]
    for name, package in OPTIONAL.items():
        assert any(line.startswith(name) and f'"{package.extra}"' in marker for line, marker in extras), name
        assert pip_line(name) == f'pip install "perception-r1[{package.extra}]"'
