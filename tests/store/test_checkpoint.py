"""Checkpoints of the embedded store's WAL: a thread writes it back later, and without them nothing is lost."""

import sqlite3
import threading

import pytest
import trio

from kvfs.core.model import Entry, Key
from kvfs.store.embedded import checkpoint
from kvfs.store.embedded.checkpoint import WORTH_BYTES, Checkpointer
from kvfs.store.embedded.sqlite_store import SqliteStore, open_sqlite

LARGE = Entry(bytes(range(256)) * (2 * WORTH_BYTES // 256))
SMALL = Entry(b"x" * 1000)


@pytest.fixture
def path(tmp_path):
    """Return the place of the store."""
    return tmp_path / "store.db"


@pytest.fixture
def idle(monkeypatch):
    """Return a checkpointer that is told nothing."""
    monkeypatch.setattr(Checkpointer, "note", lambda self, count: None)


async def until_written_back(store: SqliteStore, path, size: int) -> None:
    """Return when the file itself has so many bytes."""
    with trio.fail_after(60):
        while path.stat().st_size < size:
            await store.list_namespaces()


async def test_a_large_value_is_written_back_while_the_store_is_open(path):
    """The thread writes a large value back while the store is open, and then the WAL begins anew."""
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        await store.put(namespace, Key("a"), LARGE)
        await until_written_back(store, path, len(LARGE.value))


async def test_many_small_values_are_too(path):
    """Many small values are written back too, because rows count beside bytes, and so do deletions."""
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        keys = [Key(f"k{number:04}") for number in range(1000)]
        for _ in range(2):
            await store.bulk_put(namespace, dict.fromkeys(keys, SMALL))
        await until_written_back(store, path, 1000 * 1000)


async def test_no_commit_waits_for_it(path, idle):
    """A commit is answered with its content in the WAL alone."""
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        before = path.stat().st_size
        await store.put(namespace, Key("a"), LARGE)
        assert path.stat().st_size == before
        assert path.with_name("store.db-wal").stat().st_size > len(LARGE.value)


async def test_without_it_the_wal_has_a_bound_all_the_same(path, idle, monkeypatch):
    """Without the thread SQLite's own checkpoint comes when the WAL is long."""
    monkeypatch.setattr(
        "kvfs.store.embedded.schema._SETTINGS", ("synchronous = OFF", "wal_autocheckpoint = 2000")
    )
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        for number in range(6):
            await store.put(namespace, Key(f"k{number}"), LARGE)
        assert path.stat().st_size > 4 * len(LARGE.value)
        assert path.with_name("store.db-wal").stat().st_size < 4 * len(LARGE.value)


async def test_the_writer_waits_for_a_disk_that_cannot_keep_up(path, monkeypatch):
    """While a checkpoint goes on and the WAL cannot begin anew, the writer is held, and then does one itself."""
    gate, held, done = threading.Event(), threading.Event(), []
    original = Checkpointer._checkpoint

    def slow(self, length):
        if threading.current_thread() is self._thread:
            gate.wait(60)
        return original(self, length)

    def watched(condition):
        """Report when the writer waits."""
        wait_for = condition.wait_for

        def told(predicate):
            held.set()
            return wait_for(predicate)

        monkeypatch.setattr(condition, "wait_for", told)

    async def write():
        for number in range(10):
            await store.put(namespace, Key(f"k{number}"), LARGE)
            done.append(number)

    monkeypatch.setattr(checkpoint, "MOST_BYTES", 3 * len(LARGE.value))
    monkeypatch.setattr(Checkpointer, "_checkpoint", slow)
    wal = path.with_name("store.db-wal")
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        async with trio.open_nursery() as nursery:
            watched(store._connections._checkpointer._changed)
            nursery.start_soon(write)
            assert await trio.to_thread.run_sync(held.wait, 60)
            assert len(done) < 4
            assert wal.stat().st_size < 4 * len(LARGE.value)
            gate.set()
        assert len(done) == 10
        assert wal.stat().st_size < 6 * len(LARGE.value)  # two may come before it is known to be too long
        found = await store.bulk_get(namespace, [Key("k0"), Key("k9")])
    assert [*found.values()] == [LARGE, LARGE]


async def test_one_that_fails_harms_nothing(path, monkeypatch, caplog):
    """A checkpoint that fails is tried again with the next growth, and the end does not hang."""
    refused = []

    class Refusing(sqlite3.Connection):
        """A checkpointer whose disk is full."""

        def execute(self, statement):
            if "checkpoint" not in statement:
                return super().execute(statement)
            refused.append(statement)
            raise sqlite3.OperationalError("database or disk is full")

    caplog.set_level("DEBUG", "kvfs.store")
    monkeypatch.setattr(
        checkpoint,
        "connect",
        lambda path: sqlite3.connect(path, factory=Refusing, check_same_thread=False),
    )
    async with open_sqlite(path) as store:
        namespace = (await store.create_namespace("n")).id
        for count in (1, 2):
            await store.put(namespace, Key("a"), LARGE)
            with trio.fail_after(60):
                while len(refused) < count:
                    await store.list_namespaces()
    assert "no checkpoint: database or disk is full" in caplog.text
    async with open_sqlite(path) as store:
        assert (await store.bulk_get(namespace, [Key("a")]))[Key("a")] == LARGE


def page_size(path) -> int:
    """Return the page size in the file."""
    return int.from_bytes(path.read_bytes()[16:18], "big")


async def test_a_file_of_other_pages_stays_as_it_is(path, monkeypatch):
    """A store made before keeps its page size, and a new one has pages of 8 KiB."""
    with monkeypatch.context() as earlier:
        earlier.setattr("kvfs.store.embedded.schema._PAGE_BYTES", 4096)
        async with open_sqlite(path) as store:
            namespace = (await store.create_namespace("n")).id
            await store.put(namespace, Key("a"), LARGE)
    async with open_sqlite(path) as store:
        await store.put(namespace, Key("b"), SMALL)
        found = await store.bulk_get(namespace, [Key("a"), Key("b")])
    assert (page_size(path), [*found.values()]) == (4096, [LARGE, SMALL])
    async with open_sqlite(path.with_name("new.db")):
        pass
    assert page_size(path.with_name("new.db")) == 8192
