"""Do the model's tokenizer and chat template carry the question, the image and the answer's form?"""

from __future__ import annotations

import re
from typing import Any

from perception_r1.check.findings import Finding
from perception_r1.models.processors import known_ids
from perception_r1.tasks import Task
from perception_r1.types import Prompt, Sample

_MARKS = re.compile(r"<\|[a-z_]+\|>|</?(?:ref|box)>")


def check_tokenizer(task: Task, sample: Sample, processor: Any, config: Any = None) -> list[Finding]:
    """Render the prompt of ``sample`` and its right answer with the model's own template and vocabulary.

    Args:
        task: renders prompt and answer.
        sample: any good row.
        processor: of the model.
        config: of the model, to compare its ids with the tokenizer's; None skips that.
    """
    prompt, tokenizer = task.prompt(sample), processor.tokenizer
    messages = [message for message in _template_problems(prompt, processor) if message]
    marks = sorted(set(_MARKS.findall(task.gold(sample))))
    if missing := [mark for mark in marks if not known_ids(tokenizer, [mark])]:
        messages.append(
            f"{', '.join(missing)} of the answers of family {task.family.name!r} "
            f"{'is no token' if len(missing) == 1 else 'are no tokens'} of the vocabulary: is it the model's family?"
        )
    if tokenizer.eos_token_id is None and not known_ids(tokenizer, task.family.end_tokens):
        messages.append("the tokenizer has no end token, so no answer would ever end (set eos_token)")
    if config is not None:
        messages += _id_problems(processor, config)
    return [Finding("tokenizer", message) for message in messages]


def _template_problems(prompt: Prompt, processor: Any) -> list[str | None]:
    try:
        text = _render(prompt, processor, generation=True)
        bare = _render(prompt, processor, generation=False)
    except Exception as error:  # a template is a program of the user's: it can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return [f"the chat template cannot render our messages ({first})"]
    token = getattr(processor, "image_token", None)
    n_images = text.count(token) if token and prompt.has_image else 1
    return [
        "the chat template writes no generation prompt (add_generation_prompt changes nothing): answers would have to "
        "begin with the assistant's header"
        if text == bare
        else None,
        f"the chat template writes {n_images} image placeholders ({token}) for one image: the processor "
        "could not put it there"
        if n_images != 1
        else None,
        None if prompt.user in text else "the chat template drops the question",
        None if prompt.system is None or prompt.system in text else "the chat template drops the system turn",
    ]


def _render(prompt: Prompt, processor: Any, *, generation: bool) -> str:
    text = processor.apply_chat_template(prompt.messages(), add_generation_prompt=generation, tokenize=False)
    return text if isinstance(text, str) else str(text[0])


def _id_problems(processor: Any, config: Any) -> list[str]:
    tokenizer = processor.tokenizer
    problems = []
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        problems.append(f"the tokenizer has {len(tokenizer):,} tokens, but the model's vocab_size is {size:,}")
    wanted = getattr(config, "image_token_id", None)
    token = getattr(processor, "image_token", None)
    if wanted is not None and token and (ids := known_ids(tokenizer, [token])) != [wanted]:
        problems.append(f"the image token {token} has the id {ids[0] if ids else None}, but config.json says {wanted}")
    return problems
