"""vLLM's server as `pr1 eval` and `pr1 vpr judge` talk to it, and TRL's server mode as far as a CPU goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cpu_engine import ENGINE, ENVIRONMENT

from perception_r1.data.jsonl import write_jsonl
from perception_r1.evaluate.results import read_results
from real_server import real_server

pytestmark = pytest.mark.timeout(1800)
Folders = Callable[[str], Path]
N_ROWS = 64


def pr1(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perception_r1", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT})


@contextmanager
def vllm_serve(folder: Path, *words: str, command: tuple[str, ...] = ("vllm", "serve"), **env: str) -> Iterator[str]:
    """``vllm serve`` of a folder; gives its address (…/v1)."""
    program = Path(sys.executable).with_name(command[0])
    settings = ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(ENGINE["max_model_len"])]
    settings += ["--gpu-memory-utilization", "0.1", *words]
    # The server keeps its engine in a process of its own.
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with real_server(program, *command[1:], *settings, environment={**environment, **env}) as url:
        yield url


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from perception_r1.data.digits import make_scenes

    folder = tmp_path_factory.mktemp("heldout")
    samples = [
        sample
        for size in (96, 128)
        for sample in make_scenes("counting", N_ROWS // 2, seed=size, split="heldout", size=size, out_dir=folder)
    ]
    write_jsonl(folder / "rows.jsonl", samples)
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def served(folders: Folders) -> Iterator[tuple[str, Path]]:
    folder = folders("trained")
    with vllm_serve(folder, command=("vllm", "serve", str(folder))) as url:
        yield url, folder


def answers(out: Path) -> dict[str, str]:
    return {result.sample.id: result.completion.text for result in read_results(out)}


def test_an_evaluation_gets_the_same_answers(served: tuple[str, Path], rows: Path, tmp_path: Path) -> None:
    url, folder = served
    common = ("eval", "--task", "counting", "--family", "qwen3_vl", "--data", rows, "--max-new-tokens", 48, "--quiet")
    server = pr1(*common, "--backend", "openai", "--server", url, "--model", folder, "--out", tmp_path / "server")
    assert server.returncode == 0, server.stderr
    plain = pr1(*common, "--model", folder, "--device", "cpu", "--out", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    theirs, ours = answers(tmp_path / "server"), answers(tmp_path / "plain")
    assert len(ours) == N_ROWS
    assert sum(theirs[key] == ours[key] for key in ours) == N_ROWS
    assert len(set(ours.values())) > 3  # of a model that reads digits


def test_the_offline_engine_gets_the_same_answers(folders: Folders, rows: Path, tmp_path: Path) -> None:
    common = ("eval", "--task", "counting", "--family", "qwen3_vl", "--data", rows, "--max-new-tokens", 48, "--quiet")
    engine = json.dumps(ENGINE)
    vllm = pr1(
        *common, "--model", folders("trained"), "--backend", "vllm", "--engine", engine, "--out", tmp_path / "vllm"
    )
    assert vllm.returncode == 0, vllm.stderr
    plain = pr1(*common, "--model", folders("trained"), "--device", "cpu", "--out", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    assert answers(tmp_path / "vllm") == answers(tmp_path / "plain")


def test_a_tiny_text_model_as_judge(tmp_path: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from perception_r1.models.tiny_tokenizer import QWEN_TEMPLATE, build_tokenizer

    folder = tmp_path / "judge"
    tokenizer = build_tokenizer()
    tokenizer.chat_template = QWEN_TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with vllm_serve(folder, "--max-model-len", "4096", command=("vllm", "serve", str(folder))) as url:
        done = pr1("vpr", "judge", "--url", url, "--model", folder, "--generated", 8, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["generated"]
    assert measured["n_cases"] == 8
    # An untrained model's JSON is often cut at the limit of tokens; what is whole is read as verdicts, sound or not.
    assert measured["n_facts"] > 0
    assert 0 <= measured["agreement"] <= 1


def test_trls_server_mode_as_far_as_it_goes(folders: Folders, tmp_path: Path, write_recipe: Any) -> None:
    """Rollouts through TRL's client are the policy's; sending weights needs NCCL, and that is said before loading."""
    import torch
    from PIL import Image
    from trl.generation.vllm_client import VLLMClient
    from trl.generation.vllm_generation import VLLMGeneration

    from perception_r1.models.load import load_model

    folder = folders("trained")
    with vllm_serve(folder, command=("trl", "vllm-serve", "--model", str(folder)), VLLM_SERVER_DEV_MODE="1") as url:
        base = url.removesuffix("/v1")
        server = ["--set", "grpo.vllm_mode=server", "--set", f"grpo.vllm_server_base_url={base}"]
        done = pr1("train", write_recipe(folder), "--out", tmp_path / "run", *server)
        assert done.returncode == 2
        assert (
            done.stderr.strip()
            .splitlines()[-1]
            .endswith("by NCCL, which needs a CUDA device on this side too; use vllm_mode: colocate")
        ), done.stderr
        assert not (tmp_path / "run").exists()

        model, processor = load_model(folder, dtype="float32")
        images = [Image.effect_noise((96, 96), 60).convert("RGB"), Image.effect_noise((128, 64), 60).convert("RGB")]
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "How many?"}]}]
            for image in images
        ]
        kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        prompts = [list(processor.apply_chat_template([chat], **kwargs)["input_ids"][0]) for chat in chats]
        client = VLLMClient(base_url=base, connection_timeout=60.0)
        features = client.image_features([[image] for image in images])
        placed = VLLMGeneration.__new__(VLLMGeneration)
        placed.processing_class = processor
        features = [placed._place_features(one, ids) for one, ids in zip(features, prompts, strict=True)]
        found = client.generate(prompts=prompts, features=features, n=2, max_tokens=8, logprobs=0)
    rows = [
        (i, ids, logps) for i, (ids, logps) in enumerate(zip(found["completion_ids"], found["logprobs"], strict=True))
    ]
    assert len(rows) == 4
    for i, ids, logps in rows:
        batch = processor.apply_chat_template([chats[i // 2]], return_tensors="pt", **kwargs)
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([ids])], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        if "mm_token_type_ids" in batch:
            zeros = torch.zeros((1, len(ids)), dtype=batch["mm_token_type_ids"].dtype)
            batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], zeros], dim=1)
        with torch.no_grad():
            logits = model(**batch).logits[0, -len(ids) - 1 : -1].float()
        own = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx([row[0] for row in logps], abs=1e-3)
