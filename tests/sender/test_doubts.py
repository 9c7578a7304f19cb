"""Doubts: a key for which the server only answers errors waits alone, and the others go."""

import pytest
import trio
from support.journals import delete, keys, put

from kvfs.core.digest import digest
from kvfs.core.errors import UnavailableError
from kvfs.sender.events import OnConflict, SenderState


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def running(setting, nursery):
    """Start a sender's loop; it ends with the test."""

    def start(**options):
        sender = setting.sender(**options)
        nursery.start_soon(sender.run)
        return sender

    return start


@pytest.fixture
def broken(setting):
    """Let the server answer 500 to every request that names a key."""

    def broken(key, *operations):
        for operation in operations:
            setting.store.fail(
                operation, UnavailableError("HTTP 500", status=500), when=lambda call: key in call.keys
            )

    return broken


async def test_writes_of_one_key_that_fail_stop_no_others(autojump_clock, setting, write, broken, running):
    """After a body failed twice its halves are sent, and later saves of other keys do not wait for the bad one."""
    broken("k007", "bulk_put", "put")
    for number in range(1_000):
        write(f"k{number:03}")
    sender = running(delay=1.0)
    await trio.sleep(20)
    assert keys(setting.journal.pending()) == ["k007"]
    assert setting.store.count() < 40
    assert sum(len(call.keys) for call in setting.store.calls) < 5_500
    await trio.sleep(600)
    requests = setting.store.count()
    write("later")
    await trio.sleep(2)
    assert keys(setting.journal.pending()) == ["k007"]
    assert setting.store.count() <= requests + 3
    assert sender.statistics().state in (SenderState.IDLE, SenderState.SENDING)
    setting.store.clear()
    await trio.sleep(70)
    assert setting.journal.pending_count == 0


async def test_deletions_of_one_key_that_fail_stop_no_others(autojump_clock, setting, broken, running):
    """Failing deletions of one key do not stop others, as with writes."""
    broken("k07", "bulk_delete", "delete")
    for number in range(20):
        delete(setting.journal, f"k{number:02}", namespace=setting.namespace)
    running(delay=1.0)
    await trio.sleep(60)
    assert keys(setting.journal.pending()) == ["k07"]


async def test_a_key_that_cannot_be_compared_stops_no_others(autojump_clock, setting, write, broken, running):
    """A key whose reads fail for ever holds up none of the 19 that were asked for with it, nor later ones."""
    broken("k07", "bulk_get", "get")
    for number in range(20):
        write(f"k{number:02}", base=digest(b"read"))
    sender = running(delay=1.0, on_conflict=OnConflict.KEEP_BOTH)
    await trio.sleep(20)
    assert keys(setting.journal.pending()) == ["k07"]
    await trio.sleep(600)
    write("later", base=digest(b"read"))
    await trio.sleep(2)
    assert keys(setting.journal.pending()) == ["k07"]
    assert sender.statistics().state in (SenderState.IDLE, SenderState.SENDING)
    setting.store.clear()
    await trio.sleep(70)
    assert setting.journal.pending_count == 0


@pytest.mark.parametrize("base", [None, digest(b"read")])
async def test_a_service_that_answers_errors_is_not_asked_in_halves_for_ever(
    autojump_clock, setting, write, running, base
):
    """An hour of 500 for everything costs two requests a minute at most, where an outage costs one."""
    setting.store.fail("*", UnavailableError("HTTP 500", status=500))
    for number in range(1_000):
        write(f"k{number:03}", base=base)
    running(on_conflict=OnConflict.KEEP_BOTH)
    await trio.sleep(3_600)
    assert setting.store.count() < 120
    setting.store.clear()
    await trio.sleep(70)
    assert setting.journal.pending_count == 0
