"""Statistics: bootstrap intervals over samples, McNemar's test, GRPO's advantages.

Bootstrap. Every metric here is a function of the *means* of some per-sample columns: accuracy is the mean of zeros and
ones, a micro-averaged precision is mean(true positives) / mean(predictions). Drawing n samples with replacement is
drawing multinomial counts, so one matrix product gives the column means of a whole block of resamples. Source:
B. Efron, "Bootstrap methods: another look at the jackknife" (1979); percentile intervals.

McNemar's test. Did the same samples change from wrong to right more often than from right to wrong? Only the samples on
which two models differ tell: b that only the first has right, c that only the second has. If neither model is better,
each of the b + c is a fair coin. The exact test is that binomial test, two-sided; Perception-R1 (Xiao et al., arXiv
2506.07218) reports it for (1, 5), (2, 4) and (2, 10). The mid-p value counts half of the observed outcome, which
corrects the exact test's caution. Sources: Q. McNemar, Psychometrika 12 (1947); for mid-p M. W. Fagerland, S. Lydersen,
P. Laake, BMC Medical Research Methodology 13 (2013) 91.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
_BLOCK = 4_000_000  # counts held at once: 32 MB


def resample_counts(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks (R, n): how often each sample is drawn, n draws a row; the same seed gives the same resamples."""
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _BLOCK // max(1, n)))
    done = 0
    while done < resamples:
        rows = min(block, resamples - done)
        yield rng.multinomial(n, np.full(n, 1.0 / n), size=rows).astype(np.float64)
        done += rows


def mean_of_first(means: Floats) -> Floats:
    """The statistic of a plain mean: column 0."""
    return means[..., 0]


@dataclass(frozen=True, slots=True)
class Column:
    """One metric: per-sample columns (n, k), and the statistic of their means. ``mask`` (n,) picks the samples."""

    values: Floats
    statistic: Callable[[Floats], Floats] = mean_of_first
    mask: NDArray[np.bool_] | None = None

    def rows(self) -> Floats:
        """The columns of the samples that this metric covers."""
        return self.values if self.mask is None else self.values[self.mask]


def column(values: Sequence[Any]) -> Column:
    """A `Column` whose metric is the mean of one value a sample."""
    return Column(array(values))


def array(values: Sequence[Any]) -> Floats:
    """Values as an array of float64."""
    return np.asarray(values, dtype=np.float64)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """``top / bottom``; 1 where the bottom is 0: nothing asked and nothing given."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.ones_like(top), where=bottom > 0)


def interval(
    columns_nk: Floats,
    statistic: Callable[[Floats], Floats] = mean_of_first,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Value and percentile interval of ``statistic(means of the columns)``.

    Args:
        columns_nk: (n,) or (n, k) per-sample columns.
        statistic: maps (..., k) means to (...) values.
        resamples: bootstrap resamples.
        seed: of the resampling.
        level: of the interval.

    Returns:
        ``(value, low, high)``; NaN for no samples; low = high = value for one sample.

    Example:
        >>> import numpy as np
        >>> interval(np.array([1.0, 1.0, 1.0]))
        (1.0, 1.0, 1.0)
    """
    columns = _two_axes(columns_nk)
    n = columns.shape[0]
    if n == 0:
        return (float("nan"),) * 3
    value = float(statistic(columns.mean(axis=0)))
    values = np.concatenate([statistic(counts @ columns / n) for counts in resample_counts(n, resamples, seed)])
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    # Clipped so that rounding in the product never puts the value outside of its own interval.
    return value, min(float(low), value), max(float(high), value)


def paired_difference(
    before_nk: Floats,
    after_nk: Floats,
    statistic: Callable[[Floats], Floats] = mean_of_first,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """``statistic(after) − statistic(before)`` with its interval; row i of both is the same sample.

    Both sides see the same resamples, so what is hard for both cancels.
    """
    before, after = _two_axes(before_nk), _two_axes(after_nk)
    if before.shape != after.shape:
        raise ValueError(f"paired columns must have one shape, got {before.shape} and {after.shape}")
    n = before.shape[0]
    if n == 0:
        return (float("nan"),) * 3
    value = float(statistic(after.mean(axis=0)) - statistic(before.mean(axis=0)))
    values = np.concatenate(
        [statistic(c @ after / n) - statistic(c @ before / n) for c in resample_counts(n, resamples, seed)]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return value, min(float(low), value), max(float(high), value)


def _two_axes(columns: Floats) -> Floats:
    columns = np.asarray(columns, dtype=np.float64)
    return columns[:, None] if columns.ndim == 1 else columns


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of the exact (binomial) test.

    Args:
        b: samples that only the first model has right.
        c: samples that only the second has right.

    Returns:
        p in (0, 1]; 1 without a discordant sample.

    Raises:
        ValueError: a negative count.

    Example:
        >>> [round(mcnemar_exact(*pair), 4) for pair in ((1, 5), (2, 4), (2, 10), (0, 0))]
        [0.2188, 0.6875, 0.0386, 1.0]
    """
    tail, _, whole = _counts(b, c)
    return min(1.0, 2 * tail / whole)


def mcnemar_midp(b: int, c: int) -> float:
    """Two-sided mid-p: the exact p less the probability of the observed outcome.

    Example:
        >>> round(mcnemar_midp(2, 10), 4), mcnemar_midp(3, 3)
        (0.0225, 1.0)
    """
    tail, at, whole = _counts(b, c)
    return min(1.0, (2 * tail - at) / whole)


def _counts(b: int, c: int) -> tuple[int, int, int]:
    """Of 2^(b+c) outcomes of fair coins: those at most as even as the rarer side, those exactly so, all."""
    if b < 0 or c < 0:
        raise ValueError(f"discordant counts must not be negative, got {b} and {c}")
    n, fewer = b + c, min(b, c)
    at, tail = 1, 1
    for k in range(1, fewer + 1):
        at = at * (n - k + 1) // k
        tail += at
    return tail, at, 1 << n


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
