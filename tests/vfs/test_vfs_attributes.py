"""Attributes that change while others write, look elsewhere, or have just deleted the file."""

import os

import pytest

from kvfs.core.errors import StaleError


@pytest.fixture
def kernel(mount):
    """A kernel that keeps its inodes while calls of other processes are under way."""
    mount.kernel.eager = False
    return mount.kernel


@pytest.fixture(params=["in the journal", "in the store"])
async def closed(request, mount, kernel):
    """Make a file whose whole content is `whole`, known here or in the store only."""
    await mount.other("f", b"whole")
    if request.param == "in the journal":
        await kernel.write("/ns/f", b"whole")
    return "/ns/f"


def content(mount, key="f"):
    """Return the content and metadata that the next mount would find after a crash now."""
    change = mount.journal.get(mount.namespace, key)
    return (mount.journal.value(change), change.metadata) if change is not None else None


async def test_attributes_go_with_what_was_closed_not_with_what_is_half_written(mount, kernel, closed):
    """setfattr while another process writes is recorded at once, with the content as of the last close."""
    file = await kernel.open(closed, os.O_RDWR)
    await kernel.pwrite(file, 0, b"hal")
    await kernel.setxattr(closed, "user.a", b"1")
    assert content(mount) == (b"whole", b'{"a":1}')
    assert await kernel.read(closed) == b"halle"
    await kernel.close(file)
    assert content(mount) == (b"halle", b'{"a":1}')


async def test_an_expiration_does_not_publish_what_is_half_written_either(mount, kernel, closed):
    """After touch -d and a sync in the middle of a write the server has whole contents only."""
    then = int(mount.now()) + 1000
    file = await kernel.open(closed, os.O_RDWR)
    await kernel.pwrite(file, 0, b"hal")
    await kernel.utimens(closed, then)
    await mount.drain()
    stored = (await mount.stored())["f"]
    assert (stored.value, stored.expiration) == (b"whole", then)
    await kernel.close(file)
    assert content(mount)[0] == b"halle"


async def test_attributes_of_a_file_just_emptied_go_with_its_close(mount, kernel, closed):
    """Attributes of a file just emptied, as `cp` over a file does, go with its close.

    Nothing is read, only the old content may be published.
    """
    file = await kernel.open(closed, os.O_RDWR | os.O_TRUNC)
    await kernel.pwrite(file, 0, b"n")
    await kernel.setxattr(closed, "user.a", b"1")
    assert content(mount) in (None, (b"whole", b'{"a":1}'))
    assert mount.store.count("bulk_get") == 0
    await kernel.close(file)
    assert content(mount) == (b"n", b'{"a":1}')


async def test_attributes_of_an_open_file_that_is_not_being_written_are_recorded(mount, kernel, closed):
    """Attributes of an open file are recorded, unless a writer has not closed yet."""
    file = await kernel.open(closed, os.O_RDWR)
    await kernel.setxattr(closed, "user.a", b"1")
    assert content(mount) == (b"whole", b'{"a":1}')
    await kernel.pwrite(file, 0, b"W")
    await kernel.flush(file)
    await kernel.setxattr(closed, "user.a", b"2")
    assert content(mount) == (b"Whole", b'{"a":2}')
    await kernel.close(file)


async def test_what_was_deleted_has_no_attributes_though_its_name_is_used_again(mount, kernel):
    """A deleted file's inode that the kernel still holds is not the new file of its name, and changes nothing of it."""
    await kernel.write("/ns/f", b"old")
    node = mount.fs.inodes.peek_file(mount.namespace, "f")
    await kernel.unlink("/ns/f")
    await kernel.write("/ns/f", b"new")
    await kernel.setxattr("/ns/f", "user.a", b"1")
    assert await mount.fs.xattrs.get(node, "user.a") == b"1"  # as if it had been asked for a moment later
    with pytest.raises(StaleError):
        await mount.fs.xattrs.set(node, "user.b", b"1")
    assert await kernel.listxattr("/ns/f") == ["user.a"]


async def test_what_expired_before_it_was_sent_is_not_brought_back_by_its_attributes(mount, kernel):
    """Attributes set by an inode looked up a moment before do not bring back a file that expired before it was sent."""
    await kernel.write("/ns/f", b"old")
    await kernel.utimens("/ns/f", int(mount.now()) + 100)
    node = mount.fs.inodes.peek_file(mount.namespace, "f")
    mount.now.advance(100)
    with pytest.raises(StaleError):
        await mount.fs.xattrs.set(node, "user.kvfs.ttl", b"1000")
    await mount.drain()
    assert await mount.stored() == {}


@pytest.mark.parametrize("attribute", ["expiration", "metadata"])
async def test_a_change_is_made_to_the_newest_attributes_known(mount, kernel, attribute):
    """A touch clears another client's expiration that came with a listing younger than the value."""
    await mount.other("f", b"old")
    await kernel.stat("/ns/f")
    mount.now.advance(40)
    assert await kernel.read("/ns/f") == b"old"
    mount.fs.overlay.values.make_stale(mount.namespace)
    assert await kernel.read("/ns/f") == b"old"  # asked for again: younger than the listing
    await mount.other("f", b"new", b'{"theirs":1}', ahead=1000)
    mount.now.advance(30)
    if attribute == "expiration":
        mtime = int(mount.now()) - 5
        assert (await kernel.utimens("/ns/f", mtime)).mtime == mtime
    else:
        await kernel.setxattr("/ns/f", "user.ours", b"1")
    await mount.drain()
    stored = (await mount.stored())["f"]
    assert stored.value == b"new"
    if attribute == "expiration":
        assert (stored.metadata, stored.expiration) == (b'{"theirs":1}', None)
    else:
        assert stored.metadata == b'{"theirs":1,"ours":1}'


async def test_a_refresh_leaves_no_inode_and_no_absence_behind(mount, kernel):
    """After `kvfs refresh`, which looks the path up itself, neither an inode nor an absence of it is left."""
    kernel.caching, kernel.eager = True, True
    await mount.other("d/e/f", b"x")
    assert not await kernel.exists("/ns/new")
    before = mount.fs.inodes.count
    await mount.fs.forgetting.refresh(["ns", "d", "e", "f"])
    assert mount.fs.inodes.count == before
    await mount.other("new", b"x")
    await mount.fs.forgetting.refresh(["ns"])
    assert await kernel.exists("/ns/new")


async def test_the_age_counts_from_the_answer_that_is_shown(mount, kernel):
    """After a refresh a look at the name asks for it anew, also while it is open: the age is that of the answer."""
    await mount.other("f", b"x")
    file = await kernel.open("/ns/f")
    mount.now.advance(7)
    assert await kernel.getxattr("/ns/f", "user.kvfs.age") == b"7"
    await mount.fs.forgetting.refresh(["ns"])
    await kernel.listdir("/ns")
    assert await kernel.getxattr("/ns/f", "user.kvfs.age") == b"0"
    await kernel.close(file)
    assert await kernel.getxattr("/ns/f", "user.kvfs.age") == b"0"


async def test_a_new_file_shows_the_same_before_its_close_and_after(mount, kernel):
    """Mode, size and times of a file that was just made do not change when the journal takes it."""
    file = await kernel.open("/ns/f", os.O_RDWR | os.O_CREAT, 0o640)
    await kernel.pwrite(file, 0, b"value")
    before = await kernel.fstat(file)
    await kernel.flush(file)
    after = await kernel.fstat(file)
    assert (before.mode, before.size) == (0o640, 5)
    assert before.attr_timeout == before.entry_timeout > 0
    shown = [name for name in before.__struct_fields__ if name != "told"]
    assert [getattr(before, name) for name in shown] == [getattr(after, name) for name in shown]
