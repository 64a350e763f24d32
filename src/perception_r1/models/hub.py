"""Ids of models on the Hugging Face hub: whether one can be had, in a second instead of a minute of retries."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from perception_r1.errors import ModelError

_TIMEOUT_S = 10.0


@lru_cache(maxsize=64)
def check_hub_model(repo: str) -> None:
    """Refuse an id that the hub does not have, or that cannot be asked for and is not in the cache.

    Where the hub cannot be reached but the cache holds the model, the rest of the process (and what it starts) does not
    ask the hub: libraries would try again and again for each file.

    Args:
        repo: ``owner/name``.

    Raises:
        ModelError: what is wrong and the fix.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        cached = isinstance(try_to_load_from_cache(repo, "config.json"), str)
    except HFValidationError:
        raise ModelError(f"{repo}: no such model folder, and no id of a model on the hub (owner/name)") from None
    fetch = f"where there is a network: hf download {repo}, or name a folder that holds the model"
    if constants.HF_HUB_OFFLINE:
        if not cached:
            raise ModelError(
                f"{repo}: not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set ({fetch})"
            )
        return
    try:
        info = HfApi().model_info(repo, timeout=_TIMEOUT_S)
        if info.gated and not cached:
            HfApi().auth_check(repo)
    except GatedRepoError:
        raise ModelError(
            f"{repo}: is gated: accept its terms at {constants.ENDPOINT}/{repo}, then hf auth login"
        ) from None
    except RepositoryNotFoundError:
        if not cached:
            raise ModelError(f"{repo}: the hub has no such model (for a private one: hf auth login)") from None
    except Exception as error:  # of one of several network libraries
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if not cached:
            raise ModelError(f"{repo}: {constants.ENDPOINT} cannot be reached ({reason}; {fetch})") from None
        print(f"note: {constants.ENDPOINT} cannot be reached: {repo} is taken from the cache", file=sys.stderr)
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True


def push_problem(token: str | None = None) -> str | None:
    """Why nothing can be pushed to the hub, with the fix; None if a first question is answered."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        return "nothing can be pushed while HF_HUB_OFFLINE is set; unset it or leave push_to_hub out"
    if not (token or get_token()):
        return "there is no token to push with: hf auth login, or set HF_TOKEN"
    try:
        HfApi().whoami(token=token)
    except Exception as error:  # of one of several network libraries
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return f"{constants.ENDPOINT} does not take the token or cannot be reached ({reason})"
    return None
