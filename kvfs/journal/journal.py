"""The journal: what was changed here and is not known to be in the store.

`def` methods end before anything else of the process runs: when one returns, its change is in the file (and
survives `kill -9`); when it raises, nothing happened. `async def` ones may wait for a thread.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import trio

from kvfs.core.afterwards import Afterwards
from kvfs.core.errors import JournalError
from kvfs.core.model import Change, ChangeState, Key, NamespaceId
from kvfs.journal import check, opening
from kvfs.journal.attributes import DirRow, LocalAttrs
from kvfs.journal.contents import INLINE_BYTES, Bodies, Body, Buffer, digest
from kvfs.journal.index import LOST, Ledger
from kvfs.journal.outbox import Outbox
from kvfs.journal.spool import PARTIAL, Stream
from kvfs.journal.tables import Tables
from kvfs.journal.upkeep import Upkeep
from kvfs.journal.writer import UNCHANGED, Move

QUIET = 0.05  # seconds without a record: a burst is over

__all__ = [
    "INLINE_BYTES",
    "UNCHANGED",
    "Body",
    "DirRow",
    "Journal",
    "JournalStatistics",
    "LocalAttrs",
    "Move",
    "digest",
]


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Counts of rows by state, bytes of pending values, and when (epoch seconds) things were recorded."""

    pending: int
    pending_bytes: int
    settling: int
    rejected: int
    local: int
    oldest_pending_at: float | None
    last_change_at: float | None


class Journal(Outbox):
    """Made by `Journal.open`; a context manager that closes itself.

    What can be recorded is in `Recording`, what the sender does with it in `Outbox`; here are life and
    reading.

    Invariant: see `Ledger`; `check_invariants` tests them.
    """

    def __init__(
        self, path: Path, ledger: Ledger, tables: Tables, upkeep: Upkeep, now: Callable[[], float]
    ) -> None:
        super().__init__(ledger, now)
        self.path = path
        self.afterwards = ledger.afterwards
        self._upkeep = upkeep
        self._tables = tables
        self._close: list[Callable[[], None]] = []

        self.version = 0  # grows with every transaction that altered changes
        self.last_change_at: float | None = None
        self._changed = trio.Event()
        self._awaited = False  # somebody waits for _changed: spares an Event a change
        self._full = trio.Event()
        self._bounds: tuple[int, int] | None = None

    # opening and closing

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        source: str,
        now: Callable[[], float],
        mountpoint: str = "",
        durable: bool = False,
    ) -> "Journal":
        """Open or make the journal of `source` (identity of the account or store).

        With `durable`, contents in the spool are forced to the disk at once (`make_durable` does the rest).
        Raises JournalLockedError, JournalUnreadableError (the file is left as it is), JournalFullError, or
        JournalError when the directory cannot be used.
        """
        path = path.absolute()
        spool = path.with_name(path.name + ".spool")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = opening.lock(path, mountpoint)
        except OSError as exc:
            raise JournalError(f"the journal {path} cannot be opened: {exc}") from exc
        try:
            opening.prepare(path, source, now())
            spool.mkdir(mode=0o700, exist_ok=True)
            connection = opening.connect(path)
        except BaseException as exc:
            os.close(lock)
            if isinstance(exc, OSError):
                raise JournalError(f"the journal {path} cannot be opened: {exc}") from exc
            raise
        tables = Tables(connection, path)
        bodies = Bodies(tables, spool, durable=durable)
        ledger = Ledger(tables, path, bodies, Afterwards())
        journal = cls(path, ledger, tables, Upkeep(path, bodies, tables.redo), now)
        journal._close += [lambda: os.close(lock), lambda: tables.close(opening.shrink)]
        try:
            tables.recover()
            journal._recover()
        except BaseException as exc:
            journal.close()
            if isinstance(exc, opening.DAMAGE):
                raise opening.unreadable(path, f"it is damaged ({exc!r})") from exc
            raise
        ledger.on_commit = journal._committed
        return journal

    def _recover(self) -> None:
        """Load, and settle accounts with whatever the last run left half done."""
        self._ledger.load()
        self._tables.recovered()
        if self._bodies.has_unused:
            with self.transaction():
                pass  # its end sweeps them
        for row in [row for rows in self._ledger.rows.values() for row in rows.values()]:
            if row.body is None or self._bodies.is_whole(row.body, row.change.size):
                continue
            if row.change.state is ChangeState.SETTLING:
                with self.transaction():
                    self._ledger.remove(row)
            else:
                with self.transaction():
                    self._update(row, state=ChangeState.REJECTED, error=LOST)
        orphans = self._bodies.orphans()
        if opening.kept_logs(self.path):  # whole ones may be what is named in these
            orphans = [name for name in orphans if name.endswith(PARTIAL)]
        if orphans:
            self._upkeep.sync()
            self._bodies.unlink(orphans)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give the lock back. What is pending stays for the next open."""
        self.afterwards.is_open = False
        try:
            self.afterwards.run()
        finally:
            while self._close:
                self._close.pop()()

    # contents

    def stage(self, value: bytes) -> Body:
        """A content of up to INLINE_BYTES, ready to be recorded; nothing is written yet."""
        return self._bodies.stage(value)

    async def spool(self, value: Buffer) -> Body:
        """A larger content, written beside the journal in a thread, ready to be recorded.

        The caller leaves `value` unchanged meanwhile. Raises JournalFullError.
        """
        return await self._bodies.spool(value)

    def stream(self) -> Stream:
        """A large content that is written beside the journal while it grows; see `Stream`."""
        return self._bodies.stream()

    # reading

    def get(self, namespace: NamespaceId, key: Key) -> Change | None:
        """The change of a key that answers for it: pending, settling, rejected or local."""
        row = self._ledger.get(namespace, key)
        return row.change if row is not None else None

    def value(self, change: Change) -> bytes:
        """The content of a put that is still the newest of its key; KeyError when it is not.

        One above INLINE_BYTES comes from a file: `read_value` keeps that off the loop.
        """
        return self._bodies.read(self._body_of(change))

    async def read_value(self, change: Change) -> bytes:
        """The content, a large one read in a thread; KeyError as for `value`."""
        return await self._bodies.read_async(self._body_of(change))

    def read_soon(self, change: Change, then: Callable[[bytes], object]) -> None:
        """A large content, read by a thread: `then` gets it, if it can be read. KeyError as for `value`."""
        self._bodies.read_soon(self._body_of(change), then)

    def _body_of(self, change: Change) -> int:
        row = self._ledger.get(change.namespace, change.key)
        if row is None or row.body is None or row.change.seq != change.seq:
            raise KeyError(change.key)
        return row.body

    def digest(self, change: Change) -> bytes:
        """The digest of a put's content, without reading it; KeyError as for `value`."""
        self._body_of(change)
        row = self._ledger.get(change.namespace, change.key)
        return row.digest if row is not None else b""

    def under(self, namespace: NamespaceId, prefix: str) -> Iterator[Change]:
        """The changes of keys that start with `prefix`, in key order, as they are at the call."""
        rows = self._ledger.rows.get(namespace, {})
        return iter([rows[key].change for key in self._ledger.under(namespace, prefix)])

    @property
    def changes(self) -> int:
        """Grows whenever the readings here may answer otherwise than before."""
        return self._ledger.changes + self.attributes.changes

    def any_under(self, namespace: NamespaceId, prefix: str) -> bool:
        """Whether a put of a key that starts with `prefix` is here; tombstones cost nothing."""
        return self._ledger.any_under(namespace, prefix)

    # waiting and telling

    def _committed(self, altered: bool) -> None:
        self._upkeep.note()
        if self._touched:
            self._touched = False
            self.last_change_at = self._now()
        if altered:
            self.version += 1
            self._wake()

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
        return self.pending_count >= count or self.pending_bytes >= size

    async def wait_changed(self) -> None:
        """Until a change is recorded, or what became of one is, after this call."""
        self._awaited = True
        await self._changed.wait()

    async def wait_full(self, count: int, size: int) -> None:
        """Until `count` changes or `size` bytes are pending. For one waiter: the sender."""
        if not self._is_full(count, size):
            self._bounds = (count, size)
            await self._full.wait()

    async def maintain(self) -> None:
        """For ever: checkpoints, and files nobody needs any more, in threads, as they come due."""
        while True:
            await self._upkeep.wait_due()
            await self.tidy()

    async def catch_up(self) -> None:
        """For ever: what was recorded in a burst goes into the tables when the burst is over, bit by bit."""
        while True:
            await self._tables.wait_due()
            await self._calm()
            last = self._tables.last
            while self._tables.is_behind and self._tables.try_to_apply():
                self._upkeep.note()
                await trio.lowlevel.checkpoint()
                if self._tables.last != last:  # somebody records again
                    await self._calm()
                    last = self._tables.last

    async def _calm(self) -> None:
        last = -1
        while last != self._tables.last:
            last = self._tables.last
            await trio.sleep(QUIET)

    async def tidy(self) -> None:
        """One round of `maintain`. Raises JournalError when the disk refuses."""
        await self._upkeep.tidy()

    async def make_durable(self, change: Change | None = None) -> None:
        """Until what was recorded before the call survives a power cut; concurrent callers share a sync.

        Of contents in the spool that holds for `change`, a put, and in a durable journal for all. Raises
        JournalError when the disk refuses.
        """
        try:
            if change is not None:
                await self._bodies.force(self._body_of(change))
            await self._upkeep.make_durable()
        except OSError as exc:
            raise JournalError(f"the journal {self.path} cannot be forced to the disk: {exc}") from exc

    def statistics(self) -> JournalStatistics:
        """What is in here, by state."""
        count = self._ledger.count
        return JournalStatistics(
            pending=self.pending_count,
            pending_bytes=self.pending_bytes,
            settling=count(ChangeState.SETTLING),
            rejected=count(ChangeState.REJECTED),
            local=count(ChangeState.LOCAL),
            oldest_pending_at=self.oldest_pending_at,
            last_change_at=self.last_change_at,
        )

    def check_invariants(self) -> None:
        """AssertionError when memory and file differ or a content is missing or superfluous: for tests."""
        faults = check.faults(self._ledger)
        assert not faults, faults

    def __repr__(self) -> str:
        return f"<Journal {self.path} {self.statistics()}>"
