"""How sure a model was of each box it wrote: the log-probabilities of the tokens that the box is made of.

A text has no confidences, so COCO's protocol for such models scores every box 1.0. The mean log-probability of a box's
own tokens (its label and its coordinates, from the first character of its entry to the last) orders them instead:
``exp(mean)`` lies in (0, 1], and does not depend on how long the entry is.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from perception_r1.types import Completion, Parsed


@dataclass(frozen=True, slots=True)
class TokenCompletion(Completion):
    """A completion whose tokens are known.

    ``token_ends[i]`` is the length of the text up to and with token i; parallel to ``token_logprobs``.
    """

    token_ends: tuple[int, ...] = ()


def token_ends(pieces: Sequence[str], text: str) -> tuple[int, ...] | None:
    """Ends of tokens from their texts; None where those do not make the whole (a character cut in two by the tokens).

    Example:
        >>> token_ends(["[", "1", "2]"], "[12]")
        (1, 2, 4)
    """
    return tuple(accumulate(map(len, pieces))) if "".join(pieces) == text else None


def decoded_ends(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """Ends of tokens from their ids: one by one where that gives the text, else from ever longer prefixes."""
    pieces = tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=False)
    ends = token_ends(pieces, text)
    if ends is not None:
        return ends
    # Characters of several tokens: a prefix that ends inside one shows a replacement character for it.
    prefixes = (tokenizer.decode(ids[: i + 1], skip_special_tokens=False).rstrip("\ufffd") for i in range(len(ids)))
    return tuple(accumulate((min(len(prefix), len(text)) for prefix in prefixes), max))


def box_scores(completion: Completion, parsed: Parsed) -> tuple[float, ...] | None:
    """``exp`` of the mean log-probability of each entry's tokens; parallel to ``parsed.objects``.

    None when the tokens are not known, or a log-probability is missing.
    """
    if not isinstance(completion, TokenCompletion) or completion.token_logprobs is None:
        return None
    ends, logprobs = completion.token_ends, completion.token_logprobs
    if len(ends) != len(logprobs):
        return None
    scores = []
    for item in parsed.objects:
        start, end = item.span
        first = bisect.bisect_right(ends, start)  # the token that holds the character at `start`
        last = bisect.bisect_left(ends, end)
        own = logprobs[first : last + 1]
        scores.append(math.exp(sum(own) / len(own)) if own else 0.0)
    return tuple(scores)
