"""Small contents that wait to be sent: they are in the log alone, and known once they have settled."""

import pytest

from kvfs.journal.reader import AT_ONCE_BYTES
from kvfs.vfs.answers import answered


def reads(mount) -> int:
    """Return how often the store was asked for values."""
    return mount.store.count("get") + mount.store.count("bulk_get")


async def test_a_small_content_that_waits_is_in_the_log_alone(mount, kernel):
    """No cache holds a small content that waits, also once it was read; it is read from the log."""
    for size in (0, 1, AT_ONCE_BYTES):
        await kernel.write(f"ns/f{size}", b"x" * size)
    mount.now.advance(3600)
    kernel.pages.clear()
    for size in (0, 1, AT_ONCE_BYTES):
        assert await kernel.read(f"ns/f{size}") == b"x" * size
    assert mount.reading.values.statistics().entries == 0


async def test_a_small_content_takes_the_place_of_what_was_read(mount, kernel):
    """A clean value that was read is held no more once a small content is written over it."""
    await mount.other("f", b"read")
    await kernel.read("ns/f")
    await kernel.write("ns/f", b"written")
    assert mount.reading.values.statistics().entries == 0
    assert await kernel.read("ns/f") == b"written"


async def test_a_small_content_that_waits_is_read_from_the_log_once(mount, kernel):
    """A small content that was read is at hand until another change of its key."""
    at_hand, namespace = mount.reading.overlay.reads.at_hand, mount.namespace
    await kernel.write("ns/f", b"first")
    first = at_hand(namespace, "f")
    assert at_hand(namespace, "f") is first
    await kernel.setxattr("ns/f", "user.k", b"v")
    assert at_hand(namespace, "f").metadata is not None
    await kernel.write("ns/f", b"second")
    assert at_hand(namespace, "f").value == b"second"


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_small_content_that_settled_is_known(mount, kernel, restarts):
    """A content that was written here and has settled is read without asking the store, also if the mount was new."""
    await kernel.write("ns/f", b"mine")
    if restarts:
        mount.restart()
        kernel = mount.kernel
    await mount.drain()
    assert mount.journal.get(mount.namespace, "f") is None
    asked = reads(mount)
    assert await kernel.read("ns/f") == b"mine"
    assert asked == reads(mount)


@pytest.mark.parametrize("evicted", [False, True])
async def test_pages_of_a_content_written_here_are_kept_after_it_settled(mount, kernel, evicted):
    """The kernel may keep the pages of a content that was written here, also when it was read from the store since."""
    kernel.eager = False
    await kernel.write("ns/f", b"mine")
    await mount.drain()
    if evicted:
        mount.reading.values.forget(mount.namespace)
    node = mount.fs.inodes.get((await kernel.stat("ns/f")).ino)
    opened = await answered(mount.fs.files.open(node, write=False, truncate=False, append=False, read=True))
    assert opened.keeps_pages
    await answered(mount.fs.files.release(opened.number))


async def test_a_small_content_that_settled_is_in_the_cache_alone(mount, kernel):
    """Contents that have settled take no memory beside the cache, read or not: they would push out those that wait."""
    for name in ("read", "other"):
        await kernel.write(f"ns/{name}", b"x")
    assert await kernel.read("ns/read") == b"x"
    await mount.drain()
    assert mount.reading.values.statistics().entries == 2
    assert not mount.reading.overlay.reads._small
