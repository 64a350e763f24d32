"""A model's folder that is not complete is refused by its files, in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("transformers")

from perception_r1.errors import ModelError
from perception_r1.models.load import check_model_path, load_model
from perception_r1.models.tiny import build_tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665f1\nsize 3968658944\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model, processor = build_tiny("qwen2_vl")
    model.save_pretrained(folder, max_shard_size="200KB")
    processor.save_pretrained(folder)
    return folder


def shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def truncate(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])


FAULTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "weights are pointers": (lambda f: shard(f).write_text(POINTER), ["is a Git-LFS pointer", "git lfs pull"]),
    "tokenizer is a pointer": (lambda f: (f / "tokenizer.json").write_text(POINTER), ["tokenizer.json", "lfs pull"]),
    "config is a pointer": (lambda f: (f / "config.json").write_text(POINTER), ["config.json", "git lfs pull"]),
    "one shard is missing": (lambda f: shard(f).unlink(), [".safetensors: is missing", "model.safetensors.index.json"]),
    "no weights": (
        lambda f: [path.unlink() for path in (*f.glob("*.safetensors"), *f.glob("*.index.json"))],
        ["has config.json but no weights"],
    ),
    "tensors cut": (lambda f: truncate(shard(f), shard(f).stat().st_size - 1), ["is truncated", "bytes of"]),
    "header cut": (lambda f: truncate(shard(f), 100), ["is truncated"]),
    "empty file": (lambda f: truncate(shard(f), 0), ["not a safetensors file, or damaged"]),
    "an error page": (lambda f: shard(f).write_text("<html>404</html>" * 500), [".safetensors", "damaged"]),
    "index damaged": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": '),
        ["is not an index of weights"],
    ),
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), ["has no chat template", "chat_template.jinja"]),
    "no tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        ["has no tokenizer"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_or_damaged_is_named(fault: str, whole: Path, tmp_path: Path) -> None:
    spoil, parts = FAULTS[fault]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    check_model_path(folder)
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        check_model_path(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for part in parts:
        assert part in message


def test_the_template_may_be_in_the_tokenizers_configuration(whole: Path, tmp_path: Path) -> None:
    """As published models of 2024 have it; the processor then renders with it too."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    check_model_path(folder)
    _, processor = load_model(folder)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello"}]}
    assert "<|image_pad|>" in processor.apply_chat_template([turn], tokenize=False)


def test_weights_of_another_model_are_refused(whole: Path, tmp_path: Path) -> None:
    """transformers starts what the weights lack at random, with a warning that scrolls by."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the weights lack 12 tensors .*layers\.2\."):
        load_model(folder)


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_the_command_line_ends_with_one_line(
    command: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does so before the rows are read: the recipe's are not there."""
    from perception_r1.cli import main

    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    shard(folder).write_text(POINTER)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{name: x, task: counting, family: qwen2_vl, model: {folder}, grpo: {{}}, sft: {{}}, "
        f"data: {{train: [{{source: jsonl, path: {tmp_path}/absent.jsonl}}]}}}}"
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "1", "image": "a.png", "question": "cup", "count": 1}))
    args = [str(recipe)] if command != "eval" else ["--task", "counting", "--model", str(folder), "--data", str(rows)]
    with pytest.raises(SystemExit) as ended:
        main([command, *args, "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "Git-LFS pointer" in lines[0]
