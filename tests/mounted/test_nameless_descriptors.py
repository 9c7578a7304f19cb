"""Descriptors outlive the name they were opened by, as on a local disk: no call on one answers ESTALE."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.standing import Standing, wait_for

pytestmark = pytest.mark.fuse

OPTIONS = ("--settle=0", "--cache-ttl=600", "--write-back=600")

OLD, NEW = b"the first version\n", b"what another client wrote\n"


def removed_here(world: Standing, path: Path) -> None:
    """Remove the name with `rm`."""
    path.unlink()


def replaced_here(world: Standing, path: Path) -> None:
    """Replace the name with `mv new f`."""
    (path.parent / "new").write_bytes(NEW)
    (path.parent / "new").rename(path)


def replaced_elsewhere(world: Standing, path: Path) -> None:
    """Have another client write the key, and open the name here."""
    world.api.bulk_put(world.api.namespace(path.parent.name), [{"key": "f", "value": NEW.decode()}])
    world.mount.kvfs("refresh", str(path.parent))
    assert path.read_bytes() == NEW


def removed_elsewhere(world: Standing, path: Path) -> None:
    """Have another client delete the key, and look for the name here."""
    world.api.delete(world.api.namespace(path.parent.name), "f")
    world.mount.kvfs("refresh", str(path.parent))
    assert not path.exists()


WAYS = [removed_here, replaced_here, replaced_elsewhere, removed_elsewhere]


@pytest.mark.parametrize("lose", WAYS)
def test_attributes_of_a_descriptor_without_a_name(
    world: Standing, here: Path, lose: Callable[[Standing, Path], None]
) -> None:
    """Attributes, mode, times and size of a descriptor without a name are read, set, listed and removed."""
    path = here / "f"
    path.write_bytes(OLD)
    os.setxattr(path, "user.k", b"v")
    world.mount.sync()
    with path.open("r+b", buffering=0) as file:
        lose(world, path)
        use(file.fileno())
    is_kept = lose is replaced_elsewhere  # nobody wishes to lose the content that was written then
    world.mount.sync(conflicts=is_kept)
    copies = [name for name in os.listdir(here) if name.startswith("f.")]
    assert [os.getxattr(here / name, "user.n") for name in copies] == [b"1"] * is_kept


def use(fd: int) -> None:
    """Do every call that a descriptor takes."""
    assert os.getxattr(fd, "user.k") == b"v"
    assert os.listxattr(fd) == ["user.k"]
    os.setxattr(fd, "user.n", b"1")
    assert os.getxattr(fd, "user.n") == b"1"
    assert sorted(os.listxattr(fd)) == ["user.k", "user.n"]
    os.removexattr(fd, "user.k")
    assert os.listxattr(fd) == ["user.n"]
    os.fchmod(fd, 0o600)
    os.utime(fd, (5, 5))
    assert (os.fstat(fd).st_mtime, os.fstat(fd).st_mode & 0o777) == (5, 0o600)
    assert os.pread(fd, 100, 0) == OLD
    os.pwrite(fd, b"T", 0)
    os.ftruncate(fd, 3)
    assert os.pread(fd, 100, 0) == b"The"
    os.fsync(fd)


def test_a_refresh_returns_when_the_kernel_has_forgotten(world: Standing, here: Path) -> None:
    """`kvfs refresh` returns when the kernel forgot a name, also if a rename in the directory waits for the store."""
    namespace, path = world.api.namespace(here.name), here / "f"
    world.api.bulk_put(namespace, [{"key": key, "value": "theirs"} for key in ("f", "slow")])
    world.mount.kvfs("refresh", str(here))
    with path.open("rb"), ThreadPoolExecutor(1) as pool:
        world.api.delete(namespace, "f")
        world.api.set_faults({"fault": "stuck_key", "key": "slow", "seconds": 1.5})
        renamed = pool.submit(
            (here / "slow").rename, here / "moved"
        )  # the kernel locks the directory meanwhile
        world.mount.kvfs("refresh", str(here))
        assert not path.exists()
        renamed.result()
    world.api.set_faults()


def test_a_directory_that_was_removed_takes_times_and_mode_by_its_descriptor(here: Path) -> None:
    """A removed directory takes times and mode by its descriptor, as on a local disk; it has no attributes."""
    (here / "d").mkdir()
    fd = os.open(here / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (here / "d").rmdir()
        os.fchmod(fd, 0o700)
        os.utime(fd, (5, 5))
        assert os.listxattr(fd) == []
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


_WORK_IN_IT = """
import os, sys
os.chdir(sys.argv[1])
print(os.listdir("."), flush=True)
sys.stdin.readline()
print(os.stat(".").st_nlink, os.listdir("."))
"""


@pytest.mark.parametrize("is_held", [True, False])
def test_a_directory_that_another_client_emptied_stays_with_who_is_in_it(
    world: Standing, here: Path, is_held: bool
) -> None:
    """A directory that another client emptied stays by descriptor and as working directory, and is gone by path."""
    namespace, path = world.api.namespace(here.name), here / "d"
    world.api.put(namespace, "d/x", b"1")
    world.mount.kvfs("refresh", str(here))
    fd = os.open(path if is_held else here, os.O_RDONLY | os.O_DIRECTORY)
    command = [sys.executable, "-c", _WORK_IN_IT, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inside:
        try:
            assert inside.stdout is not None
            assert inside.stdout.readline() == "['x']\n"
            world.api.delete(namespace, "d/x")
            world.mount.kvfs("refresh", str(here))
            if is_held:
                assert os.fstat(fd).st_nlink == 0
                assert os.listdir(fd) == []
            assert inside.communicate("\n")[0] == "0 []\n"
            wait_for(lambda: not path.exists())
            assert os.listdir(here) == []
        finally:
            os.close(fd)
            inside.kill()
