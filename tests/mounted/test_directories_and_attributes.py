"""Directories and attributes through the real kernel, what is refused, and a mount without privileges."""

import ctypes
import errno
import fcntl
import itertools
import multiprocessing
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mounted import KVFS, REPOSITORY
from support.standing import Standing, errno_of

pytestmark = pytest.mark.fuse

NOBODY = 65534


OPTIONS = ("--cache-ttl=1", "--settle=1", "--write-back=0.3", "--timeout=10")
"""Short times, so that sending, settling and forgetting all happen while the tests run."""


# directories


def test_a_directory_that_is_not_empty_stays(here: Path) -> None:
    """rmdir of a directory with a file, pending or not, with a directory, or with an open new file gives ENOTEMPTY."""
    (here / "d/e").mkdir(parents=True)
    assert errno_of(os.rmdir, here / "d") == "ENOTEMPTY"
    (here / "d/e").rmdir()
    fd = os.open(here / "d/new", os.O_CREAT | os.O_WRONLY)
    assert errno_of(os.rmdir, here / "d") == "ENOTEMPTY"
    os.close(fd)
    assert errno_of(os.rmdir, here / "d") == "ENOTEMPTY"
    (here / "d/new").unlink()
    (here / "d").rmdir()
    assert os.listdir(here) == []


def test_empty_directories_are_kept(world: Standing, here: Path) -> None:
    """An empty directory stays when its last file goes, through sending and forgetting."""
    (here / "d").mkdir()
    (here / "d/f").write_bytes(b"1")
    world.mount.sync()
    (here / "d/f").unlink()
    world.mount.sync()
    time.sleep(2.2)
    assert os.listdir(here) == ["d"]
    assert os.listdir(here / "d") == []


def _getdents(fd: int) -> list[str]:
    """Return the next few names: a buffer of 4 KiB, so that a walk takes many calls."""
    buffer = ctypes.create_string_buffer(4096)
    length = ctypes.CDLL(None, use_errno=True).getdents64(fd, buffer, len(buffer))
    assert length >= 0, errno.errorcode[ctypes.get_errno()]
    names, offset = [], 0
    while offset < length:
        record = int.from_bytes(buffer.raw[offset + 16 : offset + 18], sys.byteorder)
        names.append(buffer.raw[offset + 19 : offset + record].split(b"\0")[0].decode())
        offset += record
    return names


def test_readdir_is_stable_while_the_directory_changes(here: Path) -> None:
    """A name that is there before and after a walk shows once in it, whatever was removed and made on the way."""
    stays = {f"stays-{number:03}" for number in range(600)}
    for name in sorted(stays):
        (here / name).touch()
    for number in range(100):
        (here / f"goes-{number:03}").touch()
    seen: list[str] = []
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    for step in itertools.count():
        found = _getdents(fd)
        if not found:
            break
        seen += found
        (here / f"a-new-{step}").touch()
        (here / f"stays-{step:03}-new").touch()
        (here / f"goes-{step:03}").unlink()
        (here / f"goes-{99 - step:03}").unlink()
    os.close(fd)
    assert step > 4
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
    subprocess.run("rm -rf -- *", shell=True, cwd=here, check=True)
    assert os.listdir(here) == []


_SEEK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for call in (libc.readdir, libc.rewinddir, libc.closedir, libc.telldir):
    call.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
here = sys.argv[1]
stream = libc.opendir(os.fsencode(here))
def names():
    while entry := libc.readdir(stream):
        yield libc.telldir(stream), ctypes.string_at(entry + 19).decode()
first = list(names())
positions = dict(first)
order = [name for _, name in first]
os.unlink(here + "/f0001"); open(here + "/added", "w").close()
for index in (5, 400, 0, 799, 2):
    libc.seekdir(stream, first[index][0])
    again = [name for _, name in names()]
    wanted = [name for name in order[index + 1:] if name != "f0001"]
    assert [name for name in again if name not in ("added", "f0001")] == wanted, (index, again[:3])
libc.rewinddir(stream)
fresh = {name for _, name in names()}
assert "added" in fresh and "f0001" not in fresh
libc.closedir(stream)
"""


def test_seekdir_finds_its_place_again(here: Path) -> None:
    """A position of telldir leads to the same entry after changes; rewinddir shows them."""
    for number in range(900):
        (here / f"f{number:04}").touch()
    done = subprocess.run([sys.executable, "-c", _SEEK, here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_large_directory_moves_and_goes(world: Standing, here: Path) -> None:
    """mv of a directory, mv of all its files one by one, and rm -rf leave nothing out, here and at the server."""
    count = 1200  # more than a page of a listing
    namespace = world.api.namespace(here.name)
    pairs = [{"key": f"big/{number:05}", "value": f"{number}"} for number in range(count)]
    world.api.bulk_put(namespace, pairs)
    time.sleep(1.2)  # the cache's time
    os.rename(here / "big", here / "moved")
    assert len(os.listdir(here / "moved")) == count
    (here / "other").mkdir()
    subprocess.run(
        "find moved -type f -print0 | xargs -0 mv -t other", shell=True, cwd=here, check=True, timeout=120
    )
    assert os.listdir(here / "moved") == []
    world.mount.sync()
    found = world.api.keys(namespace)
    assert set(found) == {f"other/{number:05}" for number in range(count)}
    assert (here / "other/01199").read_text() == "1199"
    subprocess.run(["rm", "-rf", here / "other", here / "moved"], check=True, timeout=120)
    world.mount.sync()
    assert world.api.keys(namespace) == {}
    assert os.listdir(here) == []


# attributes


def test_modes_and_times_are_kept(world: Standing, here: Path) -> None:
    """chmod and utimens (into the past) are remembered; sending does not move them."""
    path = here / "f"
    path.write_bytes(b"x")
    path.chmod(0o750)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    world.mount.sync()
    time.sleep(2.2)
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o750
    assert found.st_mtime == 1_100_000_000
    assert found.st_atime == 1_000_000_000
    assert world.api.keys(world.api.namespace(here.name))["f"].get("expiration") is None


def test_mtime_tells_of_writes_only(world: Standing, here: Path) -> None:
    """mtime moves with a write and stands still when the value is sent, settled and read anew."""
    path = here / "f"
    path.write_bytes(b"x")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    before = time.time()
    with path.open("ab") as file:
        file.write(b"y")
    written = path.stat().st_mtime
    assert written >= int(before)
    world.mount.sync()
    time.sleep(2.2)
    assert path.read_bytes() == b"xy"
    assert path.stat().st_mtime == written


def test_links_and_devices_are_refused(here: Path) -> None:
    """Links and devices are refused with EPERM, because KV has no place for them."""
    (here / "f").touch()
    assert errno_of(os.link, here / "f", here / "hard") == "EPERM"
    assert errno_of(os.symlink, "f", here / "soft") == "EPERM"
    assert errno_of(os.mkfifo, here / "fifo") == "EPERM"
    assert os.listdir(here) == ["f"]


_ACL = struct.pack("<I" + "HHI" * 3, 2, 1, 6, 2**32 - 1, 4, 4, 2**32 - 1, 32, 4, 2**32 - 1)


def _refusals(world: Standing, here: Path) -> dict[str, str]:
    """Return the refusals in docs/compatibility.md, with the errno of each."""
    (here / "f").write_bytes(b"x")
    (here / "d").mkdir()
    other = world.namespace().path
    soon = time.time() + 30
    calls: dict[str, Callable[[], object]] = {
        "too long a key": lambda: (here / ("x" * 200) / ("y" * 200) / ("z" * 200)).mkdir(parents=True),
        "no UTF-8": lambda: os.open(os.fsencode(here) + b"/\xff\xfe", os.O_CREAT),
        "no key's name": lambda: (here / "a%2Fb").touch(),
        "to another namespace": lambda: os.rename(here / "f", other / "f"),
        "an expiration too soon": lambda: os.utime(here / "f", (soon, soon)),
        "an ACL": lambda: os.setxattr(here / "f", "system.posix_acl_access", _ACL),
        "an attribute of a directory": lambda: os.setxattr(here / "d", "user.x", b"1"),
        "too much metadata": lambda: os.setxattr(here / "f", "user.x", b"y" * 1100),
        "a file without a name": lambda: os.open(here, os.O_TMPFILE | os.O_RDWR),
        "a namespace with keys": lambda: os.rmdir(here),
    }
    return {what: errno_of(call) for what, call in calls.items()}


def test_what_kv_has_no_place_for_is_refused(world: Standing, here: Path) -> None:
    """Each refusal has the errno of the page on compatibility, and leaves nothing behind."""
    assert _refusals(world, here) == {
        "too long a key": "ENAMETOOLONG",
        "no UTF-8": "EILSEQ",
        "no key's name": "EINVAL",
        "to another namespace": "EXDEV",
        "an expiration too soon": "EINVAL",
        "an ACL": "ENOTSUP",
        "an attribute of a directory": "ENOTSUP",
        "too much metadata": "ENOSPC",
        "a file without a name": "ENOTSUP",
        "a namespace with keys": "ENOTEMPTY",
    }
    assert (here / "f").read_bytes() == b"x"


def test_times_have_nanoseconds_and_atime_stands_still(here: Path) -> None:
    """Times have nanoseconds, and reading moves no atime."""
    path = here / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_000_000_000_700_000_000, 1_100_000_000_700_000_000))
    path.read_bytes()
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000_700_000_000, 1_100_000_000_700_000_000)


def test_mtime_sets_and_clears_the_expiration(world: Standing, here: Path) -> None:
    """An mtime in the future is the expiration; one in the past clears it, and is kept."""
    path, expires = here / "f", int(time.time()) + 500
    path.write_bytes(b"x")
    os.utime(path, (expires, expires))
    world.mount.sync()
    namespace = world.api.namespace(here.name)
    assert world.api.keys(namespace)["f"]["expiration"] == expires
    os.utime(path, (1_000_000_000, 1_000_000_000))
    world.mount.sync()
    assert "expiration" not in world.api.keys(namespace)["f"]
    assert path.stat().st_mtime == 1_000_000_000


def test_a_file_removed_and_made_anew_is_new(here: Path) -> None:
    """A file made anew has neither metadata nor expiration of the removed one."""
    path = here / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.colour", b"red")
    path.unlink()
    path.write_bytes(b"y")
    assert os.listxattr(path) == []


def test_a_regular_file_is_made_by_mknod(world: Standing, here: Path) -> None:
    """mknod makes an empty file, as tar does."""
    os.mknod(here / "f", 0o640 | stat.S_IFREG)
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o640
    assert errno_of(os.mknod, here / "f", 0o640 | stat.S_IFREG) == "EEXIST"
    world.mount.sync()
    assert world.api.get(world.api.namespace(here.name), "f") == b""


def test_ownership_is_accepted_and_not_kept(here: Path) -> None:
    """chown succeeds and changes nothing."""
    (here / "f").touch()
    before = (here / "f").stat()
    os.chown(here / "f", os.getuid(), os.getgid())
    if os.getuid() == 0:
        os.chown(here / "f", 1234, 1234)
    after = (here / "f").stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def _locked(path: str, kind: str) -> bool:
    with open(path, "r+b") as file:
        try:
            if kind == "flock":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        except BlockingIOError:
            return True
    return False


def test_locks_hold_between_processes(here: Path) -> None:
    """flock and fcntl locks taken by one process are seen by another of the same mount."""
    path = here / "f"
    path.write_bytes(b"x" * 100)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert pool.apply(_locked, (str(path), "flock"))
            fcntl.flock(file, fcntl.LOCK_UN)
            assert not pool.apply(_locked, (str(path), "flock"))
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 5, 0)
            assert pool.apply(_locked, (str(path), "fcntl"))
        assert not pool.apply(_locked, (str(path), "fcntl"))


def test_df_is_never_empty_and_asks_nothing(world: Standing, here: Path) -> None:
    """statvfs has room, names of 255 bytes, and costs no request."""
    counts = world.counts()
    found = os.statvfs(here)
    assert found.f_blocks > 0
    assert found.f_bavail > 0
    assert found.f_ffree > 0
    assert found.f_namemax == 255
    assert "kvfs" not in world.mount.shell("df . | tail -n +2 | awk '{ if ($2 == 0 || $4 == 0) print }'")
    assert counts.since() == {}


# an unprivileged user


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """Open /dev/fuse to users, as distributions have it."""
    before = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    if os.getuid() == 0:
        os.chmod("/dev/fuse", 0o666)
    yield
    if os.getuid() == 0:
        os.chmod("/dev/fuse", before)


@pytest.mark.usefixtures("fuse_for_all")
def test_an_unprivileged_user_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without any privilege over mounts can mount, work and unmount, by the setuid helper fusermount3."""
    # Root becomes nobody, who may still read this checkout and its Python wherever they lie.
    become: list[str] = []
    if os.getuid() == 0:
        keep = "+dac_read_search"
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        become += [f"--inh-caps=-all,{keep}", f"--ambient-caps=-all,{keep}"]
    home = Path(tempfile.mkdtemp(prefix="kvfs-nobody-"))
    (home / "mnt").mkdir()
    if become:
        for path in (home, home / "mnt"):
            os.chown(path, NOBODY, NOBODY)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [*become, *command], env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        run(*KVFS, "mount", "local:", str(home / "mnt"))
        try:
            assert "CapEff:\t0" in run("grep", "CapEff", "/proc/self/status")
            script = "mkdir ns && echo hello > ns/key && chmod 600 ns/key && cat ns/key"
            assert run("bash", "-ec", f"cd {home}/mnt && {script}") == "hello\n"
            assert run("stat", "-c", "%a", f"{home}/mnt/ns/key") == "600\n"
        finally:
            run(*KVFS, "umount", str(home / "mnt"))
        assert run("ls", str(home / "mnt")) == ""
    finally:
        subprocess.run(["fusermount3", "-uzq", str(home / "mnt")], check=False, capture_output=True)
        shutil.rmtree(home)
