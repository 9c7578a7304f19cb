"""A store on this machine takes a single put at once: the short way of fsync, and what is left to the general one."""

import sqlite3
import time

import pytest
import trio
import trio.testing
from support.inline import open_inline
from support.journals import START, delete, failing_disk, put, simulated_now, stored

from kvfs.core.digest import INLINE_BYTES, digest
from kvfs.core.errors import UnavailableError
from kvfs.core.model import ChangeState, Entry, Key
from kvfs.journal.writer import Move
from kvfs.sender.events import OnConflict
from kvfs.sender.sender import Sender
from kvfs.vfs.answers import answered

ON_CONFLICT = OnConflict.KEEP_BOTH  # for the fixture `setting`
A, B = Key("a"), Key("b")


@pytest.fixture(params=["memory", "disk"])
def sender(setting, request) -> Sender:
    """Return a sender on the embedded store itself, which lies in memory or seems to lie on a disk."""
    setting.store = setting.backend
    setting.backend._connections.is_in_memory = request.param == "memory"
    return setting.sender()


@pytest.fixture
def at_once(setting, sender):
    """Return whether the store has a key now, without the general way."""

    async def at_once(key: str) -> bool:
        return await answered(sender.send_at_once((setting.namespace, Key(key))))

    return at_once


@pytest.fixture
def written(setting, sender, at_once):
    """Record a put over what was read, and send it the general way where it is the first of its name."""

    def written(key: str, value: bytes, read: bytes = b"", **options) -> int:
        base = digest(read) if read else b""
        return put(setting.journal, key, value, namespace=setting.namespace, base=base, **options)

    return written


async def sent_before(setting, sender, written) -> None:
    """Have a key in the store that was written here, so that nobody has to be asked for it."""
    written("a", b"1")
    await sender.drain()
    assert setting.journal.get(setting.namespace, A).state is ChangeState.SETTLING


def held_disk(setting, monkeypatch, error: Exception | None = None) -> tuple[trio.Event, trio.Event]:
    """Have the short way wait for its disk, which then writes or fails; return its arrival, and what lets it go on."""
    entered, opened = trio.Event(), trio.Event()
    connections = type(setting.backend._connections)
    method = connections.write_soon

    async def held(self, *args):
        entered.set()
        await opened.wait()
        if error is not None:
            raise error
        await method(self, *args)

    monkeypatch.setattr(connections, "write_soon", held)
    return entered, opened


async def test_a_put_is_written_and_acknowledged(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """A put of a name that was written here is at the store, acknowledged and counted, and no bulk write was made."""
    await sent_before(setting, sender, written)
    monkeypatch.delattr(type(setting.backend), "bulk_put")
    seq = written("a", b"2", b"1", metadata=b'{"m": 1}')
    assert await at_once("a")
    change = setting.journal.get(setting.namespace, A)
    assert (change.seq, change.state, change.attempted) == (seq, ChangeState.SETTLING, True)
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2", b'{"m": 1}')}
    assert (sender.statistics().sent, sender.pending_count()) == (2, 0)
    assert not await at_once("a"), "there is nothing more to send"


async def test_it_is_noted_as_attempted_before_it_leaves(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """The put is noted as attempted before the store has it: so a crash between the two leaves no key behind."""
    await sent_before(setting, sender, written)
    watch, noted = type(setting.backend.watch), []
    method = watch._put

    def told(self, namespace, key, entry):
        noted.append(setting.journal.get(namespace, key).attempted)
        return method(self, namespace, key, entry)

    monkeypatch.setattr(watch, "_put", told)
    written("a", b"2", b"1")
    assert await at_once("a")
    assert noted == [True]


@pytest.mark.parametrize("why", ["new", "tombstone", "large", "expiring", "awaited", "local"])
async def test_what_needs_more_is_left_to_the_general_way(
    autojump_clock, setting, sender, written, at_once, why
):
    """Left alone: a name to compare, a deletion, a large value, an expiration, a new name of a rename, a local file."""
    await sent_before(setting, sender, written)
    before, key = await stored(setting.backend, setting.namespace), "a"
    if why == "new":
        written(key := "b", b"2")
    elif why == "tombstone":
        delete(setting.journal, "a", namespace=setting.namespace)
    elif why == "large":
        written("a", bytes(INLINE_BYTES + 1), b"1")
    elif why == "expiring":
        written("a", b"2", b"1", expiration=int(START) + 1000)
    elif why == "awaited":
        written("b", b"1")
        await sender.drain()
        before = await stored(setting.backend, setting.namespace)
        written("a", b"2", b"1")
        setting.journal.move(setting.namespace, [Move(A, B, None, None, base_new=digest(b"1"))])
        key = "b"
    elif why == "local":
        written(key := ".l", b"2", local=True)
    assert not await at_once(key)
    assert await stored(setting.backend, setting.namespace) == before
    if why != "local":
        await sender.send_now([(setting.namespace, Key(key))], timeout=5)
        assert sender.pending_count() == (1 if why == "awaited" else 0)


async def test_after_a_failure_the_general_way_decides(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """After a failed sending nothing goes the short way until the store has taken something."""
    await sent_before(setting, sender, written)

    async def failing(self, *args, **options):
        raise UnavailableError("no")

    with monkeypatch.context() as patched:
        patched.setattr(type(setting.backend), "bulk_put", failing)
        written("a", b"2", b"1")
        await sender.send_once()
    assert not await at_once("a")
    await sender.send_now([(setting.namespace, A)], timeout=60)
    written("a", b"3", b"2")
    assert await at_once("a")


async def test_what_somebody_else_wrote_is_compared_first(
    autojump_clock, setting, sender, written, at_once, tmp_path
):
    """After another process's write nothing is written unseen, however the two meet."""
    await sent_before(setting, sender, written)
    written("a", b"2", b"1")
    with open_inline(tmp_path / "store.db", now=simulated_now) as other:
        await other.put(setting.namespace, A, Entry(b"theirs"))
    assert not await at_once("a")
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"theirs")}
    await sender.send_now([(setting.namespace, A)], timeout=5)
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"2", b"theirs"]


async def test_another_process_that_is_writing_is_not_waited_for(setting, sender, written, at_once, tmp_path):
    """While another process holds the store, the short way gives up at once: nothing is changed or counted."""
    await sent_before(setting, sender, written)
    written("a", b"2", b"1")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began, requests = time.monotonic(), sender.statistics().requests
    assert not await at_once("a")
    assert time.monotonic() - began < 1
    assert sender.statistics().requests == requests
    assert setting.journal.get(setting.namespace, A).state is ChangeState.PENDING
    other.close()
    assert await at_once("a")


async def test_a_journal_that_cannot_note_it_sends_nothing(autojump_clock, setting, sender, written, at_once):
    """A journal that cannot note the attempt sends nothing; one that cannot acknowledge has it sent again."""
    await sent_before(setting, sender, written)
    written("a", b"2", b"1")
    with failing_disk(5):
        assert not await at_once("a")
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"1")}
    setting.journal.mark_attempted([setting.journal.get(setting.namespace, A).seq])
    with failing_disk(5):
        assert not await at_once("a")
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2")}
    assert setting.journal.get(setting.namespace, A).state is ChangeState.PENDING
    assert await at_once("a")


async def test_who_waits_for_the_key_learns_it(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """An fsync that waits for its turn behind a long one ends as soon as another one's put of the key has arrived."""
    await sent_before(setting, sender, written)
    opened, method = trio.Event(), type(setting.backend).bulk_put

    async def slow(self, *args, **options):
        await opened.wait()
        return await method(self, *args, **options)

    monkeypatch.setattr(type(setting.backend), "bulk_put", slow)
    written("b", b"1")
    written("a", b"2", b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_now, [(setting.namespace, B)], 5)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(sender.send_now, [(setting.namespace, A)], 5)
            await trio.testing.wait_all_tasks_blocked()
            assert await at_once("a")
        assert trio.current_time() < 1
        opened.set()


@pytest.mark.parametrize("sender", ["disk"], indirect=True)
async def test_one_body_with_a_key_is_on_its_way_at_a_time(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """While a disk is waited for the key is claimed; a newer change of it stays pending when the older arrived."""
    await sent_before(setting, sender, written)
    entered, opened = held_disk(setting, monkeypatch)
    first = written("a", b"2", b"1")
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 60
        nursery.start_soon(at_once, "a")
        await entered.wait()
        assert sender.is_in_flight(setting.journal.get(setting.namespace, A))
        second = written("a", b"3", b"2")
        assert not await at_once("a")
        assert await sender.send_once() == 0
        opened.set()
    change = setting.journal.get(setting.namespace, A)
    assert first < second == change.seq
    assert change.state is ChangeState.PENDING
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2")}
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"3")}


async def test_the_loop_sleeps_while_a_database_commits(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """Fsyncs do not wake the sender's loop; what is not fsynced goes in its time, and what was sent settles."""
    await sent_before(setting, sender, written)
    looks, method = [], Sender.settle_due

    async def counted(self, **options):
        looks.append(trio.current_time())
        return await method(self, **options)

    monkeypatch.setattr(Sender, "settle_due", counted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(1)
        looks.clear()
        for number in range(2, 50):
            written("a", b"%d" % number, b"%d" % (number - 1))
            assert await at_once("a")
            await trio.sleep(0.01)
        assert len(looks) <= 1
        written("a", b"the last", b"49")
        await trio.sleep(6)
        assert await stored(setting.backend, setting.namespace) == {A: Entry(b"the last")}
        await trio.sleep(200)
        assert setting.journal.get(setting.namespace, A) is None
        nursery.cancel_scope.cancel()


async def test_what_a_command_wrote_settles_in_its_time(autojump_clock, setting):
    """A command's write beside the mount settles in its time, also while a change waits for a long write-back."""
    sender, journal = setting.sender(delay=600, settle_window=1), setting.journal
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(1)
        put(journal, "a", b"1", namespace=setting.namespace)
        await trio.sleep(5)
        body, now = journal.stage(b"2"), simulated_now()
        journal.writer.adopt(
            setting.namespace, B, body, metadata=None, expiration=None, attrs=None, before=now
        )
        assert journal.get(setting.namespace, B) is not None
        await trio.sleep(5)
        assert journal.get(setting.namespace, B) is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sender", ["disk"], indirect=True)
async def test_who_left_the_key_to_it_looks_again_when_it_failed(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """Others send the key at once where the disk failed after a while and the caller of the short way has given up."""
    await sent_before(setting, sender, written)
    entered, opened = held_disk(setting, monkeypatch, UnavailableError("its disk reports an error"))
    written("a", b"2", b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_once, "a")  # its caller has no time left after it
        await entered.wait()
        assert await sender.send_once() == 0
        began = trio.current_time()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(sender.send_now, [(setting.namespace, A)], 30)
            await trio.testing.wait_all_tasks_blocked()
            opened.set()
        assert trio.current_time() - began < 1
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2")}


@pytest.mark.parametrize("sender", ["disk"], indirect=True)
async def test_what_failed_at_once_is_sent_without_a_new_change(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """The loop passes over a key that an fsync writes at the moment; when that failed, it sends the key itself."""
    await sent_before(setting, sender, written)
    entered, opened = held_disk(setting, monkeypatch, UnavailableError("its disk reports an error"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(1)
        written("a", b"2", b"1")
        nursery.start_soon(at_once, "a")  # its caller has no time left after it
        await entered.wait()
        await trio.sleep(10)  # the loop has looked meanwhile
        opened.set()
        await trio.sleep(60)
        assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2")}
        nursery.cancel_scope.cancel()


async def test_a_long_write_back_does_not_put_off_what_is_old_enough(autojump_clock, setting, written):
    """With a `--write-back` above the greatest age a change goes at that age, though the loop sleeps until later."""
    sender = setting.sender(delay=600, max_age=30, settle_window=90)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.lowlevel.checkpoint()
        await sent_before(setting, sender, written)
        written("a", b"2", b"1")
        assert await answered(sender.send_at_once((setting.namespace, A)))
        await trio.sleep(40)  # the loop sleeps until that has settled
        written("b", b"1")
        await trio.sleep(32)
        assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2"), B: Entry(b"1")}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sender", ["disk"], indirect=True)
async def test_who_waits_for_what_arrived_does_not_wait_for_a_newer_change(
    autojump_clock, setting, sender, written, at_once, monkeypatch
):
    """Fsyncs of a content end when it has arrived, also if the store does not take a newer one recorded meanwhile."""
    await sent_before(setting, sender, written)
    entered, opened = held_disk(setting, monkeypatch)

    async def failing(self, *args, **options):
        raise UnavailableError("no")

    monkeypatch.setattr(type(setting.backend), "bulk_put", failing)
    written("a", b"2", b"1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_once, "a")
        await entered.wait()
        nursery.start_soon(sender.send_now, [(setting.namespace, A)], 5)
        await trio.testing.wait_all_tasks_blocked()
        written("a", b"3", b"2")
        opened.set()
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"2")}
