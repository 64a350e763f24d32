"""The arithmetic of a plan, by hand, against torch's own counts, and as a user sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine_data import make_recipe
from perception_r1.cli import app
from perception_r1.errors import ModelError, RecipeError
from perception_r1.plan import DEVICES, Batch, Setup, estimate, plan_recipe, shape_of
from perception_r1.plan.estimate import forward_operations, seconds
from perception_r1.plan.memory import kept_activations, layers, phases
from perception_r1.plan.run import adapter_parameters
from perception_r1.plan.shapes import known_models

ROOT = Path(__file__).resolve().parents[2]
THREE_B = "Qwen/Qwen2.5-VL-3B-Instruct"
SHARDED = "machine.sharding=fsdp2"
GROUP = Batch(8, 8, 330, 330, 256, 256, 24, 24)


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", 2.21),
        ("Qwen/Qwen2-VL-7B-Instruct", 8.29),
        (THREE_B, 3.75),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29),
        ("Qwen/Qwen3-VL-2B-Instruct", 2.13),
        ("Qwen/Qwen3-VL-4B-Instruct", 4.44),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.77),
    ],
)
def test_published_sizes(model: str, billions: float) -> None:
    assert shape_of(model).parameters / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_a_shape_is_counted_on_the_model_itself(family: str) -> None:
    pytest.importorskip("torch")
    from perception_r1.models.tiny import build_tiny

    model, _ = build_tiny(family)
    shape = shape_of(model.config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    assert shape.tower_parameters == sum(parameter.numel() for parameter in tower.parameters())
    assert 0 < shape.language_linear < shape.parameters
    assert shape.patches_per_token == 4


@pytest.mark.slow
def test_known_shapes_are_those_of_their_configurations() -> None:
    from transformers import AutoConfig

    import perception_r1

    folder = Path(perception_r1.__file__).parent / "assets" / "models"
    for name, values in json.loads((folder / "configs.json").read_text()).items():
        assert shape_of(AutoConfig.for_model(**values)) == known_models()[name]


@pytest.mark.parametrize("shared", [False, True])
def test_operations_are_those_that_torch_counts(shared: bool) -> None:
    """Within a tenth (the plan counts the causal half of attention, torch the whole square)."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from perception_r1 import shared_prefix
    from perception_r1.models.tiny import build_tiny

    model, processor = build_tiny("qwen2_5_vl")
    image, answer, group = 8 * 8, 12, 4
    vocabulary = processor.tokenizer
    ids = [model.config.vision_start_token_id, *[model.config.image_token_id] * image, model.config.vision_end_token_id]
    prompt = [*vocabulary("Count the digits.")["input_ids"], *ids]
    rows = torch.tensor([prompt] * group)
    rows = torch.cat([rows, torch.randint(100, 900, (group, answer), generator=torch.Generator().manual_seed(0))], 1)
    vision = model.config.vision_config
    pixels = torch.randn(4 * image, 3 * vision.temporal_patch_size * vision.patch_size**2).repeat(group, 1)
    inputs = {
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows),
        "mm_token_type_ids": (rows == model.config.image_token_id).int(),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 16, 16]] * group),
    }
    if shared:
        shared_prefix.enable(model)
    # The counter knows attention only as the products that it is made of.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(**inputs, logits_to_keep=answer, use_cache=False)
    batch = Batch(group, group, len(prompt), len(prompt), image, image, answer, answer, shared)
    assert forward_operations(shape_of(model.config), batch) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_sharing_saves_what_the_counts_allow() -> None:
    """docs/performance.md: G (V + (P + A) T) against V + (P + G A) T."""
    shape = shape_of(THREE_B)
    for answer in (24, 350, 700):
        batch = replace(GROUP, answer=answer)
        plain = forward_operations(shape, replace(batch, shared=False))
        tower = plain / 8 - forward_operations(shape, replace(batch, shared=False, rows=1, image=0)) * 1.0
        assert tower > 0
        saved = plain / forward_operations(shape, batch)
        assert 1 < saved < 8
    assert forward_operations(shape, GROUP) == pytest.approx(
        forward_operations(shape, replace(GROUP, rows=1, group=1))
        + 7
        * (
            forward_operations(shape, replace(GROUP, rows=2, group=2))
            - forward_operations(shape, replace(GROUP, rows=1, group=1))
        )
    )


def test_memory_by_hand() -> None:
    """docs/engines.md: of each parameter 4 bytes of weight, 4 of gradient, 8 of AdamW, 4 of reference model."""
    shape = shape_of(THREE_B)
    n = shape.parameters
    plain = phases(shape, GROUP, Setup(compute_bytes=4.0))["training"]
    assert (plain["weights"], plain["gradients"], plain["optimizer (AdamW)"]) == (4 * n, 4 * n, 8 * n)
    assert "reference model" not in plain
    assert phases(shape, GROUP, Setup(reference=True))["training"]["reference model"] == 4 * n
    assert phases(shape, GROUP, Setup(devices=8))["training"]["gradients"] == 8 * n  # DDP's buckets beside them
    sharded = phases(shape, GROUP, Setup(devices=8, sharding="fsdp2", reference=True))["training"]
    assert sharded["weights"] == sharded["reference model"] == sharded["gradients"] == 4 * n / 8
    # DeepSpeed: bf16 weights, and the float32 ones as a part of the optimizer's states.
    half = phases(shape, GROUP, Setup(devices=8, sharding="zero2"))["training"]
    assert (half["weights"], half["gradients"], half["optimizer (AdamW)"]) == (2 * n, 4 * n / 8, 12 * n / 8)


def test_memory_of_adapters_by_hand() -> None:
    shape = shape_of(THREE_B)
    lora = adapter_parameters({"r": 64}, shape)
    assert lora == 64 * 36 * (2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11008))
    adapted = phases(shape, GROUP, Setup(lora=lora, reference=True, weight_bytes=2.0))["training"]
    assert "reference model" not in adapted  # the adapters are switched off for it
    assert adapted["weights"] == 2 * shape.parameters + 4 * lora
    assert (adapted["gradients"], adapted["optimizer (AdamW)"]) == (4 * lora, 8 * lora)


def test_generation_and_training_take_turns() -> None:
    shape, device = shape_of(THREE_B), DEVICES["h100"]
    both = phases(shape, replace(GROUP, limit=2048), Setup(accumulate=4))
    # 32 rows of 330 + 2,048 tokens: keys and values of 36 layers of 2 × 128, in float32 as the layers hand them on.
    assert both["generation"]["keys and values"] == 32 * 2378 * 36 * 2 * 2 * 128 * 4
    assert "gradients" not in both["generation"]
    assert "keys and values" not in both["training"]
    for sleeps in (False, True):
        both = phases(shape, GROUP, Setup(vllm=0.3, sleeps=sleeps), device)
        assert both["generation"]["vLLM"] == 0.3 * device.memory
        assert ("vLLM" in both["training"]) is not sleeps
    both = phases(shape, GROUP, Setup(vllm=0.3, server=True), device)
    assert not any("vLLM" in part or "keys and values" in part for part in both.values())
    planned = estimate(shape, GROUP, Setup(), device)
    totals = {name: sum(parts.values()) for name, parts in phases(shape, GROUP, Setup(), device).items()}
    assert planned.total_memory == max(totals.values()) == totals[planned.phase]
    assert planned.other_memory == min(totals.values())


def deep_qwen(depth: int, dtype: str) -> Any:
    """A narrow Qwen2.5-VL with ``depth`` layers in language model and vision tower."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 1000,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": depth,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": depth,
            "hidden_size": 160,
            "intermediate_size": 480,
            "num_heads": 4,
            "patch_size": 14,
            "window_size": 112,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [depth - 1],
        },
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
    )
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return model.to(getattr(torch, dtype)).train()


def kept_bytes(part: Any, inputs: dict[str, Any], *, amp: bool) -> int:
    """Bytes that autograd keeps of a forward pass, without weights and their bf16 copies."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in part.parameters()}
    sizes = {tuple(size) for p in part.parameters() for size in (p.shape, p.shape[::-1]) if p.ndim > 1}
    storages: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in sizes:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=amp),
    ):
        out = part(**inputs)
    assert out is not None
    return sum(storages.values())


@pytest.mark.parametrize(("dtype", "amp"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_layers_keep_what_autograd_keeps(dtype: str, amp: bool) -> None:
    """Two layers more keep so many bytes more: of a token in the language model, of a patch in the tower."""
    torch = pytest.importorskip("torch")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip(f"counted with torch 2.13: {torch.__version__} keeps other tensors")

    tokens, side = 401, 32
    text = {"input_ids": torch.randint(100, 900, (1, tokens)), "use_cache": False}
    pixels = torch.randn(side * side, 3 * 2 * 14 * 14, dtype=getattr(torch, dtype))
    image = {"hidden_states": pixels, "grid_thw": torch.tensor([[1, side, side]])}
    shallow, deep = deep_qwen(2, dtype), deep_qwen(4, dtype)
    half = amp or dtype == "bfloat16"
    setup = Setup(weight_bytes=4.0 if dtype == "float32" else 2.0, compute_bytes=2.0 if half else 4.0)
    language, tower = layers(shape_of(deep.config), setup)
    counted = [kept_bytes(model.model.language_model, text, amp=amp) for model in (shallow, deep)]
    assert language == pytest.approx((counted[1] - counted[0]) / 2 / tokens, rel=0.02)
    counted = [kept_bytes(model.model.visual, image, amp=amp) for model in (shallow, deep)]
    assert tower == pytest.approx((counted[1] - counted[0]) / 2 / side**2, rel=0.1)


def test_what_saves_memory_and_time() -> None:
    shape, device = shape_of(THREE_B), DEVICES["h100"]
    long = replace(GROUP, answer=350, limit=2048)
    assert kept_activations(shape, long, Setup()) < 0.3 * kept_activations(shape, long, Setup(checkpointing=False))
    assert kept_activations(shape, GROUP, Setup()) < kept_activations(shape, replace(GROUP, shared=False), Setup())
    base = seconds(shape, long, Setup(reference=True), device)
    assert sum(seconds(shape, replace(long, shared=False), Setup(reference=True), device).values()) > sum(base.values())
    assert seconds(shape, long, Setup(vllm=0.3), device)["generation"] < base["generation"]
    assert "generation" not in seconds(shape, long, Setup(server=True, vllm=0.3), device)
    made = estimate(shape, long, Setup(), device)
    assert made.tokens == 330 + 8 * 350
    assert made.tokens_plain == 8 * (330 + 350)
    assert made.total_memory == pytest.approx(sum(made.memory.values()))


def test_a_recipe_is_planned_from_its_own_data(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "data", THREE_B)
    found = plan_recipe(recipe)  # one H100: the recipe names no machine
    assert (found.device.name, found.setup.devices, found.setup.sharding) == ("h100", 1, "none")
    # Four sizes of pictures, twice each: 200 × 120, 90 × 160, 131 × 77 and 64 × 64 pixels on a grid of 28.
    cells = [7 * 4, 3 * 6, 5 * 3, 2 * 2]
    assert found.batch.image == sum(cells) / 4
    assert found.batch.longest_image == max(cells)
    assert (found.batch.rows, found.batch.group, found.batch.limit) == (4, 4, 64)
    assert found.steps == 2 * 8 // 2
    assert not found.fits  # 3.75 billion parameters and a reference model with AdamW in float32
    assert any("lora" in line and "fits" in line for line in found.advice)
    sharded = plan_recipe(recipe, device="h100", devices=8, sharding="fsdp2")
    assert sharded.fits
    assert not sharded.advice


def test_rows_of_evaluation_are_not_needed_and_answers_may_be_longer(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "data", THREE_B)
    gone = [source.model_copy(update={"path": str(tmp_path / "gone.jsonl")}) for source in recipe.data.eval]
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": gone})})
    found, longer = plan_recipe(recipe), plan_recipe(recipe, answer_tokens=60)
    assert longer.batch.answer == 60
    assert longer.plan.total_seconds > found.plan.total_seconds
    with pytest.raises(RecipeError, match="max_completion_length is 64"):
        plan_recipe(recipe, answer_tokens=65)


@pytest.mark.slow
def test_it_is_near_what_was_measured() -> None:
    """docs/engines.md: recorded steps on the CPU lie within a half, once the processor's rate is fitted."""
    pytest.importorskip("trl")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plan.py"), "--recorded", str(ROOT / "docs" / "bench_prefix.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    off = [int(text) for text in re.findall(r"([+-]\d+) %", done.stdout)]
    assert len(off) >= 40
    assert max(map(abs, off)) <= 45


def test_from_the_command_line(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "data", THREE_B)
    file = tmp_path / "r.yaml"
    file.write_text(
        yaml.safe_dump({key: value for key, value in recipe.model_dump_plain().items() if value is not None})
    )
    run: Any = CliRunner().invoke
    done = run(app, ["plan", str(file), "--device", "h100", "--devices", "8", "--sharding", "zero3"])
    assert done.exit_code == 0, done.output
    for part in ("3.75 billion parameters", "weights", "together", "fits"):
        assert part in done.output
    done = run(app, ["plan", str(file), "--without-data", "--json", "--set", "machine.devices=8", "--set", SHARDED])
    values = json.loads(done.stdout)
    assert (values["devices"], values["sharding"], values["fits"]) == (8, "fsdp2", True)
    # No limit in the recipe: the family's own, 1,000,000 pixels.
    assert 1_200 < values["batch"]["longest_image"] <= 1_000_000 / 28**2
    assert values["batch"]["answer"] == values["batch"]["limit"] == 64
    done = run(app, ["plan", str(file), "--device", "rtx4090", "--devices", "1", "--json"])
    assert done.exit_code == 1
    values = json.loads(done.stdout)
    assert values["fits"] is False
    assert values["advice"]
    assert run(app, ["plan", str(file), "--device", "abacus"]).exit_code == 2


def test_what_cannot_be_planned_is_said(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "data", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no such model folder"):
        plan_recipe(recipe)
    known = recipe.model_copy(update={"model": THREE_B})
    with pytest.raises(RecipeError, match="unknown sharding"):
        plan_recipe(known, sharding="ddp")
