"""The model that a server serves under a name (``GET /v1/models``)."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

_PATIENCE_S = 10.0


def listed_model(base_url: str, model: str, api_key: str | None = None) -> Mapping[str, Any] | None:
    """The model's entry in the server's list; None where there is no list, or the model is not in it.

    Args:
        base_url: with its version, "http://host:8000/v1".
        model: the name that it is asked by.
        api_key: default the variable OPENAI_API_KEY.
    """
    key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
    try:
        request = urllib.request.Request(f"{base_url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            listed = json.load(answer)["data"]
        return next((entry for entry in listed if isinstance(entry, Mapping) and entry.get("id") == model), None)
    except (OSError, ValueError, LookupError, TypeError):  # asking it a question says what is the matter
        return None
