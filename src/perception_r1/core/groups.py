"""What GRPO makes of the rewards of one group."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float | None], *, scaled: bool = True) -> list[float | None]:
    """GRPO's advantages of one group, ``(r − mean) / (std + 1e-4)`` with the sample standard deviation.

    Follows the released code of PR1 and TRL's ``scale_rewards: group``; ``r − mean`` without ``scaled`` (TRL's
    ``scale_rewards: none``, the advantage of Dr. GRPO). A completion that was not scored takes no part
    and gets None; fewer than two scored ones give 0.

    Example:
        >>> [a if a is None else round(a, 3) for a in group_advantages([1.0, 0.0, None, 0.5])]
        [1.0, -1.0, None, 0.0]
    """
    scored = [reward for reward in rewards if reward is not None]
    if len(scored) < 2:
        return [None if reward is None else 0.0 for reward in rewards]
    mean, scale = statistics.fmean(scored), statistics.stdev(scored) + 1e-4 if scaled else 1.0
    return [None if reward is None else (reward - mean) / scale for reward in rewards]
