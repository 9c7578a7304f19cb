"""`--durable-close` with several closes of a file at once: each close that returned is on the disk."""

import errno
import os

import pytest
import trio
import trio.testing
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.errors import JournalError
from kvfs.vfs.answers import answered

NEW = os.O_RDWR | os.O_CREAT


@pytest.fixture
async def durable(tmp_path):
    """A mount below the kernel, with --durable-close."""
    async with open_rig(tmp_path, now=Clock(), durable_close=True) as rig:
        yield rig


async def test_a_close_waits_for_the_disk_though_another_recorded_the_content(durable) -> None:
    """A handle with nothing left to record still waits for the sync of the other."""
    kernel, done = durable.kernel, []
    files = [await kernel.open("/ns/f", NEW) for _ in range(2)]
    await kernel.pwrite(files[1], 0, b"content")

    async def close(number: int) -> None:
        await answered(durable.fs.files.flush(files[number].number))
        done.append(number)

    async with trio.open_nursery() as nursery, durable.journal._upkeep._sync_lock:  # a sync under way
        nursery.start_soon(close, 0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(close, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
    assert sorted(done) == [0, 1]
    assert durable.fs.files.flush(files[0].number) is None, "nothing changed since: nothing to wait for"
    for file in files:
        await kernel.close(file)


async def test_a_close_that_failed_to_reach_the_disk_is_tried_again(durable, monkeypatch) -> None:
    """After a close that failed to reach the disk, the next one succeeds only when a copy of the log is on the disk."""
    kernel = durable.kernel
    file = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(file, 0, b"content")

    def refused(descriptor: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refused)
        with pytest.raises(JournalError, match="cannot be forced to the disk"):
            await answered(durable.fs.files.flush(file.number))
        assert durable.journal._upkeep._log.is_doubtful
        patch.setattr(os, "fsync", refused)
        with pytest.raises(JournalError, match="cannot be forced to the disk"):
            await answered(durable.fs.files.flush(file.number))
    await kernel.close(file)
    assert not durable.journal._upkeep._log.is_doubtful
    assert await kernel.read("/ns/f") == b"content"


async def test_pages_of_before_do_not_stay_because_attributes_are_being_set(durable) -> None:
    """An open during a setxattr does not keep pages of an earlier content that the kernel saw."""
    kernel, files = durable.kernel, durable.fs.files
    await durable.other("f", b"old")
    await kernel.stat("/ns/f")
    node = durable.fs.inodes.file(durable.namespace, "f")
    node.lookups += 1
    assert await kernel.read("/ns/f") == b"old"
    await durable.other("f", b"new")
    durable.now.advance(3600)
    await kernel.stat("/ns/f")
    async with (
        trio.open_nursery() as nursery,
        durable.journal._upkeep._sync_lock,
    ):  # recorded, not on the disk
        nursery.start_soon(kernel.setxattr, "/ns/f", "user.kvfs.metadata", b'{"a": 1}')
        await trio.testing.wait_all_tasks_blocked()
        assert node.open is not None
        first = await answered(files.open(node, write=False, truncate=False, append=False))
        assert not first.keeps_pages
        second = await answered(files.open(node, write=False, truncate=False, append=False))
        assert second.keeps_pages
    for one in (first, second):
        await answered(files.release(one.number))
    durable.fs.inodes.forget(node.ino, 1)
