"""The model, batches and trainer that the benchmarks of shared prefixes measure."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

IMAGE_SIZE = 448  # pixels a side: 32 × 32 patches, 256 image tokens
PROMPT_TOKENS = 330
WORKLOADS = {"grounding": 24, "detection": 350, "ocr": 700}  # tokens of an answer


class Sizes(NamedTuple):
    """What is measured: pixels a side of the image, tokens of a prompt, answers to it, tokens of an answer."""

    image: int
    prompt: int
    group: int
    answer: int


def build_model(*, small: bool = False) -> tuple[Any, Any]:
    """A Qwen2.5-VL of 31 million parameters with random weights, and its processor.

    21 M in 7 language layers of 512, 9 M in 5 vision layers of 320 and the merger, 1,400 tokens of vocabulary (tied).
    For one row of the grounding workload the vision tower then computes about as much as the language model; with 1,000
    image tokens it is 0.8 times as much in Qwen2.5-VL-3B and 1.6 times in Qwen2-VL-2B.

    Args:
        small: a model of a hundredth of that, to see whether the benchmark runs.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from perception_r1.models.tiny import build_processor

    processor = build_processor("qwen2_5_vl")
    tokenizer = processor.tokenizer
    width, layers, vision_width, depth = (64, 2, 64, 2) if small else (512, 7, 320, 5)
    head = 16 if small else 64
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // head,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [head // 8, head * 3 // 16, head * 3 // 16],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "depth": depth,
            "hidden_size": vision_width,
            "intermediate_size": 3 * vision_width,
            "num_heads": vision_width // head,
            "patch_size": 14,
            "window_size": 112,
            "out_hidden_size": width,
            "fullatt_block_indexes": [depth - 1],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def build_batch(config: Any, sizes: Sizes) -> dict[str, torch.Tensor]:
    """One group as TRL lays it out: one random prompt with its image as often as it has answers."""
    generator = torch.Generator().manual_seed(1)
    patches = sizes.image // config.vision_config.patch_size
    shown = (patches // 2) ** 2
    text = torch.randint(300, 1300, (sizes.prompt - shown - 2,), generator=generator)
    image = torch.full((shown + 2,), config.image_token_id)
    image[0], image[-1] = config.vision_start_token_id, config.vision_end_token_id
    prompt = torch.cat([text[:10], image, text[10:]])
    answers = torch.randint(300, 1300, (sizes.group, sizes.answer), generator=generator)
    ids = torch.cat([prompt.expand(sizes.group, -1), answers], 1)
    vision = config.vision_config
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(patches**2, channels, generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": pixels.repeat(sizes.group, 1),
        "image_grid_thw": torch.tensor([[1, patches, patches]]).repeat(sizes.group, 1),
    }


def answer_log_probs(model: Any, batch: dict[str, torch.Tensor], answer: int) -> torch.Tensor:
    """Log-probabilities (group, answer) of the answers' tokens; the LM head sees their positions only."""
    logits = model(**batch, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
    wanted = batch["input_ids"][:, -answer:, None]
    return logits.float().log_softmax(-1).gather(-1, wanted)[..., 0]


def build_trainer(
    model: Any,
    processor: Any,
    sizes: Sizes,
    folder: str,
    *,
    steps: int,
    callback: Any,
    **settings: Any,
) -> Any:
    """TRL's GRPOTrainer, unmodified: one prompt a step, answers of exactly `sizes.answer` tokens, a reference model.

    Args:
        model: saved to `folder` and loaded again, as the trainer does with the reference model.
        processor: of the model.
        sizes: image, prompt, group and answer.
        folder: of the run.
        steps: how many to make.
        callback: hears of every step.
        settings: of GRPOConfig, instead of ours.
    """
    import numpy as np
    from datasets import Dataset
    from PIL import Image
    from trl import GRPOConfig, GRPOTrainer

    model.save_pretrained(folder)  # the trainer loads its reference model from here
    processor.save_pretrained(folder)
    model = type(model).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=model.config._attn_implementation
    )
    rng = np.random.default_rng(0)
    shape = (sizes.image, sizes.image, 3)
    pictures = [Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for _ in range(2)]
    prompt = [{"role": "user", "content": fill_up(processor, pictures[0], sizes.prompt)}]
    specials = [i for i in processor.tokenizer.all_special_ids if i != processor.tokenizer.eos_token_id]
    defaults = {
        "num_generations": sizes.group,
        "per_device_train_batch_size": sizes.group,
        "steps_per_generation": 1,
        "max_completion_length": sizes.answer,
        "generation_kwargs": {"min_new_tokens": sizes.answer, "suppress_tokens": specials},
        "max_steps": steps,
        "learning_rate": 1e-5,
        "beta": 0.04,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token % 7 for token in tokens) / len(tokens) for tokens in completion_ids]

    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=folder, **{**defaults, **settings}),
        train_dataset=Dataset.from_list([{"prompt": prompt, "image": picture} for picture in pictures]),
        processing_class=processor,
        callbacks=[callback],
    )


def fill_up(processor: Any, picture: Any, tokens: int) -> str:
    """A question that makes the whole prompt about `tokens` tokens long."""
    question = "Where is the 7?"
    for _ in range(tokens):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        encoded = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        if len(encoded["input_ids"][0]) >= tokens:
            break
        question += " Look again."
    return question
