"""The short ways through a mount: nothing is lost, out of date or standing still because of them."""

import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, mounted
from support.serving import served_by_process
from support.standing import Namespace, Standing, errno_of, wait_for

pytestmark = pytest.mark.fuse
OPTIONS = (*QUICK, "--write-back=0.2")


def everything(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return name → inode, size, mode and mtime, as a listing shows them."""
    with os.scandir(directory) as entries:
        found = {entry.name: entry.stat() for entry in entries}
    return {name: (s.st_ino, s.st_size, s.st_mode, int(s.st_mtime)) for name, s in found.items()}


class Shadow:
    """A large file written by several handles at once, and its right content."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.content = bytearray()
        self.handles = [os.open(path, os.O_RDWR | os.O_CREAT)]
        self.write_anew()

    def step(self) -> None:
        """Append much, change the middle, cut, close one of the handles, open another, or map."""
        act = self.random.choice(
            [self.append] * 3 + [self.write_anew, self.amid, self.cut, self.close, self.open, self.map]
        )
        act()

    def write_anew(self) -> None:
        """Write from nothing in large pieces, which are on their way to the disk when the next change comes."""
        os.ftruncate(self.handles[0], 0)
        self.content = bytearray()
        for _ in range(6):
            data = self.random.randbytes(128 * 1024)
            os.pwrite(self.handles[0], data, len(self.content))
            self.content += data

    def append(self) -> None:
        """Write at the end, in pieces as a copy makes them."""
        data = self.random.randbytes(self.random.choice([100, 40_000, 128 * 1024, 700_000]))
        os.pwrite(self.random.choice(self.handles), data, len(self.content))
        self.content += data

    def amid(self) -> None:
        """Write somewhere before the end."""
        at, data = self.random.randint(0, len(self.content)), self.random.randbytes(5000)
        os.pwrite(self.random.choice(self.handles), data, at)
        self.content[at : at + len(data)] = data

    def cut(self) -> None:
        """Cut it shorter, or extend it with zeros."""
        size = self.random.choice([0, len(self.content) // 2, len(self.content) + 3000])
        os.ftruncate(self.random.choice(self.handles), size)
        self.content = self.content[:size] + bytes(max(0, size - len(self.content)))

    def close(self) -> None:
        """Close a handle, which records; the others go on."""
        if len(self.handles) > 1:
            os.close(self.handles.pop(self.random.randrange(len(self.handles))))

    def open(self) -> None:
        """Open one more, which must read the present content."""
        self.handles.append(os.open(self.path, os.O_RDWR))
        assert self.path.read_bytes() == self.content

    def map(self) -> None:
        """Change it through memory."""
        if len(self.content) < 9000:
            return
        at = self.random.randint(0, len(self.content) - 10)
        with mmap.mmap(self.handles[0], len(self.content)) as view:
            view[at : at + 10] = b"0123456789"
            view.flush()
        self.content[at : at + 10] = b"0123456789"

    def end(self) -> None:
        """Close all handles."""
        for handle in self.handles:
            os.close(handle)


@pytest.mark.parametrize("seed", range(2))
def test_a_large_file_written_every_way_is_what_was_written(
    world: Standing, space: Namespace, seed: int
) -> None:
    """A large file changed in every way through several handles while it goes to the disk is right in every byte."""
    shadow = Shadow(space.path / "f", seed)
    for _ in range(40):
        shadow.step()
    shadow.end()
    assert (space.path / "f").read_bytes() == shadow.content
    world.mount.sync()
    assert world.api.get(space.id, "f") == shadow.content


def test_two_closes_of_a_growing_file_at_once(world: Standing, space: Namespace) -> None:
    """If one handle closes while the other appends, the content of the last close is there, whole."""
    path = space.path / "f"
    first = os.open(path, os.O_WRONLY | os.O_CREAT)
    content = bytearray()
    for _ in range(4):
        second = os.open(path, os.O_WRONLY)
        for _ in range(4):
            data = os.urandom(400_000)
            os.pwrite(first, data, len(content))
            content += data
        closer = threading.Thread(target=os.close, args=(second,))
        closer.start()
        data = os.urandom(300_000)
        os.pwrite(first, data, len(content))
        content += data
        closer.join()
        os.close(os.dup(first))
    os.close(first)
    world.mount.sync()
    assert world.api.get(space.id, "f") == content == path.read_bytes()
    assert not list(world.mount.state.glob("**/*.spool/*.tmp"))


def test_a_listing_follows_every_kind_of_change(world: Standing, space: Namespace) -> None:
    """A listing that was read twice, so that it may be repeated, shows every later change."""
    here = space.path
    (here / "d").mkdir()
    for name in "abc":
        (here / "d" / name).write_text(name)

    def listed(directory: Path) -> dict[str, tuple[int, int, int, int]]:
        return [everything(directory) for _ in range(3)][-1]

    before = listed(here / "d")
    (here / "d/a").chmod(0o600)
    assert listed(here / "d")["a"][2] & 0o777 == 0o600
    os.utime(here / "d/b", (1_000_000_000, 1_000_000_000))
    assert listed(here / "d")["b"][3] == 1_000_000_000
    os.truncate(here / "d/c", 10)
    assert listed(here / "d")["c"][1] == 10
    with (here / "d/a").open("ab") as file:
        file.write(b"more")
        file.flush()
        assert listed(here / "d")["a"][1] == 5
        os.ftruncate(file.fileno(), 2)
        assert listed(here / "d")["a"][1] == 2
        os.fchmod(file.fileno(), 0o640)
        assert listed(here / "d")["a"][2] & 0o777 == 0o640
    (here / "d/a").unlink()
    assert set(listed(here / "d")) == {"b", "c"}
    (here / "d/a").write_text("another")
    assert listed(here / "d")["a"][0] != before["a"][0]
    assert listed(here / "d")["a"][1] == 7
    (here / "d/a").rename(here / "d/b")
    assert {name: one[1] for name, one in listed(here / "d").items()} == {"b": 7, "c": 10}
    (here / "d").rename(here / "e")
    assert set(listed(here / "e")) == {"b", "c"}
    (here / "d").mkdir()
    assert listed(here / "d") == {}
    os.setxattr(here / "e/b", "user.kvfs.expiration", str(int(time.time()) + 3600).encode())
    assert listed(here / "e")["b"][3] > time.time() + 3000
    world.mount.sync()
    world.api.put(space.id, "e/b", b"theirs, much longer")
    world.api.put(space.id, "e/z", b"new")
    world.api.delete(space.id, "e/c")

    def theirs() -> bool:
        try:
            return {name: one[1] for name, one in listed(here / "e").items()} == {"b": 19, "z": 3}
        except FileNotFoundError:  # deleted between the listing and the look at it
            return False

    wait_for(theirs)
    assert (here / "e/b").read_bytes() == b"theirs, much longer"


def test_pages_are_never_anothers(world: Standing, space: Namespace) -> None:
    """A file read, then replaced in every way, here and elsewhere, is read with its new content."""
    path = space.path / "f"
    for size in (10, 5000, 300_000):
        contents = [os.urandom(size) for _ in range(4)]
        path.write_bytes(contents[0])
        assert path.read_bytes() == path.read_bytes() == contents[0]
        (space.path / "g").write_bytes(contents[1])
        (space.path / "g").rename(path)
        assert path.read_bytes() == contents[1]
        path.unlink()
        path.write_bytes(contents[2])
        assert path.read_bytes() == contents[2]
        world.mount.sync()
        world.api.put(space.id, "f", contents[3])
        wait_for(lambda: path.read_bytes() == contents[3])  # noqa: B023
        with path.open("r+b") as file:
            file.seek(size - 1)
            file.write(b"!")
        assert path.read_bytes() == contents[3][:-1] + b"!"


BUSY = """
import os, sys, time
while True:
    os.stat(sys.argv[1])
    with open(sys.argv[1]) as file: file.read()
    os.listdir(os.path.dirname(sys.argv[1]))
"""


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Yield processes that talk to the mount without a break."""
    found = [
        subprocess.Popen([sys.executable, "-c", BUSY, path], stderr=subprocess.DEVNULL) for _ in range(2)
    ]
    try:
        yield
    finally:
        for one in found:
            one.kill()
            one.wait()


def test_the_rest_of_the_daemon_goes_on_under_load(world: Standing, space: Namespace) -> None:
    """While programs never pause, changes are sent and the control socket answers."""
    (space.path / "read").write_text("all the time")
    with busy(space.path / "read"):
        for n in range(2):
            (space.path / "sent").write_text(f"while others are busy {n}")
            wait_for(lambda: world.api.get(space.id, "sent") == b"while others are busy %d" % n, 5.0)  # noqa: B023
            assert world.mount.status()["pending"] is not None


def test_a_hundred_stalled_reads_stop_nobody(tmp_path: Path) -> None:
    """A hundred stalled reads fail each in its time, and cached values are read meanwhile."""
    with (
        served_by_process(tmp_path, faults="") as served,
        Api(served) as api,
        mounted(tmp_path, "cloudflare:", "--settle=1", "--timeout=1", served=served) as mount,
    ):
        here = mount.path / "ns"
        here.mkdir()
        api.bulk_put(api.namespace("ns"), [{"key": f"k{n}", "value": "x" * n} for n in range(100)])
        mount.kvfs("refresh", str(here))
        assert len(list(here.iterdir())) == 100
        (here / "mine").write_text("mine")
        api.set_faults(
            {"fault": "stall", "seconds": 60, "path": "/bulk"},
            {"fault": "stall", "seconds": 60, "path": "/values"},
        )
        failed: list[str] = []
        try:
            readers = [
                threading.Thread(target=lambda n=n: failed.append(errno_of((here / f"k{n}").read_bytes)))
                for n in range(1, 100)
            ]
            for reader in readers:
                reader.start()
            start = time.monotonic()
            for n in range(50):
                assert (here / "mine").read_text()[:4] == "mine"
                (here / "mine").write_text(f"mine{n}")
            assert time.monotonic() - start < 2.0
            for reader in readers:
                reader.join(20)
                assert not reader.is_alive()
        finally:
            api.set_faults()
        assert len(failed) == 99


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_the_mount(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends the mount though programs never pause, and closed files are sent."""
    with mounted(tmp_path, f"local:{tmp_path}/store.db", "--write-back=600") as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/kept").write_text("kept")
        with busy(mount.path / "ns/kept"):
            mount.process.send_signal(number)
            assert mount.process.wait(10) == 0
