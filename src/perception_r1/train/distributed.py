"""Several processes: who writes, whether the sharding that was asked for is what runs, what to say when one is lost."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from perception_r1.errors import RecipeError, UserError
from perception_r1.train import launch

T = TypeVar("T")

LOST = (
    "error: a process of this run has ended, or its launcher was stopped, so this one stops too (an error above, or "
    "the launcher's summary below, says which); nothing is lost up to the last checkpoint: start again with --resume"
)
_PEER_GONE = re.compile(
    r"connection (?:closed|reset)|broken pipe|socket timeout|timed? ?out|ncclremoteerror|remote process exited|"
    r"by peer|heartbeat|store .*(?:unavailable|closed)",
    re.IGNORECASE,
)


def n_processes(environment: Mapping[str, str] | None = None) -> int:
    """Processes of this run, as the launcher says."""
    return int((os.environ if environment is None else environment).get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the first, which speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def main_does(action: Callable[[], T]) -> T | None:
    """Run ``action`` in the first process while the others wait; None in the others.

    A ``UserError`` of it is raised in every process, so that none goes on alone.
    """
    if n_processes() == 1:
        return action()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    result: T | None = None
    said: list[str | None] = [None]
    if PartialState().is_main_process:
        try:
            result = action()
        except UserError as error:
            said = [str(error)]
    broadcast_object_list(said)
    if said[0] is not None:
        raise UserError(said[0])
    return result


@contextmanager
def main_first() -> Iterator[None]:
    """The body runs in the first process, then in the others: what it writes (data that are made) is there for them."""
    if n_processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def sharding_asked(args: Any, environment: Mapping[str, str] | None = None) -> dict[str, bool]:
    """Whether the trainer's arguments, or a launcher's variables, ask for FSDP and for DeepSpeed."""
    variables = os.environ if environment is None else environment
    return {
        "FSDP": bool(getattr(args, "fsdp", None)) or variables.get("ACCELERATE_USE_FSDP", "").lower() == "true",
        "DEEPSPEED": bool(getattr(args, "deepspeed", None))
        or variables.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true",
    }


def check_distribution(accelerator: Any, args: Any, environment: Mapping[str, str] | None = None) -> None:
    """Refuse to train when FSDP or DeepSpeed was asked for and something else runs.

    accelerate falls back without a word: FSDP becomes DDP where there is no GPU, and either becomes a single process
    when the launcher starts only one. A run would then use many times the memory that was planned for.

    Args:
        accelerator: the trainer's.
        args: the trainer's arguments.
        environment: of the process; a launcher's wishes are there.

    Raises:
        RecipeError: naming both.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    for name, wished in sharding_asked(args, environment).items():
        if wished and kind != name:
            running = "one process without sharding" if kind == "NO" else f"{kind} without sharding"
            raise RecipeError(
                f"{name} was asked for, but accelerate runs {running} ({accelerator.num_processes} processes on "
                f"{accelerator.device.type}): sharding needs a GPU each and a launch by accelerate or torchrun "
                "(docs/engines.md), or take it out of the configuration"
            )


def gather_for_saving(accelerator: Any) -> None:
    """Make the final save a whole model, however checkpoints are sharded."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        plugin.set_state_dict_type("FULL_STATE_DICT")


def watch_launcher() -> None:
    """Say why when the launcher ends this process because another is gone, even while it waits inside a collective.

    torchrun sends SIGTERM to the processes that are left. Python would act on it only after the collective returns,
    which may be never; the wake-up descriptor is written at once, and a thread reads it.
    """
    if n_processes() == 1 or threading.current_thread() is not threading.main_thread():
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while (data := reader.recv(1)) != b"":
            if data[0] == signal.SIGTERM or (data[0] == signal.SIGINT and launch.OURS in os.environ):
                _leave(128 + data[0])
        writer.close()

    threading.Thread(target=wait, daemon=True, name="launcher").start()


def run_guarded(stage: Callable[[], T]) -> T:
    """Run a stage; when another process is gone, say so in one line instead of a traceback of the network's."""
    if n_processes() == 1:
        return stage()
    watch_launcher()
    try:
        result = stage()
    except RuntimeError as error:  # torch.distributed's errors are RuntimeErrors
        if _PEER_GONE.search(str(error)) is None:
            raise
        reason = " ".join(str(error).split())[:300]
        if not launch.leave_to_parent(reason):
            print(reason, file=sys.stderr)
        _leave(1)
    leave_together()
    return result


def leave_together() -> None:
    """End the process group after everybody has arrived; gloo aborts a process whose peer went first.

    What is left of the trainer goes first: where DDP's reducer holds the group's last reference, it waits for gloo's
    threads with the interpreter locked, and one of them may wait for the interpreter (torch 2.13: a process that never
    ends, now and then).
    """
    import torch.distributed as dist

    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _leave(code: int) -> NoReturn:
    """Say it (or leave that to the parent) and end at once: an orderly end would wait for the lost process."""
    if launch.OURS not in os.environ:
        os.write(2, f"[rank {os.environ.get('RANK', '?')}] {LOST}\n".encode())
    os._exit(code)
