"""A tokenizer of about 1,500 entries for the tiny models: any text encodes, and answers of boxes are short.

Byte-level base (every string round-trips), plus one token for each number 0..1000 where a coordinate can stand, for
the strings between the numbers of an answer, and for the sentences of this project's prompts. A box of the JSON format
costs five tokens instead of about forty. Digits elsewhere (text to read) are one token each, as in Qwen's tokenizer.
The vocabulary is kept small since TRL scores every position against all of it: a number with its comma is one token
only where an image of ``SIDE`` pixels has that coordinate; others take two.
"""

from __future__ import annotations

import re
from typing import Any

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
INTERNVL_SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<ref>", "</ref>", "<box>", "</box>")

_STRUCTURE = (
    '[{"bbox_2d": [',
    '], "label": "',
    '"}, {"bbox_2d": [',
    '"}]',
    "[]",
    *(f'], "label": "{name}"{end}' for name in ("digit", *"0123456789") for end in ('}, {"bbox_2d": [', "}]")),
    *(f'], "label": "digit {name}"}}]' for name in "0123456789"),
    "),(",
    "]]",
    "[[",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "user\n",
    "assistant\n",
    "system\n",
)
_SENTENCES = (
    "You are a helpful assistant. ",
    "Output the bounding box of the ",
    " in the image.",
    "Output all the bounding boxes of the ",
    "Please output bbox coordinates and names of ",
    "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    "Locate every item from the category list in the image and output the coordinates in JSON format. "
    "The category set includes ",
    " Output the coordinates in JSON format.",
    "OCR this image.",
    "OCR this image: ",
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.",
)
SIDE = 96  # of the demo's images, in pixels
_WITH_COMMA = [(2000 * pixel + SIDE) // (2 * SIDE) for pixel in range(SIDE + 1)]  # rounded half up
_WORD = r" ?[A-Za-z_]+"

QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
INTERNVL_TEMPLATE = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\\n")


def _pattern() -> str:
    """What is one piece, tried in this order: structure, coordinate with its comma, coordinate, word, digit."""
    structure = "|".join(re.escape(text) for text in sorted((*_STRUCTURE, *_SENTENCES), key=len, reverse=True))
    place = r"(?<=[\[(, ])"
    number = r"(?:1000|[1-9][0-9]{0,2}|0)(?![0-9])"
    with_comma = "|".join(map(str, _WITH_COMMA))
    return rf"{structure}|{place}(?:{with_comma}), (?=[0-9])|{place}{number}|, |{_WORD}|[0-9]|\s|."


def build_tokenizer(*, internvl: bool = False) -> Any:
    """Build the tokenizer (a ``PreTrainedTokenizerFast``); the same every time, without any file.

    Args:
        internvl: add InternVL's image and box tokens and its attribute names.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def as_bytes(text: str) -> str:  # the printable form in which byte-level tokenizers keep their entries
        return "".join(piece for piece, _ in byte_level.pre_tokenize_str(text))

    numbers = [str(n) for n in range(1001)]
    entries = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *numbers,
        ", ",
        *(f"{n}, " for n in _WITH_COMMA),
        *_STRUCTURE,
        *_SENTENCES,
        "digit",
    ]
    vocab: dict[str, int] = {}
    for entry in entries:
        vocab.setdefault(entry if len(entry) == 1 else as_bytes(entry), len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_pattern()), behavior="isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *(INTERNVL_SPECIAL if internvl else ())]
    tokenizer.add_special_tokens(special)
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    if internvl:
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in special if token not in ("<|im_end|>", "<|endoftext|>")],
        extra_special_tokens=named,
        padding_side="right",  # as the published tokenizers of Qwen2.5-VL and Qwen3-VL
        clean_up_tokenization_spaces=False,
    )
