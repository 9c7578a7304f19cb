"""A journal to test with, and short ways to write to it."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.journal import opening
from kvfs.journal.journal import Journal
from kvfs.journal.tables import Tables

NS = NamespaceId("n" * 32)
START = 1_800_000_000.0
SOURCE = "cloudflare:account"


def simulated_now() -> float:
    """A wall clock that goes with the trio clock of the test."""
    return START + trio.current_time()


def open_journal(path: Path, **options) -> Journal:
    """The journal of these tests; the clock stands still unless one is given."""
    return Journal.open(path, **{"source": SOURCE, "now": lambda: START} | options)


def tables_of(journal: Journal) -> sqlite3.Connection:
    """SQLite's side of it, which has everything when this returns."""
    journal._ledger.tables.apply()
    return journal._ledger.tables._db


@contextmanager
def replayed(path: Path) -> Iterator[sqlite3.Connection]:
    """The tables of a journal nobody has open, with its log in them; in place."""
    tables = Tables(opening.connect(path), path)
    try:
        tables.recover()
        tables.recovered()
        yield tables._db
    finally:
        tables.close(lambda _: None)


@contextmanager
def seen(path: Path) -> Iterator[sqlite3.Connection]:
    """The same of a copy: the journal stays as a crash left it."""
    with tempfile.TemporaryDirectory() as directory:
        for file in path.parent.glob(f"{path.name}*"):
            if file.is_file():
                shutil.copyfile(file, Path(directory) / file.name)
        with replayed(Path(directory) / path.name) as connection:
            yield connection


@contextmanager
def full_disk(journal: Journal) -> Iterator[None]:
    """The log it writes to takes nothing; something must be in it already."""
    descriptor = journal._ledger.tables.redo._descriptor
    kept, full = os.dup(descriptor), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(full)


def put(journal: Journal, key: str, value: bytes = b"value", *, namespace=NS, **options) -> int:
    """Record a small value; known absent unless `base` says otherwise."""
    options = {"metadata": None, "expiration": None, "base": b""} | options
    return journal.record_put(namespace, Key(key), journal.stage(value), **options)


def delete(journal: Journal, key: str, *, namespace=NS, base: bytes | None = None) -> int | None:
    """Record a deletion; whether the store has the key is not known unless `base` says."""
    return journal.record_delete(namespace, Key(key), base=base)


def ack_all(journal: Journal, at: float = START) -> None:
    """As if the store had taken all that is pending."""
    seqs = [change.seq for change in journal.pending()]
    journal.mark_attempted(seqs)
    journal.ack(seqs, at)


def shown(journal: Journal, namespace=NS) -> dict[str, bytes | None]:
    """What the journal answers: key → content, None for a tombstone."""
    return {
        change.key: None if change.is_tombstone else journal.value(change)
        for change in journal.under(namespace, "")
    }


def keys(changes) -> list[str]:
    """Their keys, in order."""
    return [change.key for change in changes]


async def stored(store, namespace) -> dict[str, Entry]:
    """Everything a store has in a namespace."""
    found, cursor = {}, None
    while True:
        page = await store.list_keys(namespace, cursor=cursor)
        for info in page.keys:
            read = await store.get(namespace, info.key)
            found[info.key] = Entry(read.value, info.metadata, info.expiration)
        if page.cursor is None:
            return found
        cursor = page.cursor
