"""Namespaces that come and go while others work in them, and reserved names."""

import pytest
import trio

from kvfs.core.errors import (
    ExistsError,
    KvfsError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    RejectedError,
)
from kvfs.vfs.answers import answered
from kvfs.vfs.file.handles import DirectoryHandle
from kvfs.vfs.inode.nodes import ROOT_INO


@pytest.fixture
def kernel(mount):
    """A kernel that keeps its inodes while calls of other processes are under way."""
    mount.kernel.eager = False
    mount.fs.tree.hidden.add({"status": lambda: b""})
    return mount.kernel


async def attempt(call, *args):
    """Return the error of a call, None when it succeeds."""
    try:
        await call(*args)
    except KvfsError as exc:
        return exc
    return None


@pytest.mark.parametrize("make", ["write", "mkdir"])
async def test_what_was_made_while_a_namespace_was_removed_is_not_lost(autojump_clock, mount, kernel, make):
    """A file made while rmdir sends the namespace's deletions makes it not empty, and is not lost."""
    await mount.other("f", b"x")
    await kernel.unlink("/ns/f")
    gate = mount.store.block("bulk_delete")
    errors = []

    async def rmdir():
        errors.append(await attempt(kernel.rmdir, "/ns"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rmdir)
        await gate.entered.wait()
        await (kernel.write("/ns/new", b"mine") if make == "write" else kernel.mkdir("/ns/new"))
        gate.open()
    assert isinstance(errors[0], NotEmptyError)
    assert await kernel.listdir("/ns") == ["new"]


@pytest.mark.parametrize("make", ["write", "mkdir", "rename"])
async def test_nothing_is_made_in_a_namespace_that_the_store_is_deleting(autojump_clock, mount, kernel, make):
    """While the store deletes a namespace no file is made in it, because it would be gone a moment later."""
    await mount.other("d/f", b"x")
    file = await kernel.open("/ns/d/f")
    await mount.other("d/f", None)
    mount.now.advance(61)
    gate = mount.store.block("delete_namespace")
    errors = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.rmdir, "/ns")
        await gate.entered.wait()
        tree, parent = mount.fs.tree, file.path[-2]
        create = {"mode": 0o644, "exclusive": False, "truncate": True, "append": False}
        calls = {
            "write": lambda: answered(mount.fs.create(parent, b"new", **create)),
            "mkdir": lambda: tree.mkdir(parent, b"new", 0o755),
            "rename": lambda: mount.fs.renames.rename(parent, b"f", parent, b"new", no_replace=False),
        }
        errors.append(await attempt(calls[make]))
        gate.open()
    assert isinstance(errors[0], NotFoundError)
    assert mount.journal.pending_count == 0
    await kernel.close(file)


async def test_what_an_open_file_closes_while_its_namespace_is_deleted_is_kept(autojump_clock, mount, kernel):
    """A value closed while its namespace is deleted is set aside with its reason, because close returned 0."""
    await mount.other("f", b"x")
    file = await kernel.open("/ns/f", 2)
    await mount.other("f", None)
    mount.now.advance(61)
    gate = mount.store.block("delete_namespace")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.rmdir, "/ns")
        await gate.entered.wait()
        await kernel.pwrite(file, 0, b"mine")
        await kernel.close(file)
        gate.open()
    with trio.move_on_after(60):
        await mount.sender.drain()
    [change] = mount.journal.rejected()
    assert mount.journal.value(change) == b"mine"
    assert "is gone" in change.error


async def test_a_pending_value_that_has_expired_does_not_keep_a_namespace(mount, kernel):
    """A pending value that has expired does not keep a namespace, because nothing shows and nothing would be sent."""
    await kernel.write("/ns/f", b"x")
    await kernel.utimens("/ns/f", int(mount.now()) + 100)
    mount.now.advance(100)
    await kernel.rmdir("/ns")
    assert await kernel.listdir("/") == []


async def test_nothing_becomes_the_control_directory(mount, kernel):
    """`mv ns .kvfs`, `mv .kvfs ns`, and making or removing it give EPERM or EEXIST, and no errno about names."""
    tree, renames = mount.fs.tree, mount.fs.renames
    for old, new in [(b"ns", b".kvfs"), (b".kvfs", b"other")]:
        with pytest.raises(NotPermittedError):
            await renames.rename(1, old, 1, new, no_replace=False)
    with pytest.raises(ExistsError):
        await tree.mkdir(1, b".kvfs", 0o755)
    with pytest.raises(NotPermittedError):
        await tree.rmdir(1, b".kvfs")
    assert await kernel.listdir("/") == ["ns"]


async def test_a_namespace_with_times_of_its_own_can_be_removed(mount, kernel):
    """A namespace with times of its own, as `cp -a` sets them, counts as empty and can be removed."""
    await kernel.utimens("/ns", int(mount.now()) - 1000)
    await kernel.rmdir("/ns")
    assert await kernel.listdir("/") == []


async def test_fsync_of_the_root_sends_what_was_changed_in_every_namespace(autojump_clock, mount, kernel):
    """fsync of the root sends all changes below it, as for any directory, and reports refused ones."""
    await kernel.mkdir("/second")
    await kernel.write("/ns/f", b"1")
    await kernel.write("/second/g", b"2")
    await answered(mount.fs.files.syncing.sync_directory(DirectoryHandle(ROOT_INO, ROOT_INO)))
    assert mount.journal.pending() == []
    assert mount.store.count("bulk_put") == 2
    await answered(mount.fs.files.syncing.sync_directory(DirectoryHandle(ROOT_INO, ROOT_INO)))
    assert mount.store.count("bulk_put") == 2, "what is there already costs nothing"
    await kernel.write("/ns/f", b"3")
    mount.store.fail("bulk_put", RejectedError("never"))
    with pytest.raises(RejectedError):
        await answered(mount.fs.files.syncing.sync_directory(DirectoryHandle(ROOT_INO, ROOT_INO)))
    mount.store.clear()
    await kernel.write("/second/g", b"4")
    with pytest.raises(RejectedError):
        await answered(mount.fs.files.syncing.sync_directory(DirectoryHandle(ROOT_INO, ROOT_INO)))
    assert [change.key for change in mount.journal.pending()] == [], (
        "what was refused keeps nothing else back"
    )
