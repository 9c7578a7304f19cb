"""A journal to test with, and short ways to write to it."""

import errno
import os
import sqlite3
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import trio

from kvfs.changes.records import Recorded
from kvfs.changes.rules import Row
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.journal import snapshot as snapshots
from kvfs.journal.journal import Journal
from kvfs.journal.replay import Replay
from kvfs.kept import sidefile
from kvfs.log import log, reserve
from kvfs.log.segment import VERSION, segments_of

NS = NamespaceId("n" * 32)
START = 1_800_000_000.0
SOURCE = "cloudflare:account"


def simulated_now() -> float:
    """Return a wall clock that goes with the trio clock of the test."""
    return START + trio.current_time()


def open_journal(path: Path, **options) -> Journal:
    """Open the journal of these tests; the clock stands still unless one is given."""
    return Journal.open(path, **{"source": SOURCE, "now": lambda: START} | options)


def side_of(journal: Journal) -> sqlite3.Connection:
    """Return SQLite's side of it, which has everything when this returns."""
    journal._transactions.kept.save()
    return journal._transactions.kept._side._db


def logged(path: Path) -> Replay:
    """Return the records of a journal's log, as it is on the disk now; nothing is altered."""
    replay = Replay(path)
    assert replay.fault is None
    return replay


@contextmanager
def seen(path: Path) -> Iterator[sqlite3.Connection]:
    """Return the changes in a journal's log as a table to ask; nothing is altered, and a daemon may write to it."""
    columns = (
        "namespace",
        "key",
        "seq",
        "kind",
        "state",
        "size",
        "expiration",
        "attempted",
        "acked_at",
        "error",
    )
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE changes ({', '.join(columns)})")
        for row in _read(path).index.all():
            marks = ", ".join("?" * len(columns))
            values = [getattr(row, column) for column in columns]
            database.execute(f"INSERT INTO changes VALUES ({marks})", values)
        yield database


def _read(path: Path) -> Recorded:
    """Read the log of a journal that may be rewritten at this very moment."""
    while True:
        with suppress(FileNotFoundError):
            replay = Replay(path)
            if replay.fault is None:
                return replay.recorded


def source_of(path: Path) -> str:
    """Return the identity of the account or store that a journal is for."""
    return sidefile.source_of(path, VERSION) or ""


def alter(path: Path, change: Callable[[Row], Row]) -> None:
    """Alter a journal that nobody has open: `change` gives each of its rows."""
    with open_journal(path, source=source_of(path)) as journal, journal.transaction():
        for row in journal._transactions.index.all():
            if (new := change(row)) is not row:
                journal._transactions.put(new, row)


def segments(path: Path) -> list[str]:
    """Return the names of the segments of its log, oldest first."""
    return [segment.name for segment in segments_of(path)]


async def snapshot(journal: Journal) -> None:
    """Rewrite its log now, due or not."""
    await journal._upkeep.snapshot()


@contextmanager
def failing_disk(error: int) -> Iterator[None]:
    """Let no log take more than half a record."""

    def writev(descriptor: int, parts: list[bytes]) -> int:
        record = b"".join(parts)
        os.write(descriptor, record[: len(record) // 2])
        raise OSError(error, os.strerror(error))

    log.os = types.SimpleNamespace(**vars(os) | {"writev": writev})
    try:
        yield
    finally:
        log.os = os


def full_disk(journal: Journal) -> AbstractContextManager[None]:
    """Let the log it writes to take nothing."""
    assert journal.path
    return failing_disk(errno.ENOSPC)


def put(journal: Journal, key: str, value: bytes = b"value", *, namespace=NS, **options) -> int:
    """Record a small value; known absent unless `base` says otherwise."""
    options = {"metadata": None, "expiration": None, "base": b""} | options
    return journal.record_put(namespace, Key(key), journal.stage(value), **options)


def delete(journal: Journal, key: str, *, namespace=NS, base: bytes | None = None) -> int | None:
    """Record a deletion; without `base` nothing is known of the store's value."""
    return journal.record_delete(namespace, Key(key), base=base)


def ack_all(journal: Journal, at: float = START) -> None:
    """Acknowledge all that is pending."""
    seqs = [change.seq for change in journal.pending()]
    journal.mark_attempted(seqs)
    journal.ack(seqs, at)


def shown(journal: Journal, namespace=NS) -> dict[str, bytes | None]:
    """Return the journal's answers: key → content, None for a tombstone."""
    return {
        change.key: None if change.is_tombstone else journal.value(change)
        for change in journal.under(namespace, "")
    }


def keys(changes) -> list[str]:
    """Return their keys, in order."""
    return [change.key for change in changes]


async def stored(store, namespace) -> dict[str, Entry]:
    """Return everything a store has in a namespace."""
    found, cursor = {}, None
    while True:
        page = await store.list_keys(namespace, cursor=cursor)
        for info in page.keys:
            read = await store.get(namespace, info.key)
            found[info.key] = Entry(read.value, info.metadata, info.expiration)
        if page.cursor is None:
            return found
        cursor = page.cursor


@contextmanager
def small_disk(journal: Path, size: int) -> Iterator[Callable[[], int]]:
    """Give log, snapshots and reserve of a journal so many bytes together.

    Yield a function that returns the bytes left.
    """

    def left() -> int:
        files = [
            file for file in os.scandir(journal.parent) if "-log." in file.name or "-reserve" in file.name
        ]
        return max(0, size - sum(file.stat().st_size for file in files))

    def writev(descriptor: int, parts: list[bytes]) -> int:
        record = b"".join(parts)[: left()]
        if not record:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, record)

    def write(descriptor: int, data: bytes) -> int:
        return writev(descriptor, [data])

    def fallocate(descriptor: int, offset: int, length: int) -> None:
        if length > left():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, offset, length)

    def statvfs(path: Path) -> object:
        return types.SimpleNamespace(f_bavail=left(), f_frsize=1)

    rest = vars(os)
    log.os = types.SimpleNamespace(**rest | {"writev": writev})
    snapshots.os = types.SimpleNamespace(**rest | {"write": write})
    reserve.os = types.SimpleNamespace(**rest | {"posix_fallocate": fallocate, "statvfs": statvfs})
    try:
        yield left
    finally:
        log.os = snapshots.os = reserve.os = os
