"""What a recipe with vLLM is refused for, before anything is loaded."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("trl")

from perception_r1.errors import RecipeError
from perception_r1.models.tiny import TINY_FAMILIES, build_processor
from perception_r1.train.vllm_prompts import around_images, one_token_per_image
from perception_r1.train.vllm_ready import _check_server, check_vllm


def installed(folder: Path, version: str) -> dict[str, str]:
    """An environment in which the distribution ``vllm`` has this version; what it holds does not import."""
    (folder / "vllm").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (info / "top_level.txt").write_text("vllm\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def train(recipe: Path, out: Path, *overrides: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "perception_r1", "train", str(recipe), "--out", str(out)]
    for override in ("grpo.use_vllm=true", *overrides):
        command += ["--set", override]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("version", ["0.10.2", "0.99.0"])
def test_a_version_that_trl_does_not_take(version: str, recipe_file: Path, tmp_path: Path) -> None:
    env = installed(tmp_path / "site", version)
    # Said before a warm start would train, too.
    done = train(recipe_file, tmp_path / "run", "warm_start=sft", env=env)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {recipe_file}: field 'grpo.use_vllm': TRL currently supports vLLM versions from")
    assert version in line
    assert "pip install" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_is_missing(recipe_file: Path, tmp_path: Path) -> None:
    done = train(recipe_file, tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "field 'grpo.use_vllm': vllm is not installed: pip install \"perception-r1[vllm]\"" in line
    assert not (tmp_path / "run").exists()


def test_no_server_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        RecipeError, match=r"r.yaml: field 'grpo.vllm_mode': no vLLM server answers at .*trl vllm-serve"
    ):
        _check_server("http://127.0.0.1:9", 0.3, "r.yaml")
    assert capsys.readouterr().err.startswith("waiting up to 0.3 s for the vLLM server at http://127.0.0.1:9")


def test_without_use_vllm_nothing_is_looked_at() -> None:
    for table in (None, {}, {"use_vllm": False, "vllm_mode": "server"}):
        check_vllm(table, "r.yaml")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Answers /health, and /server_info with what the test gives (None: 404, as without vLLM's development mode)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/health" or request.param is not None
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(request.param).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("server", "part"),
    [
        (None, "VLLM_SERVER_DEV_MODE=1"),
        ({"vllm_config": {"weight_transfer_config": None}}, "takes no weights; start it with trl vllm-serve"),
        ("text", "needs a CUDA device"),
        ({"vllm_config": {"weight_transfer_config": {"backend": "nccl"}}}, "needs a CUDA device"),
    ],
    indirect=["server"],
)
def test_what_a_server_lacks(server: str, part: str) -> None:
    import torch

    if torch.cuda.is_available() and "CUDA" in part:
        pytest.skip("there is a CUDA device here")
    with pytest.raises(RecipeError, match=part):
        _check_server(server, 5.0, "r.yaml")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([], []),
        ([9], [9]),
        ([9, 9, 1], [9, 1]),
        ([1, 9, 9, 2, 3, 9, 9, 9, 4], [1, 9, 2, 3, 9, 4]),
        ([1, 9, 2], [1, 9, 2]),
        ([1, 2], [1, 2]),
    ],
)
def test_one_token_per_image(prompt: list[int], expected: list[int]) -> None:
    short = one_token_per_image(prompt, 9)
    assert short == expected
    assert one_token_per_image(short, 9) == short


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([7, 9, 9, 8], [9]),
        ([1, 7, 9, 8, 2, 7, 9, 9, 8, 3], [1, 9, 2, 9, 3]),
        ([1, 9, 2, 9], [1, 9, 2, 9]),  # not expanded: nothing around it
        ([1, 9, 9, 8], [1, 9, 8]),  # half of what belongs around it is none of the processor's
        ([1, 7, 9, 9], [1, 7, 9]),
    ],
)
def test_what_the_processor_puts_around_an_image_goes_too(prompt: list[int], expected: list[int]) -> None:
    short = one_token_per_image(prompt, 9, [7], [8])
    assert short == expected
    assert one_token_per_image(short, 9, [7], [8]) == short


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_prompt_is_shortened_to_what_the_template_gives(family: str) -> None:
    from PIL import Image

    processor = build_processor(family)
    for n_images in (1, 2):
        images = [{"type": "image", "image": Image.new("RGB", (112, 56 * (1 + i)))} for i in range(n_images)]
        chat = [{"role": "user", "content": [*images, {"type": "text", "text": "Is <img> there?"}]}]
        expanded = processor.apply_chat_template([chat], tokenize=True, return_dict=True)["input_ids"][0]
        plain = processor.tokenizer(processor.apply_chat_template([chat], tokenize=False)[0])["input_ids"]
        if n_images == 1:
            around = around_images(plain, expanded, processor.image_token_id)
            assert len(around[0]) == len(around[1]) == (family == "internvl")
        assert one_token_per_image(expanded, processor.image_token_id, *around) == plain
