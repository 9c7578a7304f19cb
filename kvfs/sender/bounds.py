"""How large a bulk body may be: what passed is remembered, doubled while answers are quick, halved when not.

The real API needs seconds for a thousand pairs, answers 524 after 100 s, and writes on, and bills, all the same.
So bodies begin small, and what failed is not tried again before many of half its size have passed.
"""

from dataclasses import dataclass, field
from typing import Final

from kvfs.core.packing import Batch, pair_bytes
from kvfs.sender.events import SenderOptions

LEAST_BYTES: Final = 1_000_000  # bodies are not made smaller than this for the sake of their bytes
QUICK: Final = 10.0  # seconds for an answer; twice as much will take no longer than 20
SLOW: Final = 40.0  # seconds; the edge gives up after 100
PROBATION: Final = 8  # bodies that have to pass before what failed is tried again; doubles with each failure
LONGEST_PROBATION: Final = 256


class Bound:
    """One measure of a body: its pairs or its bytes.

    `value` is the most that is tried now. `_passed` is the most that passed since the last failure of as much,
    `_failed` the least that failed lately, None when that is forgotten.
    """

    def __init__(self, first: int, *, least: int, most: int) -> None:
        self.value = min(first, most)
        self._least = min(least, most)
        self._most = most
        self._passed = 0
        self._failed: int | None = None
        self._probation = PROBATION
        self._in_a_row = 0
        self._tries_again = False

    def is_near(self, size: int) -> bool:
        """True for more than half of the bound."""
        return size * 2 > self.value

    def fail(self, size: int) -> None:
        """A body of this size was too much."""
        if size <= self._least:
            return  # it was not for the sake of this measure
        self._failed = min(size, self._failed or size)
        self._in_a_row = 0
        if self._tries_again:
            self._probation = min(LONGEST_PROBATION, self._probation * 2)
            self._tries_again = False
        if self._passed >= size:
            self._passed = 0  # that holds no more
        self.value = max(self._least, min(self.value, self._passed or size // 2))

    def slow_down(self, size: int) -> None:
        """A body of this size passed, slowly: the next is to be smaller, if it was for the sake of this measure."""
        self._in_a_row = 0
        if self.is_near(size):
            self.value = max(self._least, size // 2)

    def succeed(self, size: int) -> None:
        """A body of this size passed quickly: if it was near the bound, more may be tried."""
        self._passed = max(self._passed, size)
        if self._failed is not None and size >= self._failed:
            self._failed = None
        if self._failed is None and self._tries_again and self.is_near(size):
            self._tries_again, self._probation = False, PROBATION
        if not self.is_near(size):
            return
        self._in_a_row += 1
        if self._failed is None:
            self.value = min(self._most, self.value * 2)
        elif self._in_a_row >= self._probation:
            self.value, self._failed = max(self.value, self._failed), None
            self._in_a_row, self._tries_again = 0, True
        elif self._failed > self._passed * 5 // 4 + 1:  # worth a try in between
            self.value = max(self.value, min(self._failed - 1, self._passed * 5 // 4 + 1))


@dataclass
class Limits:
    """What the server copes with, in pairs and in bytes."""

    options: SenderOptions
    _pairs: Bound = field(init=False)
    _bytes: Bound = field(init=False)
    _is_quick: bool = field(default=True, init=False)  # the last body was answered quickly

    def __post_init__(self) -> None:
        self._pairs = Bound(self.options.first_pairs, least=1, most=self.options.pairs)
        most = self.options.body_bytes
        self._bytes = Bound(most, least=LEAST_BYTES, most=most)

    @property
    def pairs(self) -> int:
        """The most changes in a body."""
        return self._pairs.value

    @property
    def body_bytes(self) -> int:
        """The most bytes of a body."""
        return self._bytes.value

    @property
    def round_pairs(self) -> int:
        """The most changes in a round: several bodies while answers are quick, because checks are for a round."""
        return self.options.pairs if self._is_quick else self.pairs

    @property
    def round_bytes(self) -> int:
        """The most bytes of a round's values."""
        return self.options.body_bytes if self._is_quick else self.body_bytes

    def shrink(self, batch: Batch) -> None:
        """This one was too much: in the measure whose bound it was near, or in both when near none."""
        self._is_quick = False
        count, size = len(batch.changes), body_size(batch)
        near_pairs, near_bytes = self._pairs.is_near(count), self._bytes.is_near(size)
        if near_pairs or not near_bytes:
            self._pairs.fail(count)
        if near_bytes or not near_pairs:
            self._bytes.fail(size)

    def note(self, batch: Batch, seconds: float) -> None:
        """This one was taken, and the answer took so long."""
        count, size = len(batch.changes), body_size(batch)
        self._is_quick = seconds < QUICK
        if seconds > SLOW:
            self._pairs.slow_down(count)
            self._bytes.slow_down(size)
        elif seconds < QUICK:
            self._pairs.succeed(count)
            self._bytes.succeed(size)


def body_size(batch: Batch) -> int:
    """At most how many bytes its body has."""
    return sum(map(pair_bytes, batch.changes))
