"""A client of OpenAI-compatible chat servers (vLLM, SGLang, ``transformers serve``, hosted ones) that loses no request.

Many requests at a time over kept connections; each is tried again, with jittered exponential back-off, when the server
is busy (429), fails (5xx), drops the connection, stalls past the time limit or sends half an answer. When nothing gets
through any more, a circuit breaker holds all requests back and lets single ones try, so that a server that restarts is
waited for and one that is gone is not hammered. What could not be had in the end is a ``ChatError``, given back in its
place: every request that goes in comes out.

The evaluation's ``openai`` backend and the judges of the visual perception reward both use it.
"""

from __future__ import annotations

from perception_r1.openai_server.client import ChatServer
from perception_r1.openai_server.messages import ChatError, Reply, image_part
from perception_r1.openai_server.optional import PLAIN_DECODING
from perception_r1.openai_server.retry import Retry

__all__ = ["PLAIN_DECODING", "ChatError", "ChatServer", "Reply", "Retry", "image_part"]
