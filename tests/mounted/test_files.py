"""File semantics through the real kernel: the promises of POSIX about an open file hold in a mount."""

import ctypes
import errno
import mmap
import multiprocessing
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from support.standing import Standing, errno_of

pytestmark = pytest.mark.fuse

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


OPTIONS = ("--cache-ttl=1", "--settle=1", "--write-back=0.3", "--timeout=10")
"""Short times, so that sending, settling and forgetting all happen while the tests run."""


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
    """O_APPEND writes at the end, also after another handle has moved it."""
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
    """Truncated bytes are gone, added bytes are zeros, and a shorter write leaves nothing behind."""
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
    assert errno_of(os.truncate, path, 25 * 1024 * 1024 + 1) == "EFBIG"
    assert errno_of(os.truncate, path, 10**15) == "EFBIG"
    assert path.stat().st_size == 0


def test_holes_read_as_zeros(here: Path) -> None:
    """A write far behind the end leaves zeros between; SEEK_HOLE and SEEK_DATA take all of it for data."""
    path = here / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"end", 1_000_000)
    assert os.pread(fd, 10, 500_000) == bytes(10)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 1_000_003
    assert errno_of(os.lseek, fd, 1_000_003, os.SEEK_DATA) == "ENXIO"
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
    """Bytes stored into a shared mapping are read by others at once and sent in the end."""
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


def _map_elsewhere(path: str, wanted: bytes, reply: bytes) -> bool:
    """Wait in a mapping of another process until the bytes are there, and store others behind them."""
    deadline = time.monotonic() + 20
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        while view[: len(wanted)] != wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        view[100 : 100 + len(reply)] = reply
    return True


def test_two_processes_share_a_mapping(here: Path) -> None:
    """Bytes that one process stores the other sees, without msync and without closing."""
    path = here / "mapped"
    path.write_bytes(bytes(8192))
    pool = multiprocessing.get_context("spawn").Pool(1)
    with pool, path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        answer = pool.apply_async(_map_elsewhere, (str(path), b"ping", b"pong"))
        view[:4] = b"ping"
        assert answer.get(30)
        assert view[100:104] == b"pong"
    content = path.read_bytes()
    assert (content[:4], content[100:104], len(content)) == (b"ping", b"pong", 8192)


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
    assert errno_of(os.rename, here / "dir", here / "full") == "ENOTEMPTY"
    assert errno_of(os.rename, here / "dir", here / "file") == "ENOTDIR"
    assert errno_of(os.rename, here / "file", here / "dir") == "EISDIR"
    assert errno_of(os.rename, here / "dir", here / "dir/below") == "EINVAL"
    assert errno_of(os.rename, here / "none", here / "file") == "ENOENT"
    os.rename(here / "dir", here / "empty")
    assert sorted(os.listdir(here)) == ["empty", "file", "full"]
    assert (here / "empty/y").read_bytes() == b"1"


def test_rename_flags(here: Path) -> None:
    """RENAME_NOREPLACE is honoured, RENAME_EXCHANGE is not there."""
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
    assert errno_of(os.open, space.path / "theirs", os.O_CREAT | os.O_EXCL) == "EEXIST"
