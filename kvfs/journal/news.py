"""News of the journal: that changes were recorded, or what became of some, for tasks that wait for it."""

from collections.abc import Callable, Sequence

import trio

from kvfs.changes.records import DropDirectory, Failed, LogOperation, SeenOp, SetAttrs, SetDirectory, SetRow
from kvfs.changes.totals import Totals
from kvfs.core.generation import Generation

_BESIDE = {SetAttrs, SetDirectory, DropDirectory, SeenOp, Failed}  # operations that alter no change


class News:
    """Is told of every commit: `generation` counts those that altered changes; `watch` is told of all operations."""

    def __init__(self, totals: Totals, now: Callable[[], float], note: Callable[[], None]) -> None:
        """`note` is called after every commit."""
        self.generation = Generation()
        self.last_change_at: float | None = None  # epoch seconds
        self.watch: Callable[[Sequence[LogOperation]], None] | None = None
        self.on_change: Callable[[], None] = lambda: None  # called after a new change was recorded
        self._totals = totals
        self._now = now
        self._note = note
        self._newest = totals.last_seq
        self._changed = trio.Event()
        self._awaited = False  # a task waits for _changed; without it a change needs no Event
        self._full = trio.Event()
        self._bounds: tuple[int, int] | None = None

    def committed(self, operations: Sequence[LogOperation]) -> None:
        """Note that a transaction is in the log and in memory."""
        self._note()
        if self.watch is not None:
            self.watch(operations)
        is_altered, newest = False, self._newest
        for operation in operations:
            is_altered = is_altered or operation.__class__ not in _BESIDE
            if isinstance(operation, SetRow) and operation.row.seq > newest:
                newest = operation.row.seq
        if is_altered:
            self.generation.bump()
            self._wake()
            if newest != self._newest:
                self._newest, self.last_change_at = newest, self._now()
                self.on_change()

    def _wake(self) -> None:
        if self._awaited:
            self._awaited = False
            self._changed.set()
            self._changed = trio.Event()
        if self._bounds is not None and self._is_full(*self._bounds):
            self._bounds = None
            self._full.set()
            self._full = trio.Event()

    def _is_full(self, count: int, size: int) -> bool:
        return self._totals.pending_count >= count or self._totals.pending_bytes >= size

    async def wait_changed(self) -> None:
        """Wait until a change is recorded, or changes its state, after this call."""
        self._awaited = True
        await self._changed.wait()

    async def wait_full(self, count: int, size: int) -> None:
        """Wait until `count` changes or `size` bytes are pending. For one waiter: the sender."""
        if not self._is_full(count, size):
            self._bounds = (count, size)
            await self._full.wait()
