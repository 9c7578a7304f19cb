"""An fsync on a store of this machine ends in its time, whoever else has locked the store's file."""

import sqlite3
import threading
import time
from contextlib import closing, nullcontext

import pytest
import trio
import trio.testing
from support.journals import open_journal, put, stored

from kvfs.core.errors import TimedOutError, UnavailableError
from kvfs.core.model import Key
from kvfs.sender.events import SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.embedded.connections import Connections
from kvfs.store.embedded.sqlite_store import open_sqlite

TIMEOUT = 0.2  # seconds of an fsync here
LITTLE = 1.5  # seconds beyond it; SQLite by itself waits for five


@pytest.fixture
async def mount(tmp_path):
    """A sender at work on a real file, with two changes that wait; yield also how to send them with an fsync."""
    async with open_sqlite(tmp_path / "store.db") as store, trio.open_nursery() as nursery:
        namespace = (await store.create_namespace("ns")).id
        with open_journal(tmp_path / "journal.db") as journal:
            sender = Sender(journal, store, now=time.time, options=SenderOptions(host="host", delay=60))
            nursery.start_soon(sender.run)
            await trio.testing.wait_all_tasks_blocked()
            for name in "ab":
                put(journal, name, name.encode(), namespace=namespace)

            async def fsync(name, errors=(UnavailableError, TimedOutError)):
                began = trio.current_time()
                with pytest.raises(errors) if errors else nullcontext():
                    await sender.send_now([(namespace, Key(name))], TIMEOUT)
                return trio.current_time() - began

            async def end():
                await sender.drain()
                return sender.statistics().sent, await stored(store, namespace)

            yield fsync, end
            nursery.cancel_scope.cancel()


@pytest.fixture
def other(tmp_path, mount):
    """Another writer of the file, inside a transaction."""
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


async def test_it_waits_for_no_lock_longer_than_its_caller(mount, other):
    """It says that the store is busy, and afterwards everything is sent once."""
    fsync, end = mount
    assert await fsync("a") < TIMEOUT + LITTLE
    other.execute("ROLLBACK")
    sent, found = await end()
    assert sent == 2
    assert {key: entry.value for key, entry in found.items()} == {"a": b"a", "b": b"b"}


async def test_nor_do_several_that_wait_for_each_other(mount, other):
    """One waits for the lock, the other for its turn; a caller that shares a sending is not left behind with it."""
    fsync, end = mount
    took = []

    async def call(name):
        took.append(await fsync(name))

    async with trio.open_nursery() as nursery:
        for name in "aba":
            nursery.start_soon(call, name)
    assert max(took) < TIMEOUT + LITTLE
    other.execute("ROLLBACK")
    assert (await end())[0] == 2


async def test_a_commit_that_is_under_way_is_acknowledged_though_nobody_waits(mount, monkeypatch):
    """A caller that gives up meanwhile waits for the commit itself, so the value is not sent once more."""
    fsync, end = mount
    may_end, write = threading.Event(), Connections._write

    def slow(self, *args):
        done = write(self, *args)
        assert may_end.wait(30)
        return done

    monkeypatch.setattr(Connections, "_write", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fsync, "a", None)
        await trio.sleep(2 * TIMEOUT)
        may_end.set()
    assert (await end())[0] == 2
