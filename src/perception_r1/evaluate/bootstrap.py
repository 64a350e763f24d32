"""Bootstrap intervals over samples, vectorised.

Every metric here is a function of the *means* of some per-sample columns: accuracy is the mean of zeros and ones, a
micro-averaged precision is mean(true positives) / mean(predictions). Drawing n samples with replacement is drawing
multinomial counts, so one matrix product gives the column means of a whole block of resamples.

Source: B. Efron, "Bootstrap methods: another look at the jackknife" (1979); percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
