"""Several processes for several GPUs where the user started no launcher: how many, what is said, how they end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_r1.errors import RecipeError

OURS = "PERCEPTION_R1_LAUNCHER"
"""Set in the processes that `start` starts: they leave what went wrong to the parent, which says it once."""

_LAUNCHERS = ("WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# What `accelerate launch` sets even for a single process.
_ACCELERATE = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


def n_to_start(asked: int | None, table: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> int:
    """Processes to start; 1 means this one.

    Args:
        asked: ``--processes``; None is one for each visible GPU.
        table: the stage's table of the recipe (``grpo`` or ``sft``).
        environment: of the process; under a launcher (torchrun, accelerate, mpirun) nothing is to start.

    Raises:
        RecipeError: more processes than GPUs, or another number than the launcher started.
    """
    variables = os.environ if environment is None else environment
    if any(name in variables for name in (*_LAUNCHERS, *_ACCELERATE)):
        running = next((int(variables[name]) for name in _LAUNCHERS if name.endswith("SIZE") and name in variables), 1)
        if asked not in (None, running):
            raise RecipeError(f"--processes {asked}: a launcher has started {running}; give the number to it")
        return 1
    if table.get("use_cpu"):
        return asked or 1
    if asked == 1 or (asked is None and "device_map" in (table.get("model_init_kwargs") or {})):
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if asked is not None and 0 < gpus < asked:
        raise RecipeError(f"--processes {asked}: {gpus} GPUs are visible (a process needs one of its own)")
    return max(1, gpus) if asked is None else asked


def announcement(n: int, table: Mapping[str, Any], asked: int | None, written_for: str = "none") -> str:
    """The line that says what is started, and the way to something else.

    Args:
        n: processes.
        table: the stage's table of the recipe.
        asked: ``--processes``.
        written_for: the sharding that the recipe names under ``machine``.
    """
    sharded = next((key for key in ("fsdp", "deepspeed") if table.get(key)), None)
    if sharded:
        how = f"with the recipe's {sharded}"
    else:
        but = "" if written_for == "none" else f", but the recipe was written for {written_for}"
        file = f"configs/accelerate/{'fsdp2' if written_for == 'none' else written_for}.yaml"
        command = f"accelerate launch --config_file {file} -m perception_r1 …"
        how = f"DDP: each holds the whole model{but}; for sharding: {command}"
    line = f"starting {n} processes{'' if asked else ', one for each visible GPU'} ({how}; one GPU: --processes 1)"
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    config = home / "accelerate" / "default_config.yaml"
    return line + (f"; {config} is for accelerate launch and not read" if config.is_file() and not sharded else "")


def start(n: int, arguments: Sequence[str]) -> int:
    """Run ``pr1 ARGUMENTS`` in ``n`` processes on this machine and wait for them; returns the exit code.

    Ctrl-C and SIGTERM end all; when one fails, the others are ended. What went wrong is one line on standard error.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ[OURS] = "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // n)))  # torchrun would set 1
    logging.disable(logging.CRITICAL)  # the launcher's own account of a failure is a screen long
    options = ["--standalone", "--local_addr=127.0.0.1", f"--nproc_per_node={n}"]
    try:
        run(parse_args([*options, "-m", "perception_r1", *arguments]))
    except ChildFailedError as error:
        line, code = _explain(error.failures, n)
        print(line, file=sys.stderr)
        return code
    except (SignalException, KeyboardInterrupt) as error:
        number = getattr(error, "sigval", signal.SIGINT)
        print("\ninterrupted; resume with --resume", file=sys.stderr)
        return 130 if number == signal.SIGINT else 128 + int(number)
    finally:
        os.environ.pop(OURS, None)
        logging.disable(logging.NOTSET)
    return 0


def leave_to_parent(message: str) -> bool:
    """Hand what ended this process to the parent that `start`ed it; False without such a parent."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if OURS not in os.environ or not file:
        return False
    Path(file).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    return True


def _explain(failures: Mapping[int, Any], n: int) -> tuple[str, int]:
    """One line and the exit code: a user's error of any process first, then one that nobody stopped, then the first."""

    def message_of(rank: int) -> str:
        message = failures[rank].error_file_data.get("message", "")
        return "" if message == "<NONE>" else str(message)

    def order(rank: int) -> tuple[bool, bool, bool, int, int]:
        code = failures[rank].exitcode
        stopped = code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return code != 2, stopped, not message_of(rank), failures[rank].timestamp, rank

    rank = min(failures, key=order)
    failure, message = failures[rank], message_of(rank)
    if failure.exitcode == 2 and message:
        return f"error: {message}", 2
    ended = f"exit code {failure.exitcode}"
    if failure.exitcode < 0:
        killed = " (often: out of memory)" if -failure.exitcode == signal.SIGKILL else ""
        ended = f"{failure.signal_name()}{killed}"
    line = (
        f"error: process {rank} of {n} ended with {ended}{f': {message}' if message else ''}; the others were stopped, "
        "and nothing is lost up to the last checkpoint: start again with --resume"
    )
    return line, failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
