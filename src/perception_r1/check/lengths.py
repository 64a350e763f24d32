"""Does the longest prompt fit, its image included, and does the longest right answer fit into the answer's limit?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from perception_r1.check.findings import Finding, several
from perception_r1.families import Family
from perception_r1.models.limits import limits_of
from perception_r1.tasks import Task
from perception_r1.types import Prompt, Sample, Size

CANDIDATES = 64
"""How many of the longest rows by the estimate are counted with the tokenizer."""

TURN_TOKENS = 16
"""Estimate of what a chat template puts round system and user turn."""

# Special tokens are one token, digits one each, words of up to four letters one, every other sign one.
_PIECES = re.compile(r"<\|[^|<>]*\|>|[0-9]|[^\W\d_]+|[^\w\s]|_")


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of text; ``exact`` is False for the estimate that stands in where there is no tokenizer.

    Attributes:
        text: tokens of an answer.
        prompt: tokens of a prompt with its chat template, without those of the image.
        context: tokens that the model can read, None when unknown.
        image: tokens of an image of (width, height), for a processor that cuts it into tiles; None: one a grid cell.
    """

    text: Callable[[str], int]
    prompt: Callable[[Prompt], int]
    exact: bool
    context: int | None = None
    image: Callable[[Size], int | None] | None = None

    @classmethod
    def estimate(cls) -> TokenCounter:
        """Without a tokenizer: usually within a fifth of Qwen's, and above it for digits and brackets."""
        return cls(
            text=estimate_tokens,
            prompt=lambda prompt: estimate_tokens(f"{prompt.system or ''} {prompt.user}") + TURN_TOKENS,
            exact=False,
        )

    @classmethod
    def of_processor(cls, processor: Any, config: Any = None) -> TokenCounter:
        """With the tokenizer and chat template of a model's processor, and the context length of its configuration."""
        tokenizer = processor.tokenizer

        def prompt(prompt: Prompt) -> int:
            text = processor.apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False)
            # The template writes one placeholder for the image; its tokens are counted apart.
            return len(tokenizer(text, add_special_tokens=False)["input_ids"]) - int(prompt.has_image)

        return cls(
            text=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
            prompt=prompt,
            exact=True,
            context=None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None),
            image=lru_cache(4096)(partial(_tile_tokens, processor)) if limits_of(processor) is None else None,
        )


@dataclass(frozen=True, slots=True)
class LengthReport:
    """The longest prompt and the longest right answer, in tokens; ``exact`` says whether a tokenizer counted."""

    prompt_tokens: int
    image_tokens: int
    prompt_id: str
    answer_tokens: int
    answer_id: str
    exact: bool
    context: int | None
    findings: tuple[Finding, ...]


def estimate_tokens(text: str) -> int:
    """Tokens of ``text`` without a tokenizer.

    Example:
        >>> estimate_tokens("<|box_start|>(12,345)<|box_end|> a giraffe")
        13
    """
    total = 0
    for piece in _PIECES.findall(text):
        letters = piece[0].isalpha()
        # Chinese, Japanese and Korean: a character is about a token. Other words: about four letters.
        total += 1 if not letters else len(piece) if ord(piece[0]) >= 0x2E80 else -(-len(piece) // 4)
    return total


def image_tokens(sample: Sample, family: Family, counter: TokenCounter | None = None) -> int:
    """Tokens of the sample's image: as the processor counts tiles, else one a cell of the family's grid."""
    if sample.model_size is None:
        return 0
    if counter is not None and counter.image is not None and (tokens := counter.image(sample.model_size)) is not None:
        return tokens
    return (sample.model_size[0] // family.grid) * (sample.model_size[1] // family.grid)


def check_lengths(
    task: Task,
    samples: Sequence[Sample],
    counter: TokenCounter,
    *,
    max_answer: int | None = None,
    max_sft: int | None = None,
    max_context: int | None = None,
) -> LengthReport | None:
    """Find the longest prompt and answer and hold them against the limits; None without samples.

    Args:
        task: renders prompts and gold answers.
        samples: prepared (model size known).
        counter: counts tokens.
        max_answer: GRPO's ``max_completion_length``.
        max_sft: SFT's ``max_length`` (prompt and answer together), None when nothing is cut.
        max_context: a limit below the model's own (vLLM's ``max_model_len``).
    """
    if not samples:
        return None
    limits = [limit for limit in (counter.context, max_context) if limit is not None]
    context = min(limits) if limits else None
    rough = TokenCounter.estimate()
    images = [image_tokens(sample, task.family, counter) for sample in samples]
    prompts = [rough.prompt(task.prompt(sample)) for sample in samples]
    answers = [rough.text(task.gold(sample)) for sample in samples]
    if counter.exact:
        for index in _largest([p + i for p, i in zip(prompts, images, strict=True)]):
            prompts[index] = counter.prompt(task.prompt(samples[index]))
        for index in _largest(answers):
            answers[index] = counter.text(task.gold(samples[index]))
    totals = [p + i for p, i in zip(prompts, images, strict=True)]
    longest = max(range(len(samples)), key=totals.__getitem__)
    longest_answer = max(range(len(samples)), key=answers.__getitem__)
    about = "" if counter.exact else "about "
    findings = []
    room = max_answer or 0
    if context is not None and totals[longest] + room > context:
        findings.append(
            Finding(
                "lengths",
                f"the longest prompt has {about}{totals[longest]:,} tokens ({images[longest]:,} of them its image) and "
                f"the answer may have {room:,}, but the model reads {context:,}: lower image.max_pixels or "
                "grpo.max_completion_length",
                sample=samples[longest].id,
            )
        )
    if max_answer is not None:
        over = [index for index, n_tokens in enumerate(answers) if n_tokens + 1 > max_answer]  # and the end token
        if over:
            findings.append(
                Finding(
                    "lengths",
                    f"{several(len(over), 'right answer')} would be cut off: the longest has {about}"
                    f"{answers[longest_answer]:,} tokens, grpo.max_completion_length is {max_answer:,}",
                    "error" if counter.exact else "warning",
                    samples[longest_answer].id,
                )
            )
    if max_sft is not None:
        over = [index for index, total in enumerate(totals) if total + answers[index] + 1 > max_sft]
        if over:
            findings.append(
                Finding(
                    "lengths",
                    f"{several(len(over), 'row')} would be cut by sft.max_length {max_sft:,} (prompt, image and answer "
                    "together), maybe through the image: set sft.max_length to null",
                    sample=samples[over[0]].id,
                )
            )
    return LengthReport(
        prompt_tokens=totals[longest],
        image_tokens=images[longest],
        prompt_id=samples[longest].id,
        answer_tokens=answers[longest_answer],
        answer_id=samples[longest_answer].id,
        exact=counter.exact,
        context=context,
        findings=tuple(findings),
    )


def _tile_tokens(processor: Any, size: Size) -> int | None:
    """Tokens that the processor makes of an image; None where it does not say."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)  # what vLLM asks, too
    if count is None:
        return None
    return int(count(image_sizes=[(size[1], size[0])])["num_image_tokens"][0])


def _largest(values: Sequence[int]) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:CANDIDATES]
