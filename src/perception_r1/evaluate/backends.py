"""Who answers: a backend by name, with what a user sets of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perception_r1.errors import UserError
from perception_r1.models.identity import model_identity, served_identity

if TYPE_CHECKING:
    from perception_r1.evaluate.generate import Generator, Streamer
    from perception_r1.families import Family

BACKENDS = ("transformers", "vllm", "openai", "replay")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated, always greedily."""

    max_new_tokens: int = 1024
    batch_size: int = 16
    repetition_penalty: float = 1.0
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Of the ``openai`` backend; see ``ChatServer`` and ``ServerStreamer``."""

    url: str | None = None
    concurrency: int = 16
    timeout_s: float = 600.0
    request: Mapping[str, Any] = field(default_factory=dict)


def backend_identity(
    backend: str, model: str, server: ServerSettings | None = None, engine: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Which weights a backend will answer with; nothing is loaded.

    Raises:
        UserError: no server named. ModelError: no such model.
    """
    if backend == "openai":
        from perception_r1.openai_server.models import listed_model

        url = _url(server)
        return served_identity(url, model, listed_model(url, model))
    from perception_r1.models.load import check_available

    check_available(model)
    return model_identity(model, revision=(engine or {}).get("revision"))


def open_backend(
    backend: str,
    model: str,
    family: Family,
    decoding: Decoding,
    *,
    device: str | None = None,
    server: ServerSettings | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Generator | Streamer:
    """The backend, with its model loaded; ``engine`` are further arguments of vLLM's.

    Raises:
        UserError: an unknown backend, a missing package, no server named. ModelError: no such model.
    """
    if backend not in BACKENDS[:-1]:
        raise UserError(f"--backend {backend}: expected {', '.join(BACKENDS[:-1])} (replay has no model to ask)")
    common: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "repetition_penalty": decoding.repetition_penalty,
        "logprobs": decoding.logprobs,
    }
    if backend == "openai":
        from perception_r1.evaluate.server import ServerStreamer
        from perception_r1.openai_server import ChatServer

        url = _url(server)
        assert server is not None
        chat = ChatServer(url, model, concurrency=server.concurrency, timeout_s=server.timeout_s)
        return ServerStreamer(chat, family, **common, extra=server.request)
    from perception_r1.models.load import check_available

    check_available(model)
    if backend == "vllm":
        from perception_r1.evaluate.vllm_engine import VllmStreamer
        from perception_r1.models.processors import load_processor

        return VllmStreamer(model, load_processor(model), family, **common, engine=engine)
    import torch
    import transformers

    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.models.load import load_model

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # each process of a launcher has a GPU of its own
        import os

        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    transformers.utils.logging.disable_progress_bar()  # ours shows what takes long
    loaded, processor = load_model(model, device=device)
    return TransformersGenerator(loaded, processor, family, **common, batch_size=decoding.batch_size, share=True)


def _url(server: ServerSettings | None) -> str:
    if server is None or server.url is None:
        raise UserError("--backend openai needs the server's address: --server http://HOST:PORT/v1")
    return server.url
