"""Real trainings and servers with vLLM on the CPU, in an environment of its own: `make test-vllm`.

The folder is not named `vllm`: without vLLM, `import vllm` would find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from cpu_engine import prepare

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("vllm") is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="vLLM has an environment of its own: make test-vllm"))


@pytest.fixture(scope="session")
def cpu_vllm() -> None:
    """Engines in this process are small and keep their weights where a sync finds them."""
    prepare()


def wide_tiny(family: str) -> tuple[Any, Any]:
    """A tiny model whose attention heads have 32 channels, the fewest that vLLM's CPU kernels take."""
    import torch

    from perception_r1.models.tiny import build_tiny

    model, processor = build_tiny(family)
    config = model.config
    text = config.get_text_config()
    if text.hidden_size // text.num_attention_heads < 32:
        text.hidden_size, text.num_attention_heads, text.num_key_value_heads = 128, 4, 2
        config.vision_config.out_hidden_size = 128
        if family == "qwen2_vl":
            config.vision_config.hidden_size = 128
        if text.rope_parameters.get("mrope_section"):
            text.rope_parameters["mrope_section"] = [8, 4, 4]
        torch.manual_seed(0)
        ends = model.generation_config
        model = type(model)(config).eval()
        model.generation_config = ends
    return model, processor


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of models by name: a tiny one of each family, padding on the right as published tokenizers do, and
    ``trained``, the demo's warm start, which reads digits."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            if name == "trained":
                from perception_r1.demo import warm_start

                warm_start(root / name, rebuild=False, show_progress=False, say=lambda _: None)
            else:
                model, processor = wide_tiny(name)
                processor.tokenizer.padding_side = "right"
                model.save_pretrained(root / name)
                processor.save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def write_recipe(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A recipe of two small steps on digit scenes of two sizes, with colocated vLLM."""

    def write(model: Path, *, n: int = 8, **grpo: Any) -> Path:
        sources = [
            {
                "source": "digits",
                "path": str(tmp_path / f"scenes{size}"),
                "options": {"n": n, "max_digits": 3, "size": size},
            }
            for size in (96, 128)
        ]
        for source in sources:
            Path(source["path"]).mkdir(exist_ok=True)
        values = {
            "name": "small",
            "task": "counting",
            "model": str(model),
            "data": {"train": sources},
            "grpo": {
                "learning_rate": 1e-3,
                "lr_scheduler_type": "constant",
                "max_steps": 2,
                "num_generations": 4,
                "per_device_train_batch_size": 16,
                "max_completion_length": 8,
                "beta": 0.0,
                "save_steps": 2,
                "use_vllm": True,
                "vllm_mode": "colocate",
                "vllm_gpu_memory_utilization": 0.1,
                "vllm_max_model_length": 1024,
                "bf16": False,
                "use_cpu": True,
                **grpo,
            },
        }
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    yield write
