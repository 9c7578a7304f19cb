"""Quotas of the day: by operation, with smaller bodies tried before midnight is waited for, and one event."""

import pytest
import trio
from support.journals import START, delete, keys, put, stored

from kvfs.core.digest import digest
from kvfs.core.errors import QuotaError, UnavailableError
from kvfs.core.model import Entry, Key
from kvfs.sender.events import EventKind, OnConflict, SenderState

USED_UP = QuotaError("free usage limit", code=10048, status=429)


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def allow(setting):
    """Let an operation do only so many keys; a body larger than the rest is refused as a whole."""

    def allow(operation, left):
        def is_too_much(call):
            nonlocal left
            if len(call.keys) > left:
                return True
            left -= len(call.keys)
            return False

        setting.store.fail(operation, USED_UP, when=is_too_much)

    return allow


async def test_used_up_writes_hold_back_no_deletions(autojump_clock, setting, write, nursery):
    """Used-up writes hold back neither deletions nor reads, which are other allowances."""
    for name in "abc":
        await setting.backend.put(setting.namespace, Key(name), Entry(b"1"))
    setting.store.fail("bulk_put", USED_UP)
    sender = setting.sender()
    nursery.start_soon(sender.run)
    write("new")
    await trio.sleep(10)
    for name in "abc":
        delete(setting.journal, name, namespace=setting.namespace)
    await trio.sleep(60)
    assert await stored(setting.backend, setting.namespace) == {}
    assert keys(setting.journal.pending()) == ["new"]
    assert setting.happened() == [EventKind.QUOTA]
    assert setting.store.count("bulk_put") == 1
    assert sender.statistics().state is SenderState.QUOTA


async def test_used_up_deletions_hold_back_no_writes(autojump_clock, setting, write, nursery):
    """Used-up deletions hold back no writes, and go at 00:00 UTC, with an event."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    setting.store.fail("bulk_delete", USED_UP, times=1)
    nursery.start_soon(setting.sender().run)
    delete(setting.journal, "old", namespace=setting.namespace)
    await trio.sleep(10)
    write("new")
    await trio.sleep(10)
    assert list(await stored(setting.backend, setting.namespace)) == ["new", "old"]
    await trio.sleep(86_400 - START % 86_400 + 61)
    assert list(await stored(setting.backend, setting.namespace)) == ["new"]
    assert setting.happened() == [EventKind.QUOTA, EventKind.RECOVERED]
    assert setting.store.count("bulk_delete") == 2


async def test_used_up_reads_hold_back_only_what_has_to_read_first(autojump_clock, setting, write):
    """Used-up reads hold back an edit, which has to be compared, and no value that was never read."""
    await setting.backend.put(setting.namespace, Key("edited"), Entry(b"read"))
    setting.store.fail("bulk_get", USED_UP)
    write("edited", b"mine", base=digest(b"read"))
    write("unread", base=None)
    result = await setting.sender(on_conflict=OnConflict.KEEP_BOTH).drain()
    assert (result.sent, result.left, result.error) == (1, 1, "free usage limit")
    assert keys(setting.journal.pending()) == ["edited"]


async def test_used_up_lists_hold_back_nothing(autojump_clock, setting, write):
    """With used-up lists many new names are compared by reading instead."""
    setting.store.fail("list_keys", USED_UP)
    for number in range(150):
        write(f"k{number:03}", base=b"")
    result = await setting.sender(on_conflict=OnConflict.KEEP_BOTH).drain()
    assert (result.sent, result.left) == (150, 0)
    assert setting.store.count("bulk_get") == 2


@pytest.mark.parametrize("left", [0, 1, 300, 999])
async def test_a_body_larger_than_what_is_left_is_tried_smaller(autojump_clock, setting, write, allow, left):
    """A body larger than the rest of the day is tried smaller, so the allowance is used in a few requests."""
    allow("bulk_put", left)
    for number in range(1_000):
        write(f"k{number:03}")
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (left, 1_000 - left)
    assert setting.store.count("bulk_put") <= 2 * 10 + 2
    assert setting.happened() == [EventKind.QUOTA]


async def test_a_drain_tries_once_whatever_the_clock_says(autojump_clock, setting, write):
    """A drain tries once whatever the clock says, because the plan may have been changed meanwhile."""
    setting.store.fail("bulk_put", USED_UP, times=1)
    sender = setting.sender()
    write("a")
    result = await sender.drain()
    assert (result.sent, result.error) == (0, "free usage limit")
    result = await sender.drain()
    assert (result.sent, result.error) == (1, None)


async def test_an_fsync_fails_at_once_while_it_is_used_up(autojump_clock, setting, write):
    """With a used-up quota fsync gives EDQUOT at once, without a request, but not for another allowance."""
    setting.store.fail("bulk_put", USED_UP)
    sender = setting.sender()
    write("a")
    for _ in range(3):
        with pytest.raises(QuotaError):
            await sender.send_now([(setting.namespace, Key("a"))], 10)
    assert setting.store.count() == 1
    assert trio.current_time() < 1


async def test_another_failure_meanwhile_is_told_as_well(autojump_clock, setting, write, nursery):
    """A used-up quota does not hide that the store is away."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    setting.store.fail("bulk_put", USED_UP)
    setting.store.fail("bulk_delete", UnavailableError("away"))
    sender = setting.sender()
    nursery.start_soon(sender.run)
    delete(setting.journal, "old", namespace=setting.namespace)
    write("new")
    await trio.sleep(60)
    assert sender.statistics().state is SenderState.UNAVAILABLE
    assert setting.happened() == [EventKind.QUOTA, EventKind.UNAVAILABLE]
