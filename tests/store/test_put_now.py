"""Single puts of the embedded store that wait for no other writer: what they leave, and what they write."""

from itertools import pairwise
from pathlib import Path

import pytest
from support.clock import Clock
from support.inline import open_inline
from support.journals import stored

from kvfs.core.errors import NamespaceNotFoundError, OvertakenError, RejectedError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.embedded import queries
from kvfs.store.embedded.inmemory import is_in_memory
from kvfs.store.embedded.schema import BUSY_SECONDS
from kvfs.store.embedded.sqlite_store import PURGE_EACH

A = Key("a")
PAGE = 8192 + 24  # bytes of the WAL for a page of the file


@pytest.fixture
def clock() -> Clock:
    """Return the store's clock."""
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    """Yield an open store."""
    with open_inline(tmp_path / "store.db", now=clock) as store:
        yield store


@pytest.fixture
async def namespace(store) -> NamespaceId:
    """Return a namespace in it."""
    return (await store.create_namespace("namespace")).id


ENTRIES = [
    Entry(b"1"),
    Entry(b"22", b'{"m":1}'),
    Entry(b"33"),
    Entry(b"x" * 300_000, b"null", 2_000_000_000),
    Entry(b"", None, 2_100_000_000),
    Entry(b"4"),
]


@pytest.mark.parametrize("soon", [False, True])
async def test_it_leaves_what_a_put_leaves(tmp_path, store, namespace, clock, soon):
    """A new key, or one that is there, has the value, size, metadata and expiration of the entry."""
    with open_inline(tmp_path / "other.db", now=clock) as other:
        space = (await other.create_namespace("namespace")).id
        for entry in ENTRIES:
            if soon:
                await store.watch.put_soon(namespace, A, entry, None)
            else:
                store.watch.put_now(namespace, A, entry, None)
            await other.put(space, A, entry)
            assert await stored(store, namespace) == await stored(other, space)
            sizes = [
                each._connections._writer.execute("SELECT size, count(*) FROM keys, contents").fetchall()
                for each in (store, other)
            ]
            assert sizes == [[(len(entry.value), 1)]] * 2


async def test_it_refuses_what_a_put_refuses(store, namespace):
    """A namespace that is not there, a forbidden key and bad metadata are errors, and nothing is written."""
    for place, entry, error in (
        ((NamespaceId("0" * 32), A), Entry(b""), NamespaceNotFoundError),
        ((NamespaceId("é"), A), Entry(b""), NamespaceNotFoundError),
        ((namespace, Key("..")), Entry(b""), RejectedError),
        ((namespace, A), Entry(b"", b"{"), RejectedError),
    ):
        with pytest.raises(error):
            store.watch.put_now(*place, entry, None)
    assert await stored(store, namespace) == {}


async def test_it_is_not_done_once_somebody_else_has_written(tmp_path, store, namespace, clock):
    """With a count of others it is not done after another process's write, as any guarded write."""
    store.watch.put_now(namespace, A, Entry(b"1"), None)
    begun = store.watch.others
    store.watch.put_now(namespace, A, Entry(b"2"), begun)
    with open_inline(tmp_path / "store.db", now=clock) as other:
        await other.put(namespace, Key("b"), Entry(b"theirs"))
    with pytest.raises(OvertakenError):
        store.watch.put_now(namespace, A, Entry(b"3"), begun)
    assert (await stored(store, namespace))[A] == Entry(b"2")


async def test_a_value_of_the_same_length_costs_its_own_pages(tmp_path, store, namespace):
    """A page of a database that is written again costs the pages of its value, and none of the key's."""
    wal = tmp_path / "store.db-wal"
    store.watch.put_now(namespace, A, Entry(b"1" * 8192), None)
    before = wal.stat().st_size
    store.watch.put_now(namespace, A, Entry(b"2" * 8192), None)
    assert wal.stat().st_size - before == 2 * PAGE


async def test_what_has_expired_is_purged_now_and_then(store, namespace, clock):
    """Rows that have expired do not stay for ever in a file that only single puts write to."""
    await store.put(namespace, Key("old"), Entry(b"x", None, int(clock()) + 60))
    store.watch.put_now(namespace, A, Entry(b"1"), None)
    clock.advance(61 + queries.PURGE_GRACE)
    for number in range(PURGE_EACH):
        store.watch.put_now(namespace, A, Entry(b"%d" % number), None)
    writer = store._connections._writer
    assert writer.execute("SELECT count(*) FROM keys").fetchone() == (1,)


@pytest.mark.parametrize("is_new", [False, True])
async def test_large_values_that_have_expired_hold_up_no_put(store, namespace, clock, is_new):
    """A put removes some MiB of values that have expired or lost their namespace, not hundreds of any size."""
    large, step = b"x" * (queries.PURGE_BYTES // 4), int(clock()) + 60
    gone = (await store.create_namespace("gone")).id
    for number in range(12):
        await store.put(namespace, Key(f"old{number}"), Entry(large, None, step))
        await store.put(gone, Key(f"{number}"), Entry(large))
    store.watch.put_now(namespace, A, Entry(b"1"), None)
    clock.advance(61 + queries.PURGE_GRACE)
    writer = store._connections._writer
    writer.execute("INSERT INTO dropped SELECT number FROM namespaces WHERE id = ?", (gone,))
    writer.execute("DELETE FROM namespaces WHERE id = ?", (gone,))
    counts = [_count(writer)]
    for number in range(10 if is_new else 10 * PURGE_EACH):
        store.watch.put_now(namespace, Key(f"new{number}") if is_new else A, Entry(b"1"), None)
        counts.append(_count(writer))
    removed = [before - after for before, after in pairwise(counts)]
    assert max(removed) == 2 * 4  # of each kind, all that fits
    assert counts[-1] == 1
    assert writer.execute("SELECT count(*) FROM dropped").fetchone() == (0,)


def _count(writer) -> int:
    return writer.execute("SELECT count(*) FROM keys WHERE hex(key) NOT LIKE '6E6577%'").fetchone()[0]


async def test_short_puts_in_a_row_tell_sqlite_nothing_anew(store, namespace):
    """That nothing is waited for is said once before many short puts, and again that it is, before another write."""
    statements: list[str] = []
    writer = store._connections._writer
    store.watch.put_now(namespace, A, Entry(b"1"), None)
    writer.set_trace_callback(statements.append)
    for _ in range(3):
        store.watch.put_now(namespace, A, Entry(b"2"), None)
    assert not [statement for statement in statements if "busy_timeout" in statement]
    assert writer.execute("PRAGMA busy_timeout").fetchone() == (0,)
    await store.put(namespace, A, Entry(b"3"))
    assert writer.execute("PRAGMA busy_timeout").fetchone() == (int(1000 * BUSY_SECONDS),)


def test_a_file_system_of_memory_is_recognized(tmp_path):
    """Only a file on a file system of memory needs no wait for a disk."""
    assert not is_in_memory(Path("/proc/self/status"))
    if Path("/dev/shm").is_mount():
        assert is_in_memory(Path("/dev/shm"))
