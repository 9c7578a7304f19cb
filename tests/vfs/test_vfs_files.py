"""Open files: the view of their handles, their content after the name is gone, limits, sizes."""

import os

import pytest

from kvfs.core.errors import (
    ExistsError,
    FileTooBigError,
    InvalidError,
    NoAttributeError,
    NoSpaceError,
    NotFoundError,
    NotSupportedError,
    StaleError,
)
from kvfs.core.limits import VALUE_BYTES
from kvfs.vfs.answers import answered

RW = os.O_RDWR
NEW = os.O_RDWR | os.O_CREAT


async def test_handles_see_each_others_writes(kernel):
    """Two opens of one file share its content from the first byte written."""
    first = await kernel.open("/ns/f", NEW)
    second = await kernel.open("/ns/f", RW | os.O_APPEND)
    await kernel.pwrite(first, 0, b"one")
    await kernel.pwrite(second, 0, b"two")
    assert await kernel.pread(first, 0, 10) == b"onetwo"
    assert (await kernel.stat("/ns/f")).size == 6
    await kernel.close(first)
    await kernel.close(second)
    assert await kernel.read("/ns/f") == b"onetwo"


async def test_a_readers_close_does_not_publish_half_a_write(mount, kernel):
    """A reader's close does not record a write that its writer has not closed."""
    writer = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(writer, 0, b"half")
    assert await kernel.read("/ns/f") == b"half"
    assert mount.journal.pending_count == 0
    await kernel.close(writer)
    assert mount.journal.pending_count == 1


async def test_an_unlinked_file_lives_until_its_last_close(mount, kernel):
    """An unlinked file is read and written on, its name is free, and nothing of it reaches the server."""
    await mount.other("f", b"old")
    file = await kernel.open("/ns/f", RW)
    await kernel.unlink("/ns/f")
    await kernel.pwrite(file, 3, b"er")
    assert await kernel.pread(file, 0, 10) == b"older"
    assert (await kernel.fstat(file)).links == 0
    await kernel.write("/ns/f", b"another")
    assert await kernel.pread(file, 0, 10) == b"older"
    await kernel.close(file)
    await mount.drain()
    assert (await mount.stored())["f"].value == b"another"


async def test_a_file_made_and_removed_in_the_window_is_never_sent(mount, kernel):
    """A temporary file causes no request at all."""
    await kernel.write("/ns/tmp", b"x")
    await kernel.unlink("/ns/tmp")
    await mount.drain()
    assert {call.operation for call in mount.store.calls} <= {"list_namespaces", "list_keys"}


async def test_a_file_renamed_over_an_open_one_leaves_its_content_to_the_handle(kernel):
    """The handle keeps the old content, the name has the new."""
    await kernel.write("/ns/f", b"old")
    await kernel.write("/ns/g", b"new")
    file = await kernel.open("/ns/f", RW)
    await kernel.rename("/ns/g", "/ns/f")
    assert await kernel.pread(file, 0, 10) == b"old"
    await kernel.pwrite(file, 0, b"lost")
    await kernel.close(file)
    assert await kernel.read("/ns/f") == b"new"


async def test_an_open_file_follows_its_new_name(mount, kernel):
    """A write after a rename lands under the new name."""
    file = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(file, 0, b"one")
    await kernel.rename("/ns/f", "/ns/g")
    await kernel.pwrite(file, 3, b"two")
    await kernel.close(file)
    await mount.drain()
    assert {k: e.value for k, e in (await mount.stored()).items()} == {"g": b"onetwo"}


async def test_a_key_that_expired_while_open_is_not_the_file_created_next(mount, kernel):
    """An old handle does not share the content of a new file of the same name."""
    await mount.other("f", b"old", ahead=100)
    old = await kernel.open("/ns/f", RW)
    mount.now.advance(101)
    new = await kernel.open("/ns/f", NEW | os.O_EXCL)
    await kernel.pwrite(new, 0, b"new")
    assert await kernel.pread(old, 0, 10) == b"old"
    await kernel.pwrite(old, 0, b"OLD")
    await kernel.close(old)
    await kernel.close(new)
    assert await kernel.read("/ns/f") == b"new"


async def test_a_key_deleted_elsewhere_while_open_is_not_the_file_created_next(mount, kernel):
    """An old handle on a key that another client deleted does not share the content of a new file of the same name."""
    await mount.other("f", b"old")
    old = await kernel.open("/ns/f", RW)
    await mount.other("f", None)
    mount.now.advance(61)
    await kernel.write("/ns/f", b"new")
    assert await kernel.pread(old, 0, 10) == b"old"
    await kernel.close(old)
    assert await kernel.read("/ns/f") == b"new"


async def test_exclusive_create_asks_the_store_again_when_knowledge_is_old(mount, kernel):
    """O_EXCL fails for a key that another client made in the meantime."""
    assert not await kernel.exists("/ns/f")
    await mount.other("f", b"theirs")
    mount.now.advance(61)
    with pytest.raises(ExistsError):
        await kernel.open("/ns/f", NEW | os.O_EXCL)


async def test_holes_read_as_zeros_and_sizes_go_both_ways(kernel):
    """Truncation goes up and down, and a write past the end leaves zeros."""
    file = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(file, 4, b"x")
    assert await kernel.pread(file, 0, 10) == b"\0\0\0\0x"
    await kernel.ftruncate(file, 2)
    await kernel.ftruncate(file, 6)
    assert await kernel.pread(file, 0, 10) == b"\0" * 6
    await kernel.close(file)
    await kernel.truncate("/ns/f", 1)
    assert await kernel.read("/ns/f") == b"\0"


async def test_opening_with_truncate_empties_closed_and_open_files(mount, kernel):
    """`>` empties the old content, also in other handles."""
    await mount.other("f", b"a long old content")
    await kernel.write("/ns/f", b"new")
    assert await kernel.read("/ns/f") == b"new"
    file = await kernel.open("/ns/f", RW)
    await kernel.write("/ns/f", b"")
    assert await kernel.pread(file, 0, 10) == b""
    await kernel.close(file)


async def test_a_value_above_25_mib_is_refused_by_the_call_that_asks(kernel):
    """A write or truncate above 25 MiB gives EFBIG, and not a byte sooner. (See test_failed_writes.py.)"""
    file = await kernel.open("/ns/g", NEW)
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, VALUE_BYTES, b"x")
    with pytest.raises(FileTooBigError):
        await kernel.ftruncate(file, 10**15)
    with pytest.raises(FileTooBigError):
        await kernel.close(file)
    file = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(file, VALUE_BYTES - 1, b"x")
    await kernel.close(file)
    assert (await kernel.stat("/ns/f")).size == VALUE_BYTES
    with pytest.raises(FileTooBigError):
        await kernel.truncate("/ns/f", VALUE_BYTES + 1)


async def test_a_size_not_known_is_shown_for_no_moment(mount, kernel):
    """A lookup answers an unknown size with a time-out of 0, and getattr gives the true one."""
    kernel.eager = False
    await mount.other("f", b"12345")
    node = await answered(mount.fs.tree.lookup((await kernel.stat("/ns")).ino, b"f"))
    peeked = mount.fs.attributes.peek(node)
    assert (peeked.attr_timeout, peeked.entry_timeout > 0) == (0, True)
    attr = await answered(mount.fs.attributes.getattr(node))
    assert (attr.size, attr.attr_timeout > 0) == (5, True)


async def test_an_inode_whose_key_vanished_is_stale(mount, kernel):
    """ESTALE for a vanished key makes the kernel look the name up again, which finds nothing."""
    await mount.other("f", b"x")
    kernel.caching, kernel.eager = True, False
    ino = await kernel.lookup((await kernel.stat("/ns")).ino, b"f")
    await mount.other("f", None)
    mount.now.advance(61)
    with pytest.raises(StaleError):
        await kernel.getattr(ino)
    with pytest.raises(NotFoundError):
        await kernel.stat("/ns/f")


async def test_a_changed_value_is_never_cut_at_its_old_size(mount, kernel):
    """With a kernel that caches, a longer or shorter value by another client shows whole."""
    kernel.caching, kernel.eager = True, False
    await mount.other("f", b"old")
    assert await kernel.read("/ns/f") == b"old"
    for value in (b"longer", b"s", b"tt"):
        await mount.other("f", value)
        mount.now.advance(61)
        assert await kernel.read("/ns/f") == value
        assert (await kernel.stat("/ns/f")).size == len(value)


async def test_fsync_returns_when_the_server_has_it(autojump_clock, mount, kernel):
    """fsync returns when the server has the value, and costs no request if it has it already."""
    file = await kernel.open("/ns/f", NEW)
    await kernel.pwrite(file, 0, b"x")
    await kernel.fsync(file)
    assert (await mount.stored())["f"].value == b"x"
    count = len(mount.store.calls)
    await kernel.fsync(file)
    assert len(mount.store.calls) == count
    await kernel.close(file)


async def test_attributes_are_the_fields_of_the_metadata(mount, kernel):
    """Attributes are set, listed, read and removed as fields of the metadata, which the store gets with the value."""
    await mount.other("f", b"x", b'{"a":"b"}')
    await kernel.setxattr("/ns/f", "user.n", b"2")
    assert await kernel.xattrs("/ns/f") == {"user.a": b"b", "user.n": b"2"}
    await kernel.removexattr("/ns/f", "user.a")
    await mount.drain()
    assert (await mount.stored())["f"].metadata == b'{"n":2}'
    with pytest.raises(NoAttributeError):
        await kernel.getxattr("/ns/f", "user.a")
    with pytest.raises(NoSpaceError):
        await kernel.setxattr("/ns/f", "user.big", b"x" * 1024)
    with pytest.raises(InvalidError):
        await kernel.setxattr("/ns/f", "user.k", b"\xff")


async def test_directories_have_no_attributes(kernel):
    """Directories have no attributes: ENOTSUP to set, ENODATA to read, none to list."""
    await kernel.mkdir("/ns/d")
    with pytest.raises(NotSupportedError):
        await kernel.setxattr("/ns/d", "user.k", b"v")
    with pytest.raises(NoAttributeError):
        await kernel.getxattr("/ns/d", "user.k")
    assert await kernel.listxattr("/ns/d") == []


async def test_a_write_keeps_metadata_and_expiration(mount, kernel):
    """Each upload sends value, metadata and expiration again, because a plain PUT would clear both."""
    await mount.other("f", b"x", b'{"a":1}', ahead=1000)
    before = (await mount.stored())["f"]
    await kernel.write("/ns/f", b"y")
    await mount.drain()
    after = (await mount.stored())["f"]
    assert (after.value, after.metadata, after.expiration) == (b"y", before.metadata, before.expiration)


async def test_values_survive_a_crash_after_close(mount, kernel):
    """A closed value is read and sent by the next daemon after a crash."""
    await kernel.write("/ns/d", b"kept")
    open_file = await kernel.open("/ns/lost", NEW)
    await kernel.pwrite(open_file, 0, b"never closed")
    mount.restart()
    assert await mount.kernel.listdir("/ns") == ["d"]
    assert await mount.kernel.read("/ns/d") == b"kept"
    await mount.drain()
    assert {k: e.value for k, e in (await mount.stored()).items()} == {"d": b"kept"}
