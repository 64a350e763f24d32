"""McNemar's test: did the same samples change from wrong to right more often than from right to wrong?

Only the samples on which two models differ tell: b that only the first has right, c that only the second has. If
neither model is better, each of the b + c is a fair coin. The exact test is that binomial test, two-sided;
Perception-R1 (Xiao et al., arXiv 2506.07218) reports it for (1, 5), (2, 4) and (2, 10). The mid-p value counts half of
the observed outcome, which corrects the exact test's caution.

Sources: Q. McNemar, Psychometrika 12 (1947); for mid-p M. W. Fagerland, S. Lydersen, P. Laake, BMC Medical Research
Methodology 13 (2013) 91.
"""

from __future__ import annotations


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
