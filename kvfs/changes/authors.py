"""The callers who made the changes since the start, by number; only for statistics.

Most often one process makes many changes in a row, so that runs of numbers are kept, and not each number.
"""

from bisect import bisect_right
from typing import Final

from kvfs.core.callers import Caller, current
from kvfs.core.model import Seq

MOST: Final = 4096  # runs; a change of an older one is nobody's


class Authors:
    """Runs of numbers in their order, each with its caller, None for the daemon's own and for unknown ones."""

    def __init__(self) -> None:
        self._starts: list[Seq] = []
        self._callers: list[Caller | None] = []
        self._newest = Seq(0)

    def note(self, seq: Seq) -> None:
        """Note that the present caller made the change, unless it is known already and only goes on."""
        if seq <= self._newest:
            return
        self._newest, caller = seq, current()
        if caller is not None and not caller.pid:
            caller = None
        if not self._callers or self._callers[-1] is not caller:
            self._starts.append(seq)
            self._callers.append(caller)
            if len(self._starts) > MOST:
                del self._starts[: MOST // 2], self._callers[: MOST // 2]

    def of(self, seq: Seq) -> Caller | None:
        """Return the caller who made the change."""
        index = bisect_right(self._starts, seq) - 1
        return self._callers[index] if index >= 0 and seq <= self._newest else None
