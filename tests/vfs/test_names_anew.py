"""Names are looked up anew when that is due, because another client may have changed what they are."""

import os

import pytest
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.errors import NotADirectoryError_
from kvfs.core.names import DirRef

TTL = 60.0


@pytest.fixture
async def mount(tmp_path):
    """Yield a mount whose clock the test moves."""

    async with open_rig(tmp_path, now=Clock(), cache_ttl=TTL) as rig:
        yield rig


@pytest.mark.parametrize("how", ["refresh", "time"])
async def test_a_directory_shows_behind_a_file_that_is_being_made(mount, how):
    """While `job > a` runs and `a/x` is written elsewhere, `a` is a directory after `kvfs refresh` or the ttl."""
    kernel = mount.kernel
    file = await kernel.open("ns/a", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    await mount.other("a/x", b"theirs")
    with pytest.raises(NotADirectoryError_):
        await kernel.read("ns/a/x")
    if how == "refresh":
        await mount.fs.forgetting.refresh(["ns"])
    else:
        mount.now.advance(TTL)
    assert await kernel.read("ns/a/x") == b"theirs"
    await kernel.pwrite(file, 0, b"mine")
    await kernel.close(file)
    assert await kernel.read("ns/a/%self") == b"mine"


@pytest.mark.parametrize("top", ["", "p/"])
async def test_a_refresh_reaches_the_names_at_the_top_of_the_mount(mount, top):
    """A refresh reaches the names at the top of the mount, though the kernel never looks the root up."""
    mount.place = (mount.namespace, DirRef(top, len(top)))
    mount.restart()
    kernel = mount.kernel
    kernel.caching, kernel.eager = True, False
    await mount.other(f"{top}f", b"a file")
    assert not (await kernel.stat("/f")).is_directory
    await mount.other(f"{top}f/x", b"below")
    await mount.fs.forgetting.refresh([])
    assert await kernel.read("/f/x") == b"below"


async def test_a_directory_that_another_client_emptied_is_there_for_who_has_it_open(mount):
    """A directory that another client emptied is gone by its name and has no links by a handle.

    With new keys it is back.
    """
    kernel = mount.kernel
    await mount.other("d/x", b"1")
    directory = await kernel.opendir("/ns/d")
    await mount.other("d/x", None)
    mount.now.advance(TTL)
    assert (await kernel.fstat(directory)).links == 0
    assert not await kernel.exists("/ns/d")
    await mount.other("d/y", b"2")
    mount.now.advance(TTL)
    assert (await kernel.fstat(directory)).links == 2
    await kernel.closedir(directory)
