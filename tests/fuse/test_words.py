"""The log names the path of a failed call, and not the number by which the kernel called it."""

import os
import re

import pyfuse3
import pytest
import trio
from support.rig import Rig, open_rig

from kvfs.core.errors import UnavailableError
from kvfs.core.names import DirRef
from kvfs.fuse.operations import Operations
from kvfs.fuse.words import words
from kvfs.vfs.answers import answered

CALLS = {
    "fsync": (("file", False), "fsync of 'ns/d/f'"),
    "fsyncdir": (("dir", False), "fsyncdir of 'ns/d'"),
    "mkdir": (("ns", b"new", 0o755, None), "mkdir of 'ns/new'"),
    "unlink": (("d", b"f", None), "unlink of 'ns/d/f'"),
    "rename": (("d", b"f", "ns", b"g", 0, None), "rename of 'ns/d/f' to 'ns/g'"),
    "getattr": (("f", None), "stat of 'ns/d/f'"),
    "getxattr": (("f", b"user.a", None), "getxattr of 'ns/d/f (user.a)'"),
    "lookup": ((1, b"odd\n\xff", None), "lookup of 'odd\\n\ufffd'"),
    "statfs": ((None,), "statfs"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_said_with_its_path(tmp_path, autojump_clock, name: str) -> None:
    """A call is logged with its path, because inode numbers and handles mean nothing to people."""
    async with open_rig(tmp_path) as rig:
        await rig.kernel.mkdir("/ns/d")
        file = await rig.kernel.open("/ns/d/f", os.O_CREAT | os.O_RDWR)
        ns = await answered(rig.fs.tree.lookup(1, b"ns"))
        d = await answered(rig.fs.tree.lookup(ns.ino, b"d"))
        f = await answered(rig.fs.tree.lookup(d.ino, b"f"))
        directory = await answered(rig.fs.directories.opendir(d.ino))
        meant = {"file": file.number, "dir": directory, "ns": ns.ino, "d": d.ino, "f": f.ino}
        given, expected = CALLS[name]
        args = tuple(meant.get(arg, arg) if isinstance(arg, str) else arg for arg in given)
        assert words(rig.fs, getattr(Operations, name), args) == expected
        rig.fs.handles.remove(directory)
        await rig.kernel.close(file)


async def test_a_failed_fsync_names_the_file_and_the_reason(tmp_path, autojump_clock, expect_log) -> None:
    """A failed fsync is logged as `fsync of 'ns/f': EIO: …`, without a number that only the kernel knows."""
    expect_log(re.escape("kvfs.fuse: fsync of 'ns/f': EIO: ") + ".*the cable is out")
    async with open_rig(tmp_path, timeout=3.0) as rig:
        operations = Operations(rig.fs, uid=0, gid=0)
        file = await rig.kernel.open("/ns/f", os.O_CREAT | os.O_RDWR)
        rig.fs.files.contents.write(file.number, 0, b"x")
        rig.store.fail("put", UnavailableError("the cable is out"))
        rig.store.fail("bulk_put", UnavailableError("the cable is out"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sender.run)
            with pytest.raises(pyfuse3.FUSEError):
                await operations.fsync(file.number, False)
            nursery.cancel_scope.cancel()
        rig.store.clear()
        await rig.kernel.close(file)


@pytest.mark.parametrize(("prefix", "key", "path"), [("a/", "a/b/c", "b/c"), ("", "a/b", "a/b")])
async def test_paths_begin_at_the_mount_point(tmp_path, autojump_clock, prefix, key, path) -> None:
    """Paths begin at the mount point, so the prefix of a mount does not show."""
    rig = Rig(tmp_path)
    rig.place = ("n" * 32, DirRef(prefix, len(prefix)))
    rig.open()
    try:
        assert rig.fs.paths.of_key("n" * 32, key) == path
        assert rig.fs.paths.of_directory("n" * 32, DirRef(prefix, len(prefix))) == "."
        below = prefix + "x/y/"
        assert rig.fs.paths.of_directory("n" * 32, DirRef(below, len(below))) == "x/y"
    finally:
        rig.close()


def test_what_cannot_be_said_ends_no_mount() -> None:
    """If the tables of inodes and handles cannot name a path, the call is logged alone and the mount goes on."""
    assert words(object(), Operations.fsync, (1, False)) == "fsync"
