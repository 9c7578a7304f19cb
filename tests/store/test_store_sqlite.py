"""The embedded store beyond the contract: other processes, trouble, and costs."""

import sqlite3
from pathlib import Path

import pytest
import trio
from support.clock import Clock
from support.inline import open_inline
from trio.testing import wait_all_tasks_blocked

from kvfs.core.errors import (
    BodyTooLargeError,
    NamespaceNotFoundError,
    RejectedError,
    UnavailableError,
    UserError,
)
from kvfs.core.limits import NAMESPACES, VALUE_BYTES
from kvfs.core.model import Entry, Key, ValueRead
from kvfs.store.embedded import queries, schema
from kvfs.store.embedded import sqlite_store as store_module
from kvfs.store.embedded.sqlite_store import SqliteStore, open_sqlite

A = Key("a")


@pytest.fixture
def path(tmp_path) -> Path:
    """Return the place of the store."""
    return tmp_path / "store.db"


@pytest.fixture
def clock() -> Clock:
    """Return its clock."""
    return Clock()


@pytest.fixture
async def store(path, clock):
    """Yield an open store."""
    async with open_sqlite(path, now=clock) as store:
        yield store


@pytest.fixture
async def namespace(store):
    """Return a namespace in it."""
    return (await store.create_namespace("namespace")).id


def rows(path: Path, query: str) -> list:
    """Return the rows that another connection sees."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


# Several at a time.


async def test_two_daemons_share_a_file(path, store, namespace):
    """A mount and a server on one file see each other's writes at once, and simultaneous writes harm neither."""
    async with open_sqlite(path, now=Clock()) as other, trio.open_nursery() as nursery:
        await other.put(namespace, A, Entry(b"seen"))
        assert await store.get(namespace, A) == ValueRead(b"seen")

        async def write(through: SqliteStore, name: str) -> None:
            for number in range(50):
                await through.put(namespace, Key(f"{name}{number:02d}"), Entry(b"x" * number))

        nursery.start_soon(write, store, "one")
        nursery.start_soon(write, other, "two")

    assert len((await store.list_keys(namespace)).keys) == 101
    assert rows(path, "SELECT sum(size) FROM keys") == [(len(b"seen") + 2 * sum(range(50)),)]


async def test_readers_do_not_wait_for_a_writer(path, store, namespace):
    """A reader does not wait for another process in the middle of a transaction."""
    await store.put(namespace, A, Entry(b"old"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM keys")

    assert await store.get(namespace, A) == ValueRead(b"old")

    other.close()


async def test_a_file_that_stays_locked_is_unavailable(path, monkeypatch):
    """A file that stays locked is unavailable, and works when it is free."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(UnavailableError, match=f"the store {path} is busy"):
            await store.put(namespace, A, Entry(b""))

        other.close()
        await store.put(namespace, A, Entry(b""))


async def test_the_loop_runs_while_sqlite_waits_and_a_cancelled_write_leaves_order(path, store, namespace):
    """A write that waits for a lock blocks nobody; cancelled, it is done or not, and later ones work."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with trio.open_nursery() as nursery:
        for number in range(3):  # one in the thread, two waiting for it
            nursery.start_soon(store.put, namespace, Key(f"{number}"), Entry(b"x"))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        other.close()

    await store.put(namespace, A, Entry(b"after"))
    assert await store.get(namespace, A) == ValueRead(b"after")
    assert len((await store.list_keys(namespace)).keys) <= 2


async def test_many_readers_at_once(store, namespace):
    """More readers than connections take turns."""
    await store.put(namespace, A, Entry(b"x"))
    seen = []

    async def read() -> None:
        seen.append(await store.get(namespace, A))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(read)
    assert seen == [ValueRead(b"x")] * 50


async def test_accounts_do_not_see_each_other(store, namespace):
    """Each account has namespaces and titles of its own, and another's id is unknown in it."""
    other = store.accounts.for_account("other")
    await other.create_namespace("namespace")
    await store.put(namespace, A, Entry(b"mine"))

    assert namespace not in {found.id for found in await other.list_namespaces()}
    with pytest.raises(NamespaceNotFoundError):
        await other.get(namespace, A)
    with pytest.raises(NamespaceNotFoundError):
        await other.delete_namespace(namespace)
    assert await store.get(namespace, A) == ValueRead(b"mine")


async def test_an_account_has_its_limit_of_namespaces(path):
    """The 1,001st namespace of an account is rejected."""
    with open_inline(path) as store:
        for number in range(NAMESPACES):
            await store.create_namespace(f"{number}")
        with pytest.raises(RejectedError):
            await store.create_namespace("one more")
        await store.accounts.for_account("other").create_namespace("one more")


# Trouble.


async def test_a_full_disk_is_unavailable_and_changes_nothing(store, namespace):
    """On a full disk a write is unavailable and the entry before stays whole; with room again it succeeds."""
    await store.put(namespace, A, Entry(b"old", b"1"))
    writer = store._connections._writer  # a real limit of the real file, without a real full disk
    room = writer.execute("PRAGMA max_page_count").fetchone()[0]
    writer.execute("PRAGMA max_page_count = 20")

    with pytest.raises(UnavailableError, match="no room left"):
        await store.put(namespace, A, Entry(bytes(1_000_000)))

    assert await store.bulk_get(namespace, [A]) == {A: Entry(b"old", b"1")}
    writer.execute(f"PRAGMA max_page_count = {room}")
    await store.put(namespace, A, Entry(bytes(1_000_000)))


async def test_a_damaged_file_says_so(path):
    """A damaged file gives an error with its name and the way out, without SQLite's traceback or wrong bytes."""
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        await store.bulk_put(namespace, {Key(f"{n}"): Entry(bytes(500)) for n in range(500)})
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * (path.stat().st_size - 4096))

    with pytest.raises((UnavailableError, UserError), match=f"{path}.*(damaged|malformed)"):
        async with open_sqlite(path) as store:
            await store.list_keys(namespace)


async def test_a_bulk_get_of_too_much_is_refused(store, namespace):
    """A bulk get above 25 MiB is refused as a whole, and a single value of that size is still answered."""
    with pytest.raises(RejectedError):
        await store.bulk_get(namespace, [])
    await store.put(namespace, A, Entry(bytes(VALUE_BYTES)))
    await store.put(namespace, Key("b"), Entry(b"x"))

    with pytest.raises(BodyTooLargeError):
        await store.bulk_get(namespace, [A, Key("b")])
    entry = (await store.bulk_get(namespace, [A]))[A]
    assert entry is not None
    assert len(entry.value) == VALUE_BYTES


# Costs.


def plan(path: Path, query: str, **parameters) -> str:
    """Return SQLite's plan for a query."""
    connection = sqlite3.connect(path)
    lines = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
    connection.close()
    return "; ".join(line[3] for line in lines)


async def test_a_listing_reads_no_values_and_sorts_nothing(path, store):
    """A page of a listing costs its keys, however many there are and however large their values."""
    parameters = dict.fromkeys(("number", "first", "beyond", "limit", "now"))
    assert plan(path, queries.LIST_KEYS, **parameters) == (
        "SEARCH keys USING PRIMARY KEY (namespace=? AND key>? AND key<?)"
    )
    query = queries.EXPIRED.replace("?", "1")
    assert plan(path, query) == "SEARCH keys USING INDEX keys_expiring (expiration<?)"


async def test_a_value_replaced_or_deleted_leaves_nothing(path, store, namespace):
    """A key has one content always, also after it was replaced or deleted."""
    for value in (b"1", b"22", b"333"):
        await store.bulk_put(namespace, {A: Entry(value), Key("b"): Entry(value)})
    await store.delete(namespace, A)

    assert rows(path, "SELECT size, value FROM keys JOIN contents ON content = id") == [(3, b"333")]
    assert rows(path, "SELECT count(*) FROM contents") == [(1,)]


async def test_expired_keys_are_purged_by_later_writes(path, store, namespace, clock):
    """Expired keys are purged by later writes and not at once, so a clock that jumps ahead and back only hides them."""
    soon = int(clock()) + 60
    await store.bulk_put(namespace, {Key(f"{n}"): Entry(b"x", None, soon) for n in range(300)})

    clock.advance(61)
    await store.put(namespace, A, Entry(b""))
    assert rows(path, "SELECT count(*) FROM contents") == [(301,)]
    clock.advance(-10)
    assert len((await store.list_keys(namespace)).keys) == 301

    clock.advance(10 + queries.PURGE_GRACE)
    await store.put(namespace, A, Entry(b""))
    assert rows(path, "SELECT count(*) FROM contents") == [(101,)]
    await store.delete(namespace, A)
    assert rows(path, "SELECT count(*) FROM contents") == [(0,)]


async def test_a_large_namespace_is_deleted_at_once_and_swept_in_bites(path, store, namespace, monkeypatch):
    """A large namespace is deleted at once, and later writes remove its rows in proportion."""
    await store.bulk_put(namespace, {Key(f"{n:04d}"): Entry(b"x") for n in range(1000)})
    monkeypatch.setattr(store_module, "SWEEP_KEYS", 100)
    monkeypatch.setattr(store_module, "SWEEP_BITES", 3)

    await store.delete_namespace(namespace)

    with pytest.raises(NamespaceNotFoundError):
        await store.list_keys(namespace)
    assert rows(path, "SELECT count(*) FROM contents") == [(700,)]
    again = (await store.create_namespace("namespace")).id
    assert (await store.list_keys(again)).keys == ()
    await store.bulk_put(again, {Key(f"{n}"): Entry(b"new") for n in range(400)})
    assert rows(path, "SELECT count(*) FROM contents") == [(300 + 400,)]
    for _ in range(3):
        await store.put(again, A, Entry(b"new"))
    assert rows(path, "SELECT count(*) FROM contents") == [(401,)]
    assert rows(path, "SELECT * FROM dropped") == []
    assert rows(path, "SELECT count(*), sum(size) FROM keys") == [(401, 401 * 3)]
