"""Renames of directories of thousands of keys: their cost, their messages, and their longest time."""

import logging

import pytest
import trio

from kvfs.core.errors import TimedOutError, UnavailableError
from kvfs.core.model import Entry, Key

COUNT = 12_000


async def fill(mount, count):
    """Make so many keys in `d`, some of them deeper."""
    entries = {Key(f"d/{number % 7}/{number:05}"): Entry(b"%d" % number) for number in range(count)}
    for start in range(0, count, 10_000):
        some = list(entries.items())[start : start + 10_000]
        await mount.backend.bulk_put(mount.namespace, dict(some))
    return entries


def moved(entries):
    """Return the expected keys under `e`."""
    return {"e" + key[1:]: entry.value for key, entry in entries.items()}


async def test_thousands_of_keys_move_in_bulk_puts_before_deletes(mount, kernel):
    """Thousands of keys are read by the hundred, recorded at once, and sent, puts first, in bodies that grow."""
    entries = await fill(mount, COUNT)
    before = mount.journal.news.generation.number
    mount.store.calls.clear()
    await kernel.rename("/ns/d", "/ns/e")
    assert mount.journal.news.generation.number == before + 1
    counted = {name: mount.store.count(name) for name in ("list_keys", "bulk_get", "get")}
    assert counted == {"list_keys": 1 + COUNT // 1000, "bulk_get": COUNT // 100, "get": 0}
    mount.store.calls.clear()
    await mount.drain()
    put: set[str] = set()
    for call in mount.store.calls:
        if call.operation == "bulk_delete":
            assert {"e" + key[1:] for key in call.keys} <= put
        put |= set(call.keys)
    assert {call.operation for call in mount.store.calls} == {"bulk_put", "bulk_delete"}
    assert mount.store.count("bulk_put") <= 5
    assert mount.store.count("bulk_delete") <= 5
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == moved(entries)


async def test_a_slow_store_may_take_long_as_long_as_values_arrive(autojump_clock, mount, kernel, caplog):
    """A rename on a slow store may take longer than the bound of a call as long as values arrive.

    Log and status show the progress.
    """
    caplog.set_level(logging.INFO, logger="kvfs.vfs")
    entries = await fill(mount, 3000)
    mount.store.delay("list_keys", 20)
    mount.store.delay("bulk_get", 30)
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.rename, "/ns/d", "/ns/e")
        for _ in range(20):
            await trio.sleep(15)
            for one in mount.fs.renames.under_way:
                seen.append((one.directories[1].prefix, one.directories[2].prefix, one.done_count, one.total))
    assert ("d/", "e/", 0, 0) in seen, "its keys are listed"
    assert any(0 < done < total == 3000 for _, _, done, total in seen)
    assert mount.fs.renames.under_way == []
    assert any(" of 3000 values read" in line for line in caplog.messages)
    mount.store.clear()
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == moved(entries)


async def test_a_store_that_stops_answering_ends_the_rename_with_nothing_renamed(
    autojump_clock, mount, kernel
):
    """A rename gives ETIMEDOUT if the store stops answering, and every key has its old name."""
    entries = await fill(mount, 3000)
    mount.store.block("bulk_get", when=lambda call: call.number > 10)
    with pytest.raises(TimedOutError):
        await kernel.rename("/ns/d", "/ns/e")
    mount.store.clear()
    assert mount.journal.pending_count == 0
    assert set(await mount.stored()) == set(entries)


async def test_one_value_that_cannot_be_had_stops_the_whole_rename(autojump_clock, mount, kernel):
    """One value that cannot be read stops the whole rename, which is all or nothing."""
    entries = await fill(mount, 3000)
    bad = sorted(entries)[700]
    for operation in ("bulk_get", "get"):
        mount.store.fail(operation, when=lambda call: bad in call.keys)
    with pytest.raises(UnavailableError):
        await kernel.rename("/ns/d", "/ns/e")
    assert mount.journal.pending_count == 0
    mount.store.clear()
    await trio.sleep(60)  # values that failed are not asked for again at once
    await kernel.rename("/ns/d", "/ns/e")
    assert await kernel.listdir("/ns") == ["e"]
