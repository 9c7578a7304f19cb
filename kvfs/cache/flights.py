"""Flights: keys that are being fetched, and who waits for them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from kvfs.cache.values import Clean
from kvfs.core.callers import Caller, call_ends, current, waits
from kvfs.core.errors import OutOfTimeError, StoreError

GRACE: Final = 0.3  # seconds after the end of a call in which the store's own, clearer error may still come


@dataclass(slots=True, eq=False)
class Flight:
    """One key being fetched, for its `caller`; `clean` None with no error means the key does not exist."""

    clean: Clean | None = None
    error: StoreError | None = None
    waited: bool = False
    has_ended: bool = False
    ended: trio.Event | None = None  # made for the first that waits: mostly none does
    then: "Callable[[Flight], None] | None" = None  # called when it has ended
    caller: Caller | None = field(default_factory=current)

    async def arrival(self) -> Clean | None:
        """Return the value, or None if the key does not exist.

        Raises what the store raised, and `OutOfTimeError` at the end of the system call that waits.
        """
        if not self.has_ended:
            waits()
            if self.ended is None:
                self.ended = trio.Event()
            with trio.move_on_at(call_ends() + GRACE):
                await self.ended.wait()
            if not self.has_ended:  # it goes on, for the next one
                raise OutOfTimeError("no answer within the time of the call")
        if self.error is not None:
            raise copy.copy(self.error)  # every waiter its own: a traceback grows with each raise
        return self.clean
