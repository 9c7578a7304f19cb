"""Expiration as mtime."""

import os

import pytest

from kvfs.core.errors import InvalidError, NotFoundError
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.times import SECOND, nanoseconds
from kvfs.vfs.view.types import Changes


async def test_a_future_mtime_is_the_expiration(mount, kernel):
    """A future mtime, as of `touch -d '+1 hour'`, is the expiration: the server is told, and stat shows it."""
    await kernel.write("/ns/f", b"x")
    then = int(mount.now()) + 3600
    assert (await kernel.utimens("/ns/f", then)).mtime == then
    await mount.drain()
    assert (await mount.stored())["f"].expiration == then
    assert await kernel.getxattr("/ns/f", "user.kvfs.ttl") == b"3600"


@pytest.mark.parametrize("back", [0, 1000, -5])
async def test_an_mtime_in_the_past_or_now_clears_the_expiration(mount, kernel, back):
    """An mtime in the past or now clears the expiration and is kept here, so a second rsync copies nothing."""
    await mount.other("f", b"x", ahead=1000)
    then = int(mount.now()) - back
    await kernel.utimens("/ns/f", then)
    await mount.drain()
    assert (await mount.stored())["f"].expiration is None
    assert (await kernel.stat("/ns/f")).mtime == then
    mount.restart()
    assert (await mount.kernel.stat("/ns/f")).mtime == then


@pytest.mark.parametrize("ahead", [6, 30, 59])
async def test_an_mtime_below_the_floor_is_refused(mount, kernel, ahead):
    """An mtime below the floor gives EINVAL, and nothing changes."""
    await kernel.write("/ns/f", b"x")
    before = (await kernel.stat("/ns/f")).mtime
    with pytest.raises(InvalidError):
        await kernel.utimens("/ns/f", int(mount.now()) + ahead)
    assert (await kernel.stat("/ns/f")).mtime == before


@pytest.mark.parametrize("caching", [True, False])
async def test_a_key_disappears_at_its_expiration_without_a_request(mount, kernel, caching):
    """At its expiration, to the second, a key goes from lookup, listing and the kernel's caches."""
    kernel.caching, kernel.eager = caching, False
    await mount.other("f", b"x", ahead=40)
    assert await kernel.read("/ns/f") == b"x"
    mount.now.advance(39)
    assert (await kernel.stat("/ns/f")).size == 1
    count = len(mount.store.calls)
    mount.now.advance(1)
    with pytest.raises(NotFoundError):
        await kernel.stat("/ns/f")
    assert await kernel.listdir("/ns") == []
    assert len(mount.store.calls) == count


async def test_mtime_does_not_move_by_itself(mount, kernel):
    """mtime does not move when the upload ends, when knowledge gets old, or at a restart."""
    await kernel.write("/ns/f", b"x")
    before = await kernel.stat("/ns/f")
    mount.now.advance(7)
    await mount.drain()
    assert (await kernel.stat("/ns/f")).mtime == before.mtime
    mount.now.advance(100)
    assert (await kernel.stat("/ns/f")).mtime == before.mtime
    mount.restart()
    assert (await mount.kernel.stat("/ns/f")).mtime == before.mtime


async def test_ctime_moves_on_every_change(mount, kernel):
    """mtime moves with the content only, ctime with attributes too."""
    await kernel.write("/ns/f", b"x")
    first = await kernel.stat("/ns/f")
    mount.now.advance(10)
    await kernel.setxattr("/ns/f", "user.k", b"v")
    second = await kernel.stat("/ns/f")
    assert (second.mtime, second.ctime) == (first.mtime, first.ctime + 10)


async def test_modes_and_times_of_directories_are_kept_here(mount, kernel):
    """chmod and touch of a directory are kept here and survive a remount."""
    await kernel.mkdir("/ns/d")
    await kernel.setattr("/ns/d", mode=0o700)
    await kernel.utimens("/ns/d", 1_000_000)
    await kernel.write("/ns/f", b"")
    await kernel.setattr("/ns/f", mode=0o755)
    mount.restart()
    attr = await mount.kernel.stat("/ns/d")
    assert (attr.mode, attr.mtime) == (0o700, 1_000_000)
    assert (await mount.kernel.stat("/ns/f")).mode == 0o755


async def test_a_write_to_a_key_that_expired_is_not_resurrected(mount, kernel):
    """A write that waits until its key's time has passed becomes a deletion, and is not sent."""
    await mount.other("f", b"x", ahead=70)
    await kernel.write("/ns/f", b"y")
    mount.now.advance(71)
    await mount.drain()
    assert await mount.stored() == {}
    assert not await kernel.exists("/ns/f")


@pytest.mark.parametrize("remount", [False, True])
@pytest.mark.parametrize("way", ["removed", "renamed away", "replaced and removed"])
async def test_a_value_under_a_name_that_was_removed_here_is_dated_when_it_is_found(
    mount, kernel, autojump_clock, way, remount
):
    """Another client makes the key anew, of the same size: `rsync -a` and `make` go by the mtime."""
    await mount.other("f", b"one")
    first = await kernel.stat("/ns/f")
    assert first.size == 3
    if way == "replaced and removed":
        await kernel.write("/ns/f", b"two")
        first = await kernel.stat("/ns/f")
    await (kernel.rename("/ns/f", "/ns/g") if way == "renamed away" else kernel.unlink("/ns/f"))
    await mount.drain()
    if remount:
        mount.restart()
    kernel = mount.kernel
    mount.now.advance(100)
    await mount.other("f", b"new")
    found = await kernel.stat("/ns/f")
    assert (found.size, found.mtime) == (3, int(mount.now()))
    assert found.mtime > first.mtime
    mount.now.advance(100)
    assert (await kernel.stat("/ns/f")).mtime == found.mtime


@pytest.mark.parametrize("changes", [{}, {"mode": 0o600}, {"mtime_ns": 5 * SECOND}])
async def test_a_close_moves_ctime_only_if_a_write_was_not_the_last_change(mount, kernel, changes):
    """The ctime of a written file is its mtime, however late it is closed; attributes that were set since move it."""
    file = await kernel.open("ns/f", os.O_WRONLY | os.O_CREAT)
    await kernel.pwrite(file, 0, b"x")
    written = nanoseconds(mount.now())
    mount.now.advance(10)
    if changes:
        await kernel.setattr("ns/f", **changes)
    await kernel.close(file)
    attr = await kernel.stat("ns/f")
    assert attr.ctime_ns == written + (10 * SECOND if changes else 0)
    assert attr.mtime_ns == changes.get("mtime_ns", written)


async def test_a_ctime_that_attributes_moved_is_not_moved_back(mount, kernel):
    """An access time that is set between a write and its close moves ctime, and the close does not move it back."""
    await kernel.write("ns/f", b"old")
    file = await kernel.open("ns/f", os.O_WRONLY)
    await kernel.pwrite(file, 0, b"x")
    mount.now.advance(10)
    await kernel.setattr("ns/f", atime_ns=SECOND)
    moved = nanoseconds(mount.now())
    await kernel.close(file)
    assert (await kernel.stat("ns/f")).ctime_ns == moved


async def test_mtime_and_ctime_of_a_written_file_are_one_object(mount, kernel):
    """A hundred thousand files that wait keep each time of theirs once."""
    await kernel.write("ns/f", b"x")
    attrs = mount.journal.attributes.file_attrs(mount.namespace, "f")
    assert attrs.ctime_ns is attrs.mtime_ns


async def test_a_file_knows_the_size_that_a_setattr_told(mount, kernel):
    """A file notes the size that a setattr told the kernel, also a guess, because it appends by it."""
    await mount.other("f", b"four")
    await kernel.listdir("ns")
    mount.store.fail("bulk_get")
    node = mount.fs.inodes.file(mount.namespace, "f")
    attr = await mount.fs.attributes.setattr(node, Changes(mode=0o600))
    assert attr.size == node.end == VALUE_BYTES
