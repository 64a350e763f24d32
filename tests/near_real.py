"""Model folders laid out exactly as published ones, with tiny weights: real vocabulary, settings, templates, bfloat16.

The byte-pair table is that of Qwen's tokenizers, ``qwen.tiktoken``, which the PyPI packages dashscope and qwen-agent
carry (for these tests only; nothing of them is imported). Everything else is written here, with the published values.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

PLACES = (("dashscope", "resources/qwen.tiktoken"), ("qwen_agent", "utils/qwen.tiktoken"))
ROWS = 151_936  # of the embedding: the vocabulary, and what pads it to a multiple of 128

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
ADDED = {
    "qwen2_vl": (SPECIAL, ()),
    "qwen2_5_vl": (SPECIAL, PLAIN),
    "qwen3_vl": (SPECIAL, (*PLAIN, "<tool_response>", "</tool_response>", "<think>", "</think>")),
    "internvl": (SPECIAL, PLAIN),
}
INTERNVL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

TEMPLATE = (
    "{%- for message in messages %}"
    "%DEFAULT%"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}{{- '%IMAGE%' }}"
    "{%- elif part.type == 'video' or 'video' in part %}{{- '%VIDEO%' }}"
    "{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SYSTEM = (
    "{%- if loop.first and message.role != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
)


def table_file() -> Path | None:
    """``qwen.tiktoken`` of whichever package is installed; None without one."""
    for package, place in PLACES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / place).is_file():
                return Path(folder) / place
    return None


def template(family: str) -> str:
    """The chat template: Qwen2-VL and Qwen2.5-VL add a system turn where there is none, the others do not."""
    image, video = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
    if family == "internvl":
        image, video = "<IMG_CONTEXT>\\n", "<video>\\n"
    default = SYSTEM if family in ("qwen2_vl", "qwen2_5_vl") else ""
    return TEMPLATE.replace("%DEFAULT%", default).replace("%IMAGE%", image).replace("%VIDEO%", video)


@cache
def byte_pairs(table: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges, in the printable form of byte-level tokenizers, of a table of tokens by rank.

    A token's merge is the pair that is left when its bytes are merged by the ranks below its own.
    """
    ranks = {}
    for line in table.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    printable = _printable()

    def text(token: bytes) -> str:
        return "".join(printable[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _halves(token, ranks, rank)
            merges.append((text(left), text(right)))
    return {text(token): rank for token, rank in ranks.items()}, merges


def _halves(token: bytes, ranks: dict[bytes, int], limit: int) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], limit) for i in range(len(parts) - 1)]
        best = min(pairs)
        if best >= limit:
            raise ValueError(f"{token!r} is not made of tokens of lower rank")
        i = pairs.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _printable() -> dict[int, str]:
    """The character that stands for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {**{byte: chr(byte) for byte in seen}, **{byte: chr(256 + i) for i, byte in enumerate(hidden)}}


def write_tokenizer(folder: Path, family: str, table: Path) -> None:
    """``vocab.json``, ``merges.txt``, ``tokenizer.json`` and ``tokenizer_config.json``; pads on the right."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab, merges = byte_pairs(table)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special, plain = ADDED[family]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    if family == "internvl":
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in INTERNVL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in tokenizer.get_added_tokens_decoder().items()
        },
        "additional_special_tokens": [token for token in special if token not in ("<|endoftext|>", "<|im_end|>")],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": {"qwen2_vl": 32768, "qwen3_vl": 262144}.get(family, 131072),
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "chat_template": template(family),
    }
    if family == "internvl":
        config |= {
            "processor_class": "InternVLProcessor",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
            "extra_special_tokens": {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            },
        }
    _write(folder, "tokenizer_config.json", config)


def write_processor(folder: Path, family: str) -> None:
    """The files of image and video processor and the chat template, where each family has them."""
    grid = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    if family in ("qwen2_vl", "qwen2_5_vl"):
        name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[family]
        limits = {"min_pixels": 3136, "max_pixels": 12845056}
        images = {**limits, **grid, **CLIP, "image_processor_type": "Qwen2VLImageProcessor"}
        _write(folder, "preprocessor_config.json", {**images, "processor_class": f"{name}Processor"})
        _write(folder, "chat_template.json", {"chat_template": template(family)})
    elif family == "qwen3_vl":
        common = {**grid, **HALF, "patch_size": 16}
        images = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, **common}
        images |= {"processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}
        videos = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, **common}
        videos |= {"processor_class": "Qwen3VLProcessor", "video_processor_type": "Qwen3VLVideoProcessor"}
        _write(folder, "preprocessor_config.json", images)
        _write(folder, "video_preprocessor_config.json", videos)
        _write(folder, "chat_template.json", {"chat_template": template(family)})
    else:
        common = {**IMAGENET, "size": {"height": 448, "width": 448}, "processor_class": "InternVLProcessor"}
        images = {"crop_to_patches": False, "min_patches": 1, "max_patches": 12, "do_convert_rgb": True}
        images |= {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3}
        images |= {"image_processor_type": "GotOcr2ImageProcessorFast"}
        _write(folder, "preprocessor_config.json", {**images, **common})
        _write(folder, "video_preprocessor_config.json", {**common, "video_processor_type": "InternVLVideoProcessor"})
        _write(folder, "processor_config.json", {"image_seq_length": 256, "processor_class": "InternVLProcessor"})
        (folder / "chat_template.jinja").write_text(template(family), encoding="utf-8")


def config_of(family: str) -> dict[str, Any]:
    """``config.json`` as published (Qwen2-VL's and Qwen2.5-VL's text settings lie on top), with tiny sizes."""
    text: dict[str, Any] = {
        "vocab_size": ROWS,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "hidden_act": "silu",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "initializer_range": 0.02,
        "use_cache": True,
    }
    ids = {
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    tied = {"tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 4, "patch_size": 14}
        vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "in_chans": 3, "spatial_patch_size": 14}
        more = {"architectures": ["Qwen2VLForConditionalGeneration"], "rope_scaling": rope, "use_sliding_window": False}
        return {**text, **ids, **tied, **more, "model_type": family, "vision_config": vision, "vision_token_id": 151654}
    if family == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
        vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1], "spatial_merge_size": 2}
        more = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "rope_scaling": rope}
        more |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 70}
        return {**text, **ids, **tied, **more, "model_type": family, "vision_config": vision, "vision_token_id": 151654}
    if family == "qwen3_vl":
        rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        text |= {"head_dim": 32, "rope_scaling": rope, "rope_theta": 5e6, "model_type": "qwen3_vl_text"}
        vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
        vision |= {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 2304}
        more = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": {**text, **tied}}
        return {**ids, **tied, **more, "model_type": family, "vision_config": vision}
    vision = {"model_type": "internvl_vision", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": [448, 448], "patch_size": [14, 14]}
    more = {"architectures": ["InternVLForConditionalGeneration"], "image_token_id": 151667, "image_seq_length": 256}
    more |= {"text_config": {**text, **tied, "model_type": "qwen2"}, "downsample_ratio": 0.5}
    return {**more, **tied, "model_type": family, "vision_config": vision}


GENERATION = {
    "qwen2_vl": {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1},
    "qwen2_5_vl": {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-6},
    "qwen3_vl": {"do_sample": True, "top_p": 0.8, "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.0},
    "internvl": {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
}


def build(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Write the whole folder: weights in bfloat16, two files of them with an index for Qwen2.5-VL.

    Raises:
        FileNotFoundError: neither package with the byte-pair table is installed.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    table = table_file()
    if table is None:
        raise FileNotFoundError("qwen.tiktoken: pip install --no-deps dashscope==2.0.2")
    folder.mkdir(parents=True)
    config = config_of(family)
    _write(folder, "config.json", config)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="19MB" if family == "qwen2_5_vl" else "1GB")
    _write(folder, "config.json", config)  # save_pretrained has written one of today's form
    ends = {"bos_token_id": 151643, "pad_token_id": 151643, "eos_token_id": [151645, 151643]}
    _write(folder, "generation_config.json", {**ends, **GENERATION[family]})
    write_tokenizer(folder, family, table)
    write_processor(folder, family)
    return folder


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
