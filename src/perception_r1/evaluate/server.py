"""Answers from any OpenAI-compatible server, many at a time, in the order in which they come.

The server gets each picture at the very size that the model is to see (a PNG in the request) and is asked for greedy
decoding in full, since it would fill in the rest from the model's ``generation_config.json``; special tokens are kept
where it knows how. What a reasoning parser took out of a text is put back. Before the first question it is
asked one twice, with and without its picture: a server that drops images answers fluently all the same, and the number
of prompt tokens is what gives it away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from perception_r1.data.images import model_image
from perception_r1.errors import UserError
from perception_r1.evaluate.generate import NoAnswer
from perception_r1.evaluate.tokens import TokenCompletion, token_ends
from perception_r1.openai_server import PLAIN_DECODING, ChatError, ChatServer, Reply, image_part
from perception_r1.openai_server.optional import OptionalFields
from perception_r1.types import Completion, Prompt, Sample

if TYPE_CHECKING:
    from perception_r1.families import Family


class ServerStreamer:
    """Greedy answers of a model behind a server.

    Args:
        server: where it is, with its limits.
        family: whose end tokens are cut off, and whose grid the number of image tokens is checked with.
        max_new_tokens: limit of an answer.
        repetition_penalty: 1 is none; a server that does not take it is refused then.
        logprobs: ask for the log-probability of each token (servers may ignore it).
        extra: further fields of each request, as the server knows them.
    """

    def __init__(
        self,
        server: ChatServer,
        family: Family,
        *,
        max_new_tokens: int = 1024,
        repetition_penalty: float = 1.0,
        logprobs: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.server, self.family = server, family
        self.body: dict[str, Any] = {"temperature": 0.0, "max_tokens": max_new_tokens}
        if logprobs:
            self.body["logprobs"] = True
        self.penalised = repetition_penalty != 1
        if self.penalised:
            self.body["repetition_penalty"] = repetition_penalty
        self.body |= extra or {}
        server.optional = OptionalFields(
            {**PLAIN_DECODING, "seed": 0, "skip_special_tokens": False, "spaces_between_special_tokens": False}
        )
        self.looked: list[str] = []
        self.n_all_reasoning = 0
        self.settings = {
            "backend": "openai",
            "server_model": server.model,
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
            **({"logprobs": True} if logprobs else {}),
            "decoding": self.decoding,
        }

    @property
    def decoding(self) -> dict[str, Any]:
        """The fields of each request, without those that the server refused."""
        fields = {**self.server.optional.fields, **self.body}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know of the server."""
        found = [*self.server.optional.notes, *self.looked]
        if self.n_all_reasoning:
            found.append(
                f"{self.n_all_reasoning} answers came as reasoning alone: the server's reasoning parser took the "
                "answer for thoughts, and it was read as the answer (serve without --reasoning-parser)"
            )
        return found

    def stream(
        self, samples: Sequence[Sample], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[int, Completion | NoAnswer]]:
        """Every sample's index with its completion, or why there is none.

        Raises:
            UserError: the server is gone, refuses us, does not know the model, or cannot see.
        """
        if not samples:
            return
        self._look(samples, prompts)
        requests = (
            (index, partial(self._request, *pair)) for index, pair in enumerate(zip(samples, prompts, strict=True))
        )
        for index, reply in self.server.stream(requests):
            if isinstance(reply, ChatError):
                if reply.is_fatal:
                    raise reply
                yield index, NoAnswer(str(reply))
            else:
                yield index, self._completion(reply, prompts[index])

    def _request(self, sample: Sample, prompt: Prompt, *, with_image: bool = True) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt.user}]
        if prompt.has_image and with_image:
            content.insert(0, image_part(model_image(sample)))
        head = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
        return {"messages": [*head, {"role": "user", "content": content}], **self.body}

    def _completion(self, reply: Reply, prompt: Prompt) -> Completion:
        thinking = "<think>" in f"{prompt.system}{prompt.user}"
        whole = text = reply.whole(thinking=thinking)
        self.n_all_reasoning += reply.is_all_reasoning and text == reply.reasoning
        for token in self.family.end_tokens:
            text = text.removesuffix(token)
        ends = None if reply.tokens is None else token_ends(reply.tokens, whole)
        if ends is None or reply.token_logprobs is None:
            return Completion(text, reply.finish_reason)
        return TokenCompletion(text, reply.finish_reason, reply.token_logprobs, ends)

    def _look(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> None:
        """One question with and without its picture."""
        self.looked = []
        chosen = next((i for i, prompt in enumerate(prompts) if prompt.has_image), None)
        if chosen is None:
            return
        sample, prompt = samples[chosen], prompts[chosen]
        ask = partial(self._request, sample, prompt)
        seen = self._one(ask())
        if isinstance(seen, ChatError):
            if seen.status in (400, 422) and self.penalised:
                raise UserError(
                    f"{seen} (does it take repetition_penalty? Without it, name another with --repetition-penalty 1)"
                )
            raise seen
        blind = self._one(ask(with_image=False))
        if isinstance(blind, ChatError) or None in (seen.prompt_tokens, blind.prompt_tokens):
            self.looked.append("the server does not count prompt tokens: whether it sees images was not checked")
            return
        used = seen.prompt_tokens - blind.prompt_tokens  # type: ignore[operator]
        if used <= 0:
            raise UserError(
                f"{self.server.base_url}: the model does not see the image (a prompt has {seen.prompt_tokens} tokens "
                "with and without it); serve it with its image processor"
            )
        width, height = sample.model_size or (0, 0)
        wanted = (width // self.family.grid) * (height // self.family.grid)
        if self.family.name.startswith("qwen") and wanted and abs(used - wanted) > 8:
            message = (
                f"the server makes {used} tokens of an image of {width} × {height} pixels, not {wanted}: it resizes "
                "images by limits of its own"
            )
            if self.family.frame == "resized":
                raise UserError(
                    f"{self.server.base_url}: {message}, and coordinates in pixels of the resized image would be "
                    "misread (raise its max_pixels, or lower --max-pixels here)"
                )
            self.looked.append(message)

    def _one(self, request: dict[str, Any]) -> Reply | ChatError:
        limit = "max_completion_tokens" if request.get("max_completion_tokens") else "max_tokens"
        ((_, reply),) = self.server.stream([(0, {**request, limit: 1})])
        return reply
