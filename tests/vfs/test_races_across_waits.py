"""Races across waits: files that are closed, deleted or replaced while another call waits for the store."""

import os

import pytest
import trio
import trio.testing

from kvfs.vfs.answers import answered


@pytest.fixture
def kernel(mount):
    """A kernel that keeps its inodes while calls of other processes are under way."""
    mount.kernel.eager = False
    return mount.kernel


async def test_what_was_closed_while_another_open_waited_is_what_it_opens(mount, kernel):
    """If `>` writes and closes while `>>` waits for the store's value, `>>` appends to the closed content."""
    await mount.other("f", b"from the store")
    gate = mount.store.block("bulk_get")
    async with trio.open_nursery() as nursery:

        async def append() -> None:
            file = await kernel.open("/ns/f", os.O_WRONLY | os.O_APPEND)
            await kernel.pwrite(file, 0, b"+appended")
            await kernel.close(file)

        nursery.start_soon(append)
        await gate.entered.wait()
        await kernel.write("/ns/f", b"closed")
        gate.open()
    assert await kernel.read("/ns/f") == b"closed+appended"


async def test_attributes_set_while_the_content_is_replaced_keep_the_new_content(mount, kernel):
    """A newer content that was closed while setxattr read the value goes with the attribute instead."""
    await mount.other("f", b"from the store")
    gate = mount.store.block("bulk_get")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.setxattr, "/ns/f", "user.a", b"1")
        await gate.entered.wait()
        await kernel.write("/ns/f", b"closed")
        gate.open()
    await mount.drain()
    stored = (await mount.stored())["f"]
    assert (stored.value, stored.metadata) == (b"closed", b'{"a":1}')


async def test_two_truncating_opens_share_the_file(mount, kernel):
    """Neither of two truncating opens that waited for the listing loses its content."""
    await mount.other("f", b"old")
    await kernel.stat("/ns/f")
    ino = mount.fs.inodes.file(mount.namespace, "f")
    mount.now.advance(1000)
    numbers = []

    async def truncate() -> None:
        opening = mount.fs.files.open(ino, write=True, truncate=True, append=False)
        numbers.append((await answered(opening)).number)

    gate = mount.store.block("list_keys")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(truncate)
        nursery.start_soon(truncate)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    first, second = numbers
    mount.fs.files.contents.write(first, 0, b"one")
    await answered(mount.fs.files.flush(first))
    await answered(mount.fs.files.release(first))
    mount.fs.files.contents.write(second, 3, b"two")
    await answered(mount.fs.files.flush(second))
    await answered(mount.fs.files.release(second))
    assert await kernel.read("/ns/f") == b"onetwo"


async def test_a_rename_takes_along_what_was_closed_while_it_waited(mount, kernel):
    """A value that was written and closed while mv waited for the store's value is the one that moves."""
    await mount.other("f", b"from the store")
    gate = mount.store.block("bulk_get")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.rename, "/ns/f", "/ns/g")
        await gate.entered.wait()
        await kernel.write("/ns/f", b"closed")
        gate.open()
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {"g": b"closed"}


async def test_a_directory_moves_as_it_is_at_the_end_of_the_wait(mount, kernel):
    """A file deleted while its directory's rename waits stays deleted, and files written or made meanwhile move too."""
    for name in ("deleted", "written", "kept"):
        await mount.other(f"d/s/{name}", b"old")
    gate = mount.store.block("bulk_get")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.rename, "/ns/d", "/ns/e")
        await gate.entered.wait()
        await kernel.unlink("/ns/d/s/deleted")
        await kernel.write("/ns/d/s/written", b"new")
        await kernel.write("/ns/d/s/made", b"made")
        gate.open()
    await mount.drain()
    values = {key: entry.value for key, entry in (await mount.stored()).items()}
    assert values == {"e/s/kept": b"old", "e/s/written": b"new", "e/s/made": b"made"}
