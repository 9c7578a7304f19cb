"""The versions worth keeping of a key that changes again and again: the first of a burst and the last.

It is a rule without a clock. The first is the value before the burst, which undo wants; the last is the one that was
deleted in the end. A key that goes on changing has longer and longer bursts, *because* a log that is rewritten all day
must not push everything else out.
"""

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from kvfs.core.model import How, KeyRef

QUIET: Final = 10.0  # seconds that a burst lasts, at first
LONGEST: Final = 3600.0
KEYS: Final = 50_000  # keys whose last change is remembered


class Verdict(Enum):
    """The verdict on a version: `KEEP` it, `HOLD` it until the burst is over (a later one may follow), or `SKIP` it."""

    KEEP = auto()
    HOLD = auto()
    SKIP = auto()


class _Burst(Struct, gc=False):
    """One burst: its beginning (epoch seconds), and its length."""

    start: float
    seconds: float


class Bursts:
    """The present or latest burst of each key."""

    def __init__(self, most: int = KEYS) -> None:
        self._most = most
        self._of: dict[KeyRef, _Burst] = {}

    def judge(self, place: KeyRef, at: float, how: How, *, is_new: bool) -> Verdict:
        """Decide about the version that is replaced at `at`; `is_new`: its key was made a moment ago.

        Before the burst in which a key is made there was nothing, so that its first version is not the first.
        """
        burst = self._of.get(place)
        is_first = burst is None or not 0 <= at - burst.start < burst.seconds
        if is_first:
            self._begin(place, at, burst)
        if is_first and not is_new:
            return Verdict.KEEP
        if how is How.ATTRIBUTES or (
            is_new and how is How.RENAME
        ):  # a program's temporary file gets its name
            return Verdict.SKIP
        return Verdict.HOLD

    def _begin(self, place: KeyRef, at: float, before: _Burst | None) -> None:
        seconds = QUIET
        if before is not None:
            if 0 <= at - before.start < 2 * before.seconds:
                seconds = min(2 * before.seconds, LONGEST)
            del self._of[place]  # so that it becomes the newest
        elif len(self._of) >= self._most:
            for oldest in list(self._of)[: -(-self._most // 4)]:
                del self._of[oldest]
        self._of[place] = _Burst(at, seconds)

    def seconds(self, place: KeyRef) -> float:
        """Return the time that a held version waits for a later one."""
        burst = self._of.get(place)
        return burst.seconds if burst is not None else QUIET
