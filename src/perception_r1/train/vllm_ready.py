"""Whether the vLLM that a recipe asks for can be had, before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from typing import Any

from perception_r1.errors import RecipeError

_SERVE = "trl vllm-serve --model MODEL"


def check_vllm(table: Mapping[str, Any] | None, where: object) -> None:
    """Refuse ``use_vllm`` where vLLM is missing, is of a version that TRL does not take, or its server is not there.

    In ``server`` mode this waits ``vllm_server_timeout`` seconds for a server that is starting, and says so. To be
    called before TRL's trainer is imported, which imports vLLM.

    Args:
        table: the recipe's ``grpo`` table.
        where: the recipe, for messages.

    Raises:
        RecipeError: naming the key and the fix.
    """
    if not (table or {}).get("use_vllm"):
        return
    from trl import GRPOConfig

    values: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(GRPOConfig)} | dict(table or {})
    problem = package_problem()
    if problem is not None:
        raise RecipeError(f"{where}: field 'grpo.use_vllm': {problem}")
    if values["vllm_mode"] == "server":
        url = values["vllm_server_base_url"] or f"http://{values['vllm_server_host']}:{values['vllm_server_port']}"
        _check_server(str(url).rstrip("/"), float(values["vllm_server_timeout"]), where)
    if not values["vllm_importance_sampling_correction"]:
        print(
            f"warning: {where}: with vllm_importance_sampling_correction: false TRL does not compare vLLM's "
            "log-probabilities with the policy's: rollouts of another prompt or other weights go unnoticed",
            file=sys.stderr,
        )


def package_problem() -> str | None:
    """What is wrong with the installed vLLM, with the fix, or None; vLLM itself is not imported."""
    from trl.import_utils import is_vllm_available

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            installed = is_vllm_available()
        except ValueError as error:  # a broken installation: no spec, or an unreadable version
            return f"vllm cannot be used ({error}); {_INSTALL}"
    if not installed:
        return f"vllm is not installed: {_INSTALL}"
    for warning in caught:
        if "vLLM version" in (text := str(warning.message)):
            return f"{text.split(' We recommend')[0].rstrip('.')}; {_INSTALL}"
    return None


_INSTALL = (
    'pip install "perception-r1[vllm]" in an environment with a GPU build of torch, or leave use_vllm out '
    "(transformers generates then)"
)


def _check_server(url: str, timeout: float, where: object) -> None:
    import torch

    until = time.monotonic() + timeout
    said = False
    while (error := _unreachable(f"{url}/health")) is not None:
        if time.monotonic() >= until:
            raise RecipeError(
                f"{where}: field 'grpo.vllm_mode': no vLLM server answers at {url} ({error}; waited {timeout:g} s); "
                f"start it on GPUs that do not train: {_SERVE}"
            )
        if not said:
            print(f"waiting up to {timeout:g} s for the vLLM server at {url} ({error})", file=sys.stderr)
            said = True
        time.sleep(min(2.0, max(0.0, until - time.monotonic())))
    if (missing := _missing_of(url)) is not None:
        raise RecipeError(f"{where}: field 'grpo.vllm_mode': the server at {url} {missing}; start it with {_SERVE}")
    if not torch.cuda.is_available():
        raise RecipeError(
            f"{where}: field 'grpo.vllm_mode': the weights go to the server at {url} by NCCL, which needs a CUDA "
            "device on this side too; use vllm_mode: colocate"
        )


def _unreachable(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _missing_of(url: str) -> str | None:
    """What the server lacks that TRL needs of it, None where all is there."""
    try:
        with urllib.request.urlopen(f"{url}/server_info?config_format=json", timeout=30) as answer:
            info = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return "does not say its configuration (VLLM_SERVER_DEV_MODE=1 in its environment makes it)"
        return f"answers {error.code} to /server_info"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"does not answer /server_info ({getattr(error, 'reason', error)})"
    config = info.get("vllm_config", info) if isinstance(info, dict) else {}
    if isinstance(config, dict) and config.get("weight_transfer_config", True) is None:
        return "takes no weights"
    return None
