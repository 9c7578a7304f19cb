"""Callers of handlers: each operation, change and request counts for the process that caused it."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import pytest
from support.clock import Clock
from support.rig import Rig, open_rig

from kvfs.core.callers import Caller, Callers, door
from kvfs.core.durations import count, settle
from kvfs.core.model import Entry, Key
from kvfs.fuse.operations import Operations
from kvfs.vfs.answers import answered


@dataclass
class Context:
    """The context in which the kernel names the caller."""

    pid: int
    uid: int = 0


FIND, CAT, COPY = Context(10), Context(20), Context(30)


def done(caller: Caller) -> dict[str, int]:
    """Return how many operations of each kind were done."""
    return {operation: count(settle(times)) for operation, times in caller.times.items()}


class World:
    """The handlers over a rig, and the namespace's directory."""

    def __init__(self, rig: Rig, parent: int) -> None:
        self.rig = rig
        self.parent = parent
        self.ops = Operations(
            rig.fs, uid=0, gid=0, callers=Callers(lambda thread: (thread, f"process {thread}"))
        )

    def of(self, context: Context) -> Caller:
        """Return the caller of a context."""
        return self.ops.callers.by_thread[context.pid]

    async def write(self, name: bytes, context: Context) -> None:
        """Create, write and close a file."""
        info, entry = await self.ops.create(self.parent, name, 0o644, os.O_CREAT | os.O_WRONLY, context)
        await self.ops.write(info.fh, 0, b"value")
        await self.ops.statfs(Context(99))  # another process calls in between
        await self.ops.flush(info.fh)
        await self.ops.release(info.fh)
        await self.ops.forget([(entry.st_ino, 1)])

    async def read(self, name: bytes, context: Context) -> None:
        """Look up, open, read and close a file."""
        entry = await self.ops.lookup(self.parent, name, context)
        info = await self.ops.open(entry.st_ino, os.O_RDONLY, context)
        await self.ops.read(info.fh, 0, 4096)
        await self.ops.flush(info.fh)
        await self.ops.release(info.fh)
        await self.ops.forget([(entry.st_ino, 1)])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An empty namespace that is known."""
    async with open_rig(tmp_path, now=Clock()) as rig:
        parent = await answered(rig.fs.tree.lookup(1, b"ns"))
        parent.lookups += 1
        rig.kernel.counts[parent.ino] = 1
        yield World(rig, parent.ino)


async def test_what_names_only_a_handle_counts_for_who_opened_it(world: World) -> None:
    """read, write, flush and release count exactly, timed or not, for the process that opened the handle."""
    for number in range(40):
        await world.write(b"file %d" % number, COPY)
        await world.read(b"file %d" % number, CAT)
    assert done(world.of(COPY)) == dict.fromkeys(("create", "write", "flush", "release"), 40)
    assert done(world.of(CAT)) == dict.fromkeys(("lookup", "open", "read", "flush", "release"), 40)
    assert done(world.ops.callers.own) == {}
    assert world.ops.callers.held == {}


async def test_an_operation_that_fails_counts_too(world: World) -> None:
    """A failing operation counts too, in both kinds of handlers, and no later one is counted for its caller."""
    for _ in range(3):
        with pytest.raises(pyfuse3.FUSEError):
            await world.ops.getxattr(world.parent, b"security.capability", FIND)
        with pytest.raises(pyfuse3.FUSEError):
            await world.ops.rmdir(world.parent, b"nothing", FIND)
    assert done(world.of(FIND)) == {"getxattr": 3, "rmdir": 3}
    assert world.ops.callers.own.times == {}


async def test_a_change_is_of_who_made_it(world: World) -> None:
    """A change counts for the process that made it until it has left the journal."""
    await world.write(b"copied", COPY)
    await world.rig.drain()
    await world.read(b"copied", CAT)
    await world.ops.unlink(world.parent, b"copied", FIND)
    await world.write(b"second", COPY)
    author = world.rig.journal.reader.author
    assert author(world.rig.namespace, Key("copied")) is world.of(FIND)
    assert author(world.rig.namespace, Key("second")) is world.of(COPY)
    await world.rig.drain()
    assert author(world.rig.namespace, Key("second")) is None
    assert door.caller is None


async def test_what_is_fetched_is_fetched_for_who_waits_or_reads_on(world: World) -> None:
    """A load counts for the process that waits for it or reads on.

    A process that is answered from memory waits for nothing.
    """
    keys = [f"k{number:03}" for number in range(300)]
    await world.rig.backend.bulk_put(world.rig.namespace, {Key(key): Entry(b"x") for key in keys})
    await world.rig.fs.forgetting.refresh(("ns",))
    handle = await world.ops.opendir(world.parent, CAT)
    asked: set[Caller | None] = set()
    fetch = world.rig.reading.loader._store.bulk_get

    async def bulk_get(namespace: str, some: list[Key]) -> object:
        asked.update(world.rig.reading.loader.caller_of(namespace, key) for key in some)
        return await fetch(namespace, some)

    world.rig.reading.loader._store.bulk_get = bulk_get
    for key in keys[:120]:
        await world.read(key.encode(), CAT)
    await world.ops.releasedir(handle)
    assert asked == {world.of(CAT)}
    assert 0 < world.of(CAT).waits < 120
    before = world.of(CAT).waits
    await world.read(b"k000", FIND)
    assert world.of(FIND).waits == 0
    assert world.of(CAT).waits == before
