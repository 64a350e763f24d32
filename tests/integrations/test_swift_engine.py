"""A real ms-swift, driven by what `pr1 export swift` writes (`make test-swift`; skipped where it is not installed)."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("swift.rewards", reason="ms-swift has an environment of its own: make test-swift")

import torch

from engine_data import make_recipe
from perception_r1.export import export
from perception_r1.export.rows import rows_of
from perception_r1.models.tiny import build_tiny


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recipe and the folder written for it."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = build_tiny("qwen2_5_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe = make_recipe(tmp_path_factory.mktemp("data"), str(folder))
    out = tmp_path_factory.mktemp("exported")
    export(recipe, "swift", out, gpus=1)
    return recipe, out


def arguments(out: Path) -> dict[str, Any]:
    """The arguments of launch.sh, as ms-swift's dataclass takes them."""
    text = (out / "launch.sh").read_text()
    words = shlex.split(text[text.index("exec swift rlhf") :].replace("$HERE", str(out)).replace("\\\n", " "))
    found: dict[str, Any] = {}
    for key, value in zip(words[3:-1:2], words[4:-1:2], strict=True):
        if value in ("true", "false"):
            found[key[2:]] = value == "true"
        else:
            found[key[2:]] = json.loads(value) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", value) else value
    for key in ("dataset", "val_dataset", "external_plugins", "reward_funcs", "report_to"):
        found[key] = [found[key]]
    return found


def test_its_arguments_take_ours_and_the_plugin_is_loaded(exported: Any, monkeypatch: Any, tmp_path: Path) -> None:
    from swift.arguments import RLHFArguments
    from swift.rewards import orms

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = {**arguments(exported[1]), "model_type": "qwen2_5_vl", "template": "qwen2_5_vl", "torch_dtype": "float32"}
    found = RLHFArguments(**{**given, "output_dir": str(tmp_path)})
    assert {"perception_r1", "perception_r1_async"} <= orms.keys()
    assert (found.num_generations, found.beta, found.max_completion_length) == (4, 0.04, 64)
    assert found.epsilon_high == 0.28
    assert found.reward_funcs == ["perception_r1"]


@pytest.mark.parametrize("name", ["perception_r1", "perception_r1_async"])
def test_its_scoring_calls_ours_with_the_columns_of_our_rows(exported: Any, name: str) -> None:
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func
    from swift.utils import import_external_file

    recipe, out = exported
    import_external_file(str(out / "plugin.py"))
    rows = rows_of(recipe)
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    samples, expected = [], []
    for sample, line in zip(rows.train, lines, strict=True):
        text = rows.task.gold(sample) if len(samples) % 2 else "[]"
        messages = [*line["messages"], {"role": "assistant", "content": text}]
        samples.append(GRPOSample.from_row({**line, "messages": messages, "finish_reason": "stop"}))
        expected.append(rows.task.score(sample, text).reward)
    reward = orms[name](args=None)
    found = compute_rewards_per_func(samples, [reward], [None], torch.device("cpu"))
    assert found[:, 0].tolist() == torch.tensor(expected).tolist()
    assert len(set(expected)) > 1


def test_its_loader_reads_our_rows(exported: Any) -> None:
    from PIL import Image
    from swift.dataset import load_dataset

    recipe, out = exported
    data, _ = load_dataset([str(out / "train.jsonl")], num_proc=1, split_dataset_ratio=0.0, remove_unused_columns=False)
    assert len(data) == 8
    sizes = {json.dumps(sample.model_size) for sample in rows_of(recipe).train}
    for row in data:
        image = row["images"][0]
        path = image["path"] if isinstance(image, dict) else image
        assert json.dumps(Image.open(path).size) in sizes  # already upright and at the model's size
        assert json.loads(row["row"])["task"] == "detection"
