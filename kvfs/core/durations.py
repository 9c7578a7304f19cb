"""Histograms of durations: buckets that cost next to nothing, and the figures that are read from them.

Of operations that take microseconds only one of `EVERY` is timed, because a look at the clock costs a good part of
that. Those between two count as the next one that is timed, or as the last one when the figures are read.
"""

from collections.abc import Iterable, Sequence
from typing import Final

BUCKETS: Final = 40
"""Bucket b counts durations below 2**b microseconds, and not below half of that."""

SUM: Final = BUCKETS
"""Nanoseconds altogether."""

SKIP: Final = BUCKETS + 1
"""How many may still come untimed. Who counts one lowers it; at 0 the next is timed: `add_timed`."""

_LAST: Final = BUCKETS + 2
"""Nanoseconds of the last that was timed."""

EVERY: Final = 16

Durations = list[int]
"""`BUCKETS` counts, and then the numbers above."""


def no_durations() -> Durations:
    """Return an empty histogram."""
    return [0] * (BUCKETS + 3)


def add(durations: Durations, nanoseconds: int) -> None:
    """Add one more duration, which was timed for itself."""
    durations[min((nanoseconds // 1000).bit_length(), BUCKETS - 1)] += 1
    durations[SUM] += nanoseconds


def add_timed(durations: Durations, nanoseconds: int) -> None:
    """Add one of several, when `SKIP` was 0. Those before it that were not timed took as long."""
    count = EVERY if durations[_LAST] else 1
    durations[min((nanoseconds // 1000).bit_length(), BUCKETS - 1)] += count
    durations[SUM] += count * nanoseconds
    durations[SKIP], durations[_LAST] = EVERY - 1, max(1, nanoseconds)


def settle(durations: Durations) -> Durations:
    """Count those that were not timed as the last one that was; return the list, to be read."""
    if (last := durations[_LAST]) and (untimed := EVERY - 1 - durations[SKIP]):
        durations[min((last // 1000).bit_length(), BUCKETS - 1)] += untimed
        durations[SUM] += untimed * last
        durations[SKIP] = EVERY - 1
    return durations


def total(several: Iterable[Sequence[int]]) -> Durations:
    """Return all of them in one, which is only to be read; each must be settled."""
    sums = [sum(column) for column in zip(*(one[: SUM + 1] for one in several), strict=True)]
    return [*sums, 0, 0] if sums else no_durations()


def count(durations: Sequence[int]) -> int:
    """Return the number of durations."""
    return sum(durations[:BUCKETS])


def seconds(durations: Sequence[int]) -> float:
    """Return the sum of the durations."""
    return durations[SUM] / 1e9


def upper(bucket: int) -> float:
    """Return the bound of a bucket, in seconds."""
    return float(2**bucket) / 1e6


def quantile(durations: Sequence[int], part: float) -> float | None:
    """Return the duration that `part` of them (0 to 1) did not exceed, in seconds; None for an empty histogram.

    Between the bounds of its bucket it is drawn by proportion, so it is off by the bucket's width at most.
    """
    wanted, below = part * count(durations), 0
    if not wanted:
        return None
    for bucket, found in enumerate(durations[:BUCKETS]):
        if found and below + found >= wanted:
            low = upper(bucket - 1) if bucket else 0.0
            return low + (upper(bucket) - low) * (wanted - below) / found
        below += found
    return None
