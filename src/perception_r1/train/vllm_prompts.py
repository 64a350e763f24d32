"""Colocated vLLM answers the prompt that the policy is trained on.

TRL 1.16 hands vLLM a prompt whose image tokens are expanded already (one per patch), together with the image; vLLM
expands the first of them again, so that the rollouts answer another prompt than the loss is computed on. vLLM also
resizes images by the limits in the model's folder, which are not always the trainer's. `keep_prompts` hands over one
image token per image and the trainer's limits, and verifies what vLLM reports that it read:

    trainer = GRPOTrainer(...)
    keep_prompts(trainer)

A server (``vllm_mode: server``) needs the expanded tokens and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perception_r1.errors import ModelError
from perception_r1.models.limits import Limits, limits_of, stored_limits


def keep_prompts(trainer: Any) -> None:
    """Repair the prompts of ``trainer.vllm_generation`` where they need it; other trainers are left as they are.

    Whether they need it is seen before the first rollouts: vLLM is asked for one token of a prompt with a blank image
    and says what it read.
    """
    generation = getattr(trainer, "vllm_generation", None)
    if generation is None or generation.mode != "colocate":
        return
    image_token = getattr(generation.processing_class, "image_token_id", None)
    if image_token is None or isinstance(generation.generate, _SamePrompts):
        return
    generation.generate = _SamePrompts(generation, image_token)
    limits = limits_of(generation.processing_class)
    if limits is not None and limits != stored_limits(generation.model.name_or_path):
        generation.llm.generate = _with_limits(generation.llm.generate, limits)


def one_token_per_image(
    prompt: Sequence[int], image_token: int, before: Sequence[int] = (), after: Sequence[int] = ()
) -> list[int]:
    """The prompt with each run of image tokens, and what the processor puts around it, shortened to one image token.

    Example:
        >>> one_token_per_image([1, 9, 9, 9, 2, 7, 9, 9, 8], 9)
        [1, 9, 2, 7, 9, 8]
        >>> one_token_per_image([1, 7, 9, 9, 8, 2], 9, before=[7], after=[8])
        [1, 9, 2]
    """
    short: list[int] = []
    i = 0
    while i < len(prompt):
        end = i
        while end < len(prompt) and prompt[end] == image_token:
            end += 1
        if end == i:
            short.append(prompt[i])
            i += 1
            continue
        around = short[len(short) - len(before) :] == list(before) and list(prompt[end : end + len(after)]) == list(
            after
        )
        if around:
            del short[len(short) - len(before) :]
        short.append(image_token)
        i = end + len(after) * around
    return short


def around_images(unexpanded: Sequence[int], expanded: Sequence[int], image_token: int) -> tuple[list[int], list[int]]:
    """What a processor puts before and after the image tokens of the one image in a prompt (InternVL: <img>, </img>).

    Example:
        >>> around_images([1, 9, 2], [1, 7, 9, 9, 8, 2], 9)
        ([7], [8])
    """
    if list(unexpanded).count(image_token) != 1 or image_token not in expanded:
        return [], []
    place = list(unexpanded).index(image_token)
    replaced = list(expanded[place : len(expanded) - (len(unexpanded) - place - 1)])
    tokens = [i for i, token in enumerate(replaced) if token == image_token]
    return replaced[: tokens[0]], replaced[tokens[-1] + 1 :]


def _with_limits(generate: Callable[..., Any], limits: Limits) -> Callable[..., Any]:
    """``LLM.generate`` with images resized by these limits."""
    size = {"size": dict(zip(("shortest_edge", "longest_edge"), limits, strict=True))}

    def limited(prompts: Sequence[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        rows = [{**row, "mm_processor_kwargs": size} if row.get("multi_modal_data") else row for row in prompts]
        return generate(rows, *args, **kwargs)

    return limited


class _SamePrompts:
    """``VLLMGeneration.generate`` with the trainer's prompts kept."""

    def __init__(self, generation: Any, image_token: int) -> None:
        self.generation, self.generate, self.image_token = generation, generation.generate, image_token
        self.expanded_again: bool | None = None
        self.around: tuple[list[int], list[int]] = [], []

    def __call__(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: Any = None,
    ) -> tuple[Any, ...]:
        if self.expanded_again is None:
            self.expanded_again = self._expands_again()
        image_token = self.image_token
        short = [
            one_token_per_image(prompt, image_token, *self.around) if images is not None and images[i] else prompt
            for i, prompt in enumerate(prompts)
        ]
        sent = short if self.expanded_again else prompts
        read, *rest = self.generate(prompts=sent, images=images, num_generations=num_generations, profiler=profiler)
        for prompt, shortened, got in zip(prompts, short, read, strict=True):
            if len(shortened) < len(prompt) and list(got) != list(prompt):
                raise ModelError(_other_prompt(prompt, got, image_token))
        # A prompt that came with one token per image was not expanded by the trainer: what vLLM says stands.
        kept = [
            prompt if len(shortened) < len(prompt) else got
            for prompt, shortened, got in zip(prompts, short, read, strict=True)
        ]
        return kept, *rest

    def _expands_again(self) -> bool:
        """Whether vLLM reads another prompt than the expanded one it is given.

        Every process asks the same, so that those that share an engine decide alike; the random state stays as it was.
        """
        import torch
        from PIL import Image

        generation = self.generation
        image = Image.new("RGB", (224, 224), "white")
        content = [{"type": "image", "image": image}, {"type": "text", "text": "?"}]
        processor, chat = generation.processing_class, [[{"role": "user", "content": content}]]
        prompt = list(
            processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)[
                "input_ids"
            ][0]
        )
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)[0]
        plain = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.around = around_images(plain, prompt, self.image_token)
        limit, device = generation.max_completion_length, generation.accelerator.device
        generation.max_completion_length = 1
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                read, *_ = self.generate(prompts=[prompt], images=[[image]], num_generations=1)
        finally:
            generation.max_completion_length = limit
        return list(read[0]) != prompt


def _other_prompt(prompt: Sequence[int], read: Sequence[int], image_token: int) -> str:
    ours, theirs = list(prompt).count(image_token), list(read).count(image_token)
    images = (
        f"{theirs} image tokens for {ours}: the image limits of the processor in the model's folder, which vLLM reads, "
        "are not the trainer's"
        if ours != theirs
        else "the same number of image tokens, but other tokens around them"
    )
    return (
        f"vLLM read a prompt of {len(read)} tokens where the trainer's has {len(prompt)} ({images}); its answers would "
        "not be the policy's: save the processor that you train with into the model's folder, or train without "
        "grpo.use_vllm"
    )
