"""Own changes: a mount never takes one for another client's, however late the store answers."""

import os
import random

import pytest
import trio
from support.clock import Clock
from support.rig import open_rig

from kvfs.sender.events import EventKind

HELD = ["truncated", "made anew"]
NAMES = [f"ns/{number}" for number in range(3)]


@pytest.fixture
async def mount(tmp_path):
    """Yield a mount that keeps both versions; `settle` drops what was sent."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="keep-both") as rig:
        yield rig


async def opened(kernel, way):
    """Open `f` for writing, without having read it, while a change of it waits to be sent."""
    await kernel.write("ns/f", b"first")
    if way == "made anew":
        await kernel.unlink("ns/f")
        await kernel.write("ns/f", b"second")
    return await kernel.open("ns/f", os.O_WRONLY | os.O_TRUNC)


@pytest.mark.parametrize("way", HELD)
async def test_a_change_that_settles_while_the_file_is_open_is_ours(mount, kernel, autojump_clock, way):
    """A change that was sent and settled while `job > f` had the file open is our own, and no conflict."""
    await mount.other("f", b"read")
    await kernel.read("ns/f")
    file = await opened(kernel, way)
    await mount.drain()
    assert mount.journal.get(mount.namespace, "f") is None
    await kernel.pwrite(file, 0, b"mine")
    await kernel.close(file)
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {"f": b"mine"}
    assert mount.events == []


@pytest.mark.parametrize("way", HELD)
async def test_another_client_is_found_while_the_file_is_open(mount, kernel, autojump_clock, way):
    """Another client's write to an open file, after the sent change has settled, is found, and both are kept."""
    await mount.other("f", b"read")
    await kernel.read("ns/f")
    file = await opened(kernel, way)
    await mount.drain()
    await mount.other("f", b"theirs")
    await kernel.pwrite(file, 0, b"mine")
    await kernel.close(file)
    await mount.drain()
    found = {key: entry.value for key, entry in (await mount.stored()).items()}
    assert found.pop("f") == b"theirs"
    assert list(found.values()) == [b"mine"]
    assert [event.kind for event in mount.events] == [EventKind.CONFLICT]


# any work, over a store that is slow


def conflicts(rig):
    """Return the conflicts reported since the last crash."""
    return [event.text for event in rig.events if event.kind is EventKind.CONFLICT]


def pause(rng, most):
    """Return a callback that waits for up to `most` seconds."""

    async def wait(call):
        await trio.sleep(rng.random() * most)

    return wait


def shows_early(store, rng):
    """Show a written value before its answer, for up to as long again as it took to come there."""
    for operation in ("bulk_put", "bulk_delete", "put"):
        store.before(operation, pause(rng, 0.3))
        store.after(operation, pause(rng, 0.3))
    for operation in ("bulk_get", "get", "list_keys"):
        store.before(operation, pause(rng, 0.1))
        store.after(operation, pause(rng, 0.1))


def loses_answers(store, rng):
    """Lose a third of the answers to writes, and fail a fifth of the writes."""
    shows_early(store, rng)
    for operation in ("bulk_put", "bulk_delete", "put"):
        store.lost_ack(operation, when=lambda call: rng.random() < 0.3)
        store.fail(operation, when=lambda call: rng.random() < 0.2)


async def put(kernel, rng, name, flags):
    """Open, perhaps wait, write, perhaps fsync, close."""
    file = await kernel.open(name, flags)
    try:
        if rng.random() < 0.3:
            await trio.sleep(rng.random() * 5)
        await kernel.pwrite(file, 0, rng.choice([b"t", b"%d" % rng.randrange(1_000_000)]))
        if rng.random() < 0.1:
            await kernel.fsync(file)
    finally:
        await kernel.close(file)


async def program(kernel, rng, steps):
    """Write, append, read, rename and remove three names at random."""
    for _ in range(steps):
        await trio.sleep(rng.random() * 0.6)
        name, other = rng.sample(NAMES, 2)
        there = await kernel.exists(name)
        kind = rng.choices(
            ["write", "append", "read", "rename", "unlink", "setxattr"], (25, 8, 25, 8, 12, 3)
        )[0]
        if kind == "write":
            await put(kernel, rng, name, os.O_WRONLY | os.O_CREAT | rng.choice([0, os.O_TRUNC]))
        elif there and kind == "append":
            await put(kernel, rng, name, os.O_WRONLY | os.O_APPEND)
        elif there and kind == "read":
            await kernel.read(name)
        elif there and kind == "rename":
            await kernel.rename(name, other)
        elif there and kind == "unlink":
            await kernel.unlink(name)
        elif there:
            await kernel.setxattr(name, "user.a", b"1")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("faults", [shows_early, loses_answers], ids=lambda faults: faults.__name__)
async def test_nothing_that_one_mount_does_is_a_conflict(tmp_path, autojump_clock, faults, seed):
    """Without another client nothing is a conflict, because every value is this mount's own, also after crashes."""
    rng = random.Random(seed)
    options = {"settle": 2.0, "on_conflict": "keep-both", "write_back": 0.5, "cache_ttl": 2.0}
    async with open_rig(tmp_path, **options) as rig:
        faults(rig.store, rng)
        for _ in range(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.sender.run)
                with trio.move_on_after(5 + rng.random() * 10):
                    await program(rig.kernel, rng, 60)
                nursery.cancel_scope.cancel()  # a request may be under way
            assert conflicts(rig) == []
            await trio.sleep(1)  # loads end, because the rig has the tasks of the mount before as well
            rig.restart()
            faults(rig.store, rng)
        await rig.drain()
        assert conflicts(rig) == []
        assert not [key for key in await rig.stored() if "conflict" in key]
