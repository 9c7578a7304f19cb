"""File semantics through the real kernel: what POSIX promises of an open file holds in a mount."""

import errno
import fcntl
import mmap
import multiprocessing
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mounted import KVFS, REPOSITORY
from support.standing import Standing, standing

pytestmark = pytest.mark.fuse

NOBODY = 65534
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


@pytest.fixture(scope="module")
def world() -> Iterator[Standing]:
    """Short times, so that sending, settling and forgetting all happen while the tests run."""
    with standing("--cache-ttl=1", "--settle=1", "--write-back=0.3", "--timeout=10") as world:
        yield world


@pytest.fixture
def here(world: Standing) -> Path:
    """An empty namespace."""
    return world.namespace().path


def _errno(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*args)
    return errno.errorcode[caught.value.errno]


# contents


def test_random_writes_reads_and_truncations_agree_with_a_plain_buffer(world: Standing, here: Path) -> None:
    """Any sequence of pwrite, pread and ftruncate, reopened now and then, leaves what a buffer would hold."""
    seed = random.randrange(2**32)
    dice, expected, path = random.Random(seed), bytearray(), here / "random"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(600):
        offset, length = dice.randrange(300_000), dice.randrange(1, 40_000)
        what = dice.choice(["write", "write", "read", "truncate", "reopen"])
        if what == "write":
            data = dice.randbytes(length)
            assert os.pwrite(fd, data, offset) == length
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + length] = data
        elif what == "read":
            assert os.pread(fd, length, offset) == expected[offset : offset + length], seed
        elif what == "truncate":
            os.ftruncate(fd, offset)
            del expected[offset:]
            expected.extend(bytes(offset - len(expected)))
        elif dice.random() < 0.2:
            os.close(fd)
            fd = os.open(path, os.O_RDWR)
        assert os.fstat(fd).st_size == len(expected), seed
    os.close(fd)
    assert path.read_bytes() == expected, seed
    world.mount.sync()
    assert world.api.get(world.api.namespace(here.name), "random") == expected


def test_appends_of_several_handles_follow_each_other(here: Path) -> None:
    """O_APPEND writes at the end, wherever another handle has put it meanwhile."""
    path = here / "log"
    one, two = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
    for number in range(50):
        os.write(one, b"a%02d\n" % number)
        os.write(two, b"b%02d\n" % number)
    os.close(one)
    os.write(two, b"end\n")
    os.close(two)
    assert path.read_bytes() == b"".join(b"a%02d\nb%02d\n" % (n, n) for n in range(50)) + b"end\n"


def _append(path: str, letter: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        for _ in range(100):
            file.write(letter * 99 + b"\n")


def test_appends_of_several_processes_are_whole_lines(here: Path) -> None:
    """Four processes append to one file: every line is whole and none is lost."""
    path = here / "log"
    path.touch()
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_append, args=(str(path), letter)) for letter in (b"a", b"b", b"c", b"d")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == sorted(letter * 99 for letter in (b"a", b"b", b"c", b"d") for _ in range(100))


def test_truncate_works_up_and_down_on_open_and_closed_files(here: Path) -> None:
    """What is cut off is gone, what is added is zeros, and a shorter write leaves nothing behind."""
    path = here / "f"
    path.write_bytes(b"0123456789")
    os.truncate(path, 4)
    os.truncate(path, 8)
    assert path.read_bytes() == b"0123\0\0\0\0"
    with path.open("r+b") as file:
        file.truncate(2)
        file.seek(5)
        file.write(b"x")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 6
        assert path.read_bytes() == b"01\0\0\0x"
    os.truncate(path, 0)
    assert path.stat().st_size == 0
    assert _errno(os.truncate, path, 25 * 1024 * 1024 + 1) == "EFBIG"
    assert _errno(os.truncate, path, 10**15) == "EFBIG"
    assert path.stat().st_size == 0


def test_holes_read_as_zeros(here: Path) -> None:
    """A write far behind the end leaves zeros between; SEEK_HOLE and SEEK_DATA take all of it for data."""
    path = here / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"end", 1_000_000)
    assert os.pread(fd, 10, 500_000) == bytes(10)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 1_000_003
    assert _errno(os.lseek, fd, 1_000_003, os.SEEK_DATA) == "ENXIO"
    os.close(fd)
    assert path.read_bytes() == bytes(1_000_000) + b"end"
    subprocess.run(["cp", "--sparse=always", path, here / "copy"], check=True)
    assert (here / "copy").read_bytes() == path.read_bytes()


def test_posix_fallocate_extends_with_zeros(here: Path) -> None:
    """The C library's emulation serves; the kernel's own fallocate says that it is not there."""
    path = here / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"abc")
    os.posix_fallocate(fd, 0, 10_000)
    os.close(fd)
    assert path.read_bytes() == b"abc" + bytes(9_997)
    done = subprocess.run(["fallocate", "-l", "100", path], capture_output=True, text=True, check=False)
    assert "not supported" in done.stderr


def test_shared_writable_mappings_reach_the_value(world: Standing, here: Path) -> None:
    """What is stored into a shared mapping is read by others at once and sent in the end."""
    path = here / "mapped"
    path.write_bytes(bytes(10_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[5_000:5_005] = b"hello"
        view.flush()
        assert path.read_bytes()[5_000:5_005] == b"hello"
        view[0:3] = b"abc"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[0:3] == b"abc"
    world.mount.sync()
    stored = world.api.get(world.api.namespace(here.name), "mapped")
    assert stored is not None
    assert (stored[:3], stored[5_000:5_005], len(stored)) == (b"abc", b"hello", 10_000)


def test_a_mapping_outlives_its_descriptor(world: Standing, here: Path) -> None:
    """Bytes stored after close(2), while only the mapping holds the file, are not lost."""
    path = here / "mapped"
    path.write_bytes(bytes(5_000))
    fd = os.open(path, os.O_RDWR)
    view = mmap.mmap(fd, 0)
    os.close(fd)
    view[100:105] = b"later"
    view.close()
    world.mount.sync()
    assert path.read_bytes()[100:105] == b"later"
    stored = world.api.get(world.api.namespace(here.name), "mapped")
    assert stored is not None
    assert stored[100:105] == b"later"


def test_handles_see_each_others_writes(here: Path) -> None:
    """Every handle on a file, and stat, sees a write at once, closed or not."""
    path = here / "f"
    path.write_bytes(b"old")
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    assert os.pread(reader, 100, 0) == b"old"
    os.pwrite(writer, b"newer", 0)
    assert os.pread(reader, 100, 0) == b"newer"
    assert os.fstat(reader).st_size == path.stat().st_size == 5
    third = os.open(path, os.O_WRONLY | os.O_TRUNC)
    assert os.pread(reader, 100, 0) == b""
    os.write(third, b"x")
    assert path.read_bytes() == b"x"
    for fd in (reader, writer, third):
        os.close(fd)


# names and open files


def test_an_unlinked_file_stays_with_who_has_it_open(world: Standing, here: Path) -> None:
    """It can be read and written after unlink; its name is free; nothing of it is ever sent."""
    path = here / "f"
    path.write_bytes(b"kept")
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    assert not path.exists()
    os.pwrite(fd, b" and more", 4)
    assert os.pread(fd, 100, 0) == b"kept and more"
    assert os.fstat(fd).st_size == 13
    assert os.fstat(fd).st_nlink == 0
    path.write_bytes(b"another")
    assert os.pread(fd, 100, 0) == b"kept and more"
    os.fsync(fd)
    os.close(fd)
    assert path.read_bytes() == b"another"
    path.unlink()
    world.mount.sync()
    assert world.api.keys(world.api.namespace(here.name)) == {}


def test_an_open_file_goes_along_with_its_rename(world: Standing, here: Path) -> None:
    """Writes after a rename land under the new name, in and out of directories."""
    (here / "d").mkdir()
    fd = os.open(here / "old", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"one ")
    os.rename(here / "old", here / "d/new")
    os.write(fd, b"two ")
    os.rename(here / "d", here / "e")
    os.write(fd, b"three")
    assert os.pread(fd, 100, 0) == b"one two three"
    os.close(fd)
    assert (here / "e/new").read_bytes() == b"one two three"
    assert not (here / "old").exists()
    world.mount.sync()
    assert set(world.api.keys(world.api.namespace(here.name))) == {"e/new"}


def test_rename_over_an_open_file(here: Path) -> None:
    """The name shows the new file; who has the old one open keeps the old one."""
    (here / "target").write_bytes(b"old")
    (here / "source").write_bytes(b"new")
    fd = os.open(here / "target", os.O_RDWR)
    os.rename(here / "source", here / "target")
    assert (here / "target").read_bytes() == b"new"
    assert os.pread(fd, 10, 0) == b"old"
    os.pwrite(fd, b"OLD", 0)
    os.close(fd)
    assert (here / "target").read_bytes() == b"new"
    assert os.listdir(here) == ["target"]


def test_rename_refuses_what_posix_refuses(here: Path) -> None:
    """A directory replaces only an empty directory, a file only a file, and nothing goes into itself."""
    for name in ("file", "empty/", "full/x", "dir/y"):
        path = here / name
        path.mkdir() if name.endswith("/") else (path.parent.mkdir(exist_ok=True), path.write_bytes(b"1"))
    assert _errno(os.rename, here / "dir", here / "full") == "ENOTEMPTY"
    assert _errno(os.rename, here / "dir", here / "file") == "ENOTDIR"
    assert _errno(os.rename, here / "file", here / "dir") == "EISDIR"
    assert _errno(os.rename, here / "dir", here / "dir/below") == "EINVAL"
    assert _errno(os.rename, here / "none", here / "file") == "ENOENT"
    os.rename(here / "dir", here / "empty")
    assert sorted(os.listdir(here)) == ["empty", "file", "full"]
    assert (here / "empty/y").read_bytes() == b"1"


def test_rename_flags(here: Path) -> None:
    """RENAME_NOREPLACE is honoured, RENAME_EXCHANGE is not there."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    (here / "a").write_bytes(b"a")
    (here / "b").write_bytes(b"b")

    def renameat2(old: str, new: str, flags: int) -> int:
        done = libc.renameat2(-100, os.fsencode(here / old), -100, os.fsencode(here / new), flags)
        return 0 if done == 0 else ctypes.get_errno()

    assert renameat2("a", "b", RENAME_NOREPLACE) == errno.EEXIST
    assert renameat2("a", "b", RENAME_EXCHANGE) == errno.EINVAL
    assert renameat2("a", "c", RENAME_NOREPLACE) == 0
    assert sorted(os.listdir(here)) == ["b", "c"]


def _create(path: str, start: float) -> int:
    time.sleep(max(0.0, start - time.time()))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return 0
    return 1


def test_only_one_process_creates_exclusively(here: Path) -> None:
    """O_EXCL of several processes on one name: one wins."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_create, [(str(here / f"warm{number}"), 0.0) for number in range(4)])
        for number in range(10):
            won = pool.starmap(_create, [(str(here / f"lock{number}"), time.time() + 0.02)] * 4)
            assert sum(won) == 1


def test_exclusive_creation_sees_the_servers_keys(world: Standing) -> None:
    """A key that another client made is there for O_EXCL too."""
    space = world.namespace()
    world.api.put(space.id, "theirs", b"x")
    time.sleep(1.2)
    assert _errno(os.open, space.path / "theirs", os.O_CREAT | os.O_EXCL) == "EEXIST"


# directories


def test_a_directory_that_is_not_empty_stays(here: Path) -> None:
    """rmdir of one with a file, pending or not, with a directory, or with an open new file: ENOTEMPTY."""
    (here / "d/e").mkdir(parents=True)
    assert _errno(os.rmdir, here / "d") == "ENOTEMPTY"
    (here / "d/e").rmdir()
    fd = os.open(here / "d/new", os.O_CREAT | os.O_WRONLY)
    assert _errno(os.rmdir, here / "d") == "ENOTEMPTY"
    os.close(fd)
    assert _errno(os.rmdir, here / "d") == "ENOTEMPTY"
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


def test_readdir_is_stable_while_the_directory_changes(here: Path) -> None:
    """What was there before and after a walk shows once in it, whatever was removed and made on the way."""
    for number in range(3000):
        (here / f"stays-{number:04}").touch()
    for number in range(500):
        (here / f"goes-{number:03}").touch()
    seen = []
    with os.scandir(here) as walk:
        for count, entry in enumerate(walk):
            seen.append(entry.name)
            if count % 10 == 0 and count // 10 < 300:
                (here / f"new-{count:05}").touch()
                (here / f"goes-{count // 10:03}").unlink(missing_ok=True)
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name.startswith("stays")} == {f"stays-{n:04}" for n in range(3000)}
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
    assert [name for name in again if name not in ("added", "f0001")] == wanted, (index, again[:3], wanted[:3])
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
    """EPERM for what KV has no place for."""
    (here / "f").touch()
    assert _errno(os.link, here / "f", here / "hard") == "EPERM"
    assert _errno(os.symlink, "f", here / "soft") == "EPERM"
    assert _errno(os.mkfifo, here / "fifo") == "EPERM"
    assert os.listdir(here) == ["f"]


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
    """/dev/fuse open to users, as distributions have it."""
    before = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    if os.getuid() == 0:
        os.chmod("/dev/fuse", 0o666)
    yield
    if os.getuid() == 0:
        os.chmod("/dev/fuse", before)


@pytest.mark.usefixtures("fuse_for_all")
def test_an_unprivileged_user_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any privilege over mounts: mount, work, unmount, by the setuid helper fusermount3."""
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
