"""A journal to test with, and short ways to write to it."""

from pathlib import Path

import trio

from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.writeback.journal import Journal

NS = NamespaceId("n" * 32)
START = 1_800_000_000.0
SOURCE = "cloudflare:account"


def simulated_now() -> float:
    """A wall clock that goes with the trio clock of the test."""
    return START + trio.current_time()


def open_journal(path: Path, **options) -> Journal:
    """The journal of these tests; the clock stands still unless one is given."""
    return Journal.open(path, **{"source": SOURCE, "now": lambda: START} | options)


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
