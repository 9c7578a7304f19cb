"""Flights: keys that are being fetched, and who waits for them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from kvfs.cache.values import Clean
from kvfs.core.callers import Caller, current, waits
from kvfs.core.errors import StoreError


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
        """Return the value, or None if the key does not exist. Raise what the store raised."""
        if not self.has_ended:
            waits()
            if self.ended is None:
                self.ended = trio.Event()
            await self.ended.wait()
        if self.error is not None:
            raise copy.copy(self.error)  # every waiter its own: a traceback grows with each raise
        return self.clean
