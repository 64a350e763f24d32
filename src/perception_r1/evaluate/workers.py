"""Several processes at one evaluation (``accelerate launch`` or ``torchrun`` started them), or just this one."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Workers:
    """This process among ``count``; number 0 reads, merges and writes what all share."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Workers()


def started_workers(*, cpu: bool = False) -> Workers:
    """The processes that a launcher started (it sets WORLD_SIZE), joined; one alone without a launcher.

    Args:
        cpu: join over the CPU (gloo), although there may be a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    return Workers(state.process_index, state.num_processes)
