"""The allowances of the day (error 10048): one for each operation, all back at 00:00 UTC.

Writes that are used up hold back neither deletions nor reads; reads that are used up hold back only the writes
that have to read first.
"""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import trio

from kvfs.core.errors import QuotaError
from kvfs.core.model import Change

DAY: Final = 86_400
SPREAD: Final = 60.0  # seconds after the reset: not all machines at once


class BilledOperation(StrEnum):
    """The kinds of a day's allowance."""

    WRITE = "writes"
    DELETE = "deletes"
    READ = "reads"


class Quotas:
    """The allowances that are used up, and until when (monotonic seconds)."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is in epoch seconds."""
        self._now = now
        self._used_up: dict[BilledOperation, tuple[float, QuotaError]] = {}

    def __bool__(self) -> bool:
        """Return True while any allowance is used up."""
        return bool(self._used_up)

    def use_up(self, operation: BilledOperation, error: QuotaError) -> bool:
        """Note that the store called an allowance used up; return True when that is news."""
        news = operation not in self._used_up
        left = DAY - self._now() % DAY + random.uniform(1, SPREAD)
        self._used_up[operation] = trio.current_time() + left, error
        return news

    def succeed(self, operation: BilledOperation) -> bool:
        """Note that the store did it; return True when that is news."""
        return self._used_up.pop(operation, None) is not None

    def ready_at(self, operation: BilledOperation) -> float:
        """Return the time (monotonic) at which there is an allowance again."""
        return self._used_up[operation][0] if operation in self._used_up else float("-inf")

    def error(self, operation: BilledOperation) -> QuotaError | None:
        """Return the store's error, while the allowance is used up."""
        return self._used_up[operation][1] if self.ready_at(operation) > trio.current_time() else None

    def until(self) -> float | None:
        """Return the time (monotonic) at which the first allowance comes back; None when none is used up."""
        return min((at for at, _ in self._used_up.values()), default=None)

    def forget(self) -> None:
        """Forget all, because a caller asked for everything to be tried now."""
        self._used_up.clear()


def operation_of(change: Change) -> BilledOperation:
    """Return the allowance that a change needs."""
    return BilledOperation.DELETE if change.is_tombstone else BilledOperation.WRITE
