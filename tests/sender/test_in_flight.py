"""Requests in flight: one goes on when its caller gives up, and nothing is sent beside it."""

import pytest
import trio
import trio.testing
from support.journals import put, stored

from kvfs.core.errors import TimedOutError
from kvfs.core.model import Entry, Key
from kvfs.sender.outcome import Outcome


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def running(setting, nursery):
    """Start a sender whose loop runs; return its options."""

    async def running(**options):
        sender = setting.sender(**options)
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        return sender

    return running


async def test_an_fsync_that_gave_up_leaves_its_request_under_way(autojump_clock, setting, write, running):
    """An answer after the bound of its fsync still counts: the change has arrived, and was sent once."""
    setting.store.delay("bulk_put", 50)
    sender = await running(delay=1)
    write("a")
    with pytest.raises(TimedOutError, match="10 s"):
        await sender.send_now([(setting.namespace, Key("a"))], 10)
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    await sender.send_now([(setting.namespace, Key("a"))], 60)
    assert trio.current_time() == pytest.approx(50, abs=0.1)
    await trio.sleep(100)
    assert setting.store.count("bulk_put") == 1
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"value")}


async def test_a_drain_that_gave_up_leaves_its_request_under_way(autojump_clock, setting, write, running):
    """After `kvfs sync --timeout` gave up the bulk write goes on, and the loop sends nothing beside it."""
    setting.store.delay("bulk_put", 50)
    sender = await running(delay=10)
    write("a")
    with trio.move_on_after(5):
        await sender.drain()
    await trio.sleep(100)
    assert setting.store.count("bulk_put") == 1
    assert setting.journal.pending_count == 0


async def test_an_fsync_does_not_wait_for_a_long_bulk_write(autojump_clock, setting, write, running):
    """A caller for another key is sent beside a bulk write that takes 20 s for a thousand pairs."""
    setting.store.delay("bulk_put", 20, when=lambda call: len(call.keys) == 100)
    sender = await running(delay=1)
    for number in range(100):
        write(f"k{number}")
    await trio.sleep(1.5)
    write("a")
    started = trio.current_time()
    await sender.send_now([(setting.namespace, Key("a"))], 10)
    assert trio.current_time() - started < 0.1
    await sender.send_now([(setting.namespace, Key("k7"))], 30)
    assert trio.current_time() == pytest.approx(21, abs=0.2)
    assert [len(call.keys) for call in setting.store.calls] == [100, 1]


async def test_a_newer_value_waits_for_the_older_one_under_way(autojump_clock, setting, write, running):
    """A newer value waits for the older one under way, because two bodies with one key may land in either order."""
    setting.store.delay("bulk_put", 20, on=1)
    sender = await running(delay=1)
    write("a", b"old")
    await trio.sleep(1.5)
    write("a", b"new")
    await sender.send_now([(setting.namespace, Key("a"))], 60)
    assert trio.current_time() == pytest.approx(21, abs=0.2)
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"new")}


async def test_an_fsync_that_is_not_answered_holds_up_no_other(autojump_clock, setting, write, running):
    """Callers share the sending after the one under way, and pass one that takes longer than a moment."""
    gate = setting.store.block("bulk_put", when=lambda call: "stuck" in call.keys)
    sender = await running(delay=1_000)

    async def fails():
        with pytest.raises(TimedOutError):
            await sender.send_now([(setting.namespace, Key("stuck"))], 30)

    write("stuck")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        await gate.entered.wait()
        write("a")
        started = trio.current_time()
        await sender.send_now([(setting.namespace, Key("a"))], 10)
        assert trio.current_time() - started < 3
    gate.open()


async def test_a_drain_waits_for_what_an_fsync_sends(autojump_clock, setting, write, running):
    """A drain waits for what an fsync sends, because something is under way."""
    setting.store.delay("bulk_put", 20)
    sender = await running(delay=1_000)
    write("a")
    with pytest.raises(TimedOutError):
        await sender.send_now([(setting.namespace, Key("a"))], 1)
    result = await sender.drain()
    assert (result.left, setting.store.count("bulk_put")) == (0, 1)


async def test_a_key_that_is_given_back_while_the_loop_looks_is_sent(autojump_clock, setting, monkeypatch):
    """A key that the loop passed over is sent by it though it was given back before its look had ended."""
    sender = setting.sender()
    rounds, send = sender._round, sender._round.send
    put(setting.journal, "a", b"1", namespace=setting.namespace)
    (change,) = setting.journal.pending()
    rounds.claim([change])  # as an fsync does, whose caller then gives up

    async def given_back(changes, **options):
        if rounds.is_claimed(change) and not changes:
            rounds.release([change])
            sender._dispatch.tell([change], Outcome())
        return await send(changes, **options)

    monkeypatch.setattr(rounds, "send", given_back)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"1")}
