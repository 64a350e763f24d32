"""Mixing sources: counts or shares, drawn at random from a seed, never the first rows of a file."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from perception_r1.data.reading import unique_ids
from perception_r1.errors import DataError
from perception_r1.types import Sample

Part = tuple[Sequence[Sample], "int | None", "float | None"]


def mix(
    sources: Sequence[Part], total: int | None = None, seed: int = 0, *, names: Sequence[str] | None = None
) -> list[Sample]:
    """A shuffled mix of samples.

    Args:
        sources: (samples, count, share) each. ``count``: that many of the source. ``share``: that share of ``total``
            (of the largest total that every share allows, where ``total`` is None). Neither: what is left of
            ``total``, spread over such sources by their size; all of the source where ``total`` is None.
        total: rows in all, or None.
        seed: the same seed and sources give the same mix, on every machine; what one source draws does not depend on
            the other sources.
        names: what to call the sources in messages.

    Raises:
        DataError: a source has fewer rows than asked of it, or counts, shares and total contradict each other.
    """
    names = names or [f"source {number}" for number in range(1, len(sources) + 1)]
    numbers = _numbers(sources, total, names)
    drawn: list[Sample] = []
    for index, ((samples, _, _), number, name) in enumerate(zip(sources, numbers, names, strict=True)):
        if number > len(samples):
            raise DataError(
                f"{name} has {len(samples)} rows but {number} are asked of it (lower its count or share, or total)"
            )
        # a string seeds by its hash, which is the same everywhere; adding numbers would make neighbours alike
        chosen = random.Random(f"{seed}/{index}").sample(range(len(samples)), number)
        drawn.extend(samples[item] for item in chosen)
    random.Random(f"{seed}/mix").shuffle(drawn)
    return unique_ids(drawn)


def _numbers(sources: Sequence[Part], total: int | None, names: Sequence[str]) -> list[int]:
    """How many rows each source gives."""
    sizes = [len(samples) for samples, _, _ in sources]
    numbers: list[int | None] = [None] * len(sources)
    shares: dict[int, float] = {}
    for index, (_, count, share) in enumerate(sources):
        if count is not None and share is not None:
            raise DataError(f"{names[index]} has a count and a share (give one)")
        if count is not None:
            if count < 1:
                raise DataError(f"{names[index]}: count is {count} (expected at least 1)")
            numbers[index] = count
        elif share is not None:
            if not 0 < share <= 1:
                raise DataError(f"{names[index]}: share is {share:g} (expected more than 0 and at most 1)")
            shares[index] = share
    if sum(shares.values()) > 1 + 1e-9:
        raise DataError(f"the shares sum to {sum(shares.values()):g} (expected at most 1)")
    counted = sum(number for number in numbers if number is not None)
    free = [index for index in range(len(sources)) if numbers[index] is None and index not in shares]
    if shares and total is None:
        if counted or free:
            raise DataError("shares beside counts or whole sources need a total (set data.total)")
        total = math.floor(min(sizes[index] / share for index, share in shares.items()) + 1e-9)
        total = min(total, math.floor(sum(sizes)))
        by_share = _apportion(total, shares, exact=math.isclose(sum(shares.values()), 1.0))
        return [min(by_share[index], sizes[index]) for index in range(len(sources))]
    if total is None:
        return [sizes[index] if number is None else number for index, number in enumerate(numbers)]
    complete = not free and not counted and math.isclose(sum(shares.values()), 1.0)
    for index, number in _apportion(total, shares, exact=complete).items():
        numbers[index] = number
    left = total - sum(number for number in numbers if number is not None)
    if left < 0:
        raise DataError(f"counts and shares ask for {total - left} rows but total is {total}")
    if free:
        available = sum(sizes[index] for index in free)
        if left > available:
            raise DataError(f"total is {total} but the sources have only {total - left + available} rows")
        spread = _apportion(left, {index: sizes[index] / available for index in free} if available else {}, exact=True)
        for index in free:
            numbers[index] = spread.get(index, 0)
    elif left:
        raise DataError(
            f"counts and shares give {total - left} rows but total is {total} (drop total, or let them add up)"
        )
    return [number or 0 for number in numbers]


def _apportion(total: int, shares: dict[int, float], *, exact: bool) -> dict[int, int]:
    """Whole numbers in proportion to ``shares``, by largest remainders; they sum to ``total`` where ``exact``."""
    wanted = {index: total * share for index, share in shares.items()}
    numbers = {index: math.floor(value + 1e-9) for index, value in wanted.items()}
    if exact:
        by_remainder = sorted(wanted, key=lambda index: (numbers[index] - wanted[index], index))
        for index in by_remainder[: total - sum(numbers.values())]:
            numbers[index] += 1
    return numbers
