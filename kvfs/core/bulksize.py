"""The size of bulk bodies: it is remembered from success, doubled after quick answers, halved after slow ones.

The real API needs seconds for a thousand pairs, answers 524 after 100 s, and writes on, and bills, all the same. So
bodies begin small, and a size that failed is not tried again before many bodies of half of it have passed.
"""

from typing import Final

from kvfs.core.limits import BULK_PAIRS

FIRST_PAIRS: Final = 1_000  # pairs of the first body, before anything is known of the server
_FIRST_LEAST: Final = 100
_FIRST_MOST: Final = 4_000
BODY_BYTES: Final = 90_000_000  # "well below 100 MB encoded"
LEAST_BYTES: Final = 1_000_000  # bodies are not made smaller than this for the sake of their bytes
QUICK: Final = 10.0  # seconds for an answer; twice as much will take no longer than 20
SLOW: Final = 40.0  # seconds; the edge gives up after 100
PROBATION: Final = 8  # bodies that have to pass before what failed is tried again; doubles with each failure
LONGEST_PROBATION: Final = 256


class Bound:
    """One measure of a body: its pairs or its bytes.

    `value` is the most that is tried now, `most` the most that is ever tried. `_passed` is the most that passed since
    the last failure of as much, `_failed` the least that failed lately, None when that is forgotten.
    """

    def __init__(self, first: int, *, least: int, most: int) -> None:
        self.value = min(first, most)
        self._least = min(least, most)
        self.most = most
        self._passed = 0
        self._failed: int | None = None
        self._probation = PROBATION
        self._in_a_row = 0
        self._tries_again = False

    def is_near(self, size: int) -> bool:
        """Return True for more than half of the bound."""
        return size * 2 > self.value

    def fail(self, size: int) -> None:
        """Note that a body of this size was too much."""
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
        """Note that a body of this size passed, slowly: the next is to be smaller, if this measure was the reason."""
        self._in_a_row = 0
        if self.is_near(size):
            self.value = max(self._least, size // 2)

    def succeed(self, size: int) -> None:
        """Note that a body of this size passed quickly: if it was near the bound, more may be tried."""
        self._passed = max(self._passed, size)
        if self._failed is not None and size >= self._failed:
            self._failed = None
        if self._failed is None and self._tries_again and self.is_near(size):
            self._tries_again, self._probation = False, PROBATION
        if not self.is_near(size):
            return
        self._in_a_row += 1
        if self._failed is None:
            self.value = min(self.most, self.value * 2)
        elif self._in_a_row >= self._probation:
            self.value, self._failed = max(self.value, self._failed), None
            self._in_a_row, self._tries_again = 0, True
        elif self._failed > self._passed * 5 // 4 + 1:  # worth a try in between
            self.value = max(self.value, min(self._failed - 1, self._passed * 5 // 4 + 1))


class BulkSize:
    """The size of a bulk body that a server copes with, in pairs and bytes: one rule for mounts and copies.

    `first_pairs` is where it begins, `pairs` and `body_bytes` are the most that is ever tried.
    """

    def __init__(self, first_pairs: int, *, pairs: int = BULK_PAIRS, body_bytes: int = BODY_BYTES) -> None:
        self.is_quick = True  # the last body was answered quickly
        self._pairs = Bound(first_pairs, least=1, most=pairs)
        self._bytes = Bound(body_bytes, least=LEAST_BYTES, most=body_bytes)

    @property
    def pairs(self) -> int:
        """Return the most pairs in a body."""
        return self._pairs.value

    @property
    def body_bytes(self) -> int:
        """Return the most bytes of a body."""
        return self._bytes.value

    @property
    def round_pairs(self) -> int:
        """Return the most pairs to send in one go: several bodies while answers are quick."""
        return self._pairs.most if self.is_quick else self.pairs

    @property
    def round_bytes(self) -> int:
        """Return the most bytes of their values."""
        return self._bytes.most if self.is_quick else self.body_bytes

    def shrink(self, count: int, size: int) -> None:
        """Note that so many pairs and bytes were too much: in the measure whose bound they were near, or in both."""
        self.is_quick = False
        near_pairs, near_bytes = self._pairs.is_near(count), self._bytes.is_near(size)
        if near_pairs or not near_bytes:
            self._pairs.fail(count)
        if near_bytes or not near_pairs:
            self._bytes.fail(size)

    def note(self, count: int, size: int, seconds: float) -> None:
        """Note that a body was taken, and how long the answer took."""
        self.is_quick = seconds < QUICK
        if seconds > SLOW:
            self._pairs.slow_down(count)
            self._bytes.slow_down(size)
        elif seconds < QUICK:
            self._pairs.succeed(count)
            self._bytes.succeed(size)


def first_pairs(pair_seconds: float | None) -> int:
    """Return the pairs of the first body: as many as take `QUICK` by the measured time; None: not measured."""
    if not pair_seconds:
        return FIRST_PAIRS
    return max(_FIRST_LEAST, min(_FIRST_MOST, int(QUICK / pair_seconds)))
