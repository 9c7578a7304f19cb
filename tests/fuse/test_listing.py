"""READDIRPLUS without a kernel: a repeated listing says the same as a new one would, at any length."""

import pyfuse3
import pytest
from support.clock import Clock
from support.rig import Rig, open_rig

from kvfs.core.model import Entry, Key
from kvfs.fuse.operations import Operations
from kvfs.vfs.answers import answered

Told = dict[str, tuple[int, int, int, int]]


class Reader:
    """Reads a directory as the kernel does, an answer of `room` entries at a time; forgets nothing by itself."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, room: int = 1 << 30) -> None:
        self.rig = rig
        self.ops = Operations(rig.fs, uid=0, gid=0)
        self._room = room
        self._answer: list[tuple[str, tuple[int, int, int, int], int]] = []
        monkeypatch.setattr(pyfuse3, "readdir_reply", self._reply)

    def _reply(self, token, name, entry, offset) -> bool:
        if len(self._answer) >= self._room:
            return False
        known = entry.st_size if entry.attr_timeout > 0 else -1
        shown = (entry.st_ino, known, entry.st_mode, entry.st_mtime_ns // 10**9)
        self._answer.append((name.decode(), shown, offset))
        return True

    async def read(self, path: str) -> Told:
        """Return the entries but for the dots: number, size (-1: the kernel has to ask), mode, mtime."""
        node = await answered(self.rig.fs.tree.lookup(1, b"ns"))
        for name in path.split("/")[1:]:
            node = await answered(self.rig.fs.tree.lookup(node.ino, name.encode()))
        number = await answered(self.rig.fs.directories.opendir(node.ino))
        told, offset = {}, 0
        while True:
            self._answer.clear()
            await self.ops.readdir(number, offset, None)
            if not self._answer:
                break
            for name, shown, after in self._answer:
                assert name not in told, f"{name} is told twice"
                told[name], offset = shown, after
        self.rig.fs.handles.remove(number)
        return {name: shown for name, shown in told.items() if name not in (".", "..")}


@pytest.fixture
async def rig(tmp_path):
    async with open_rig(tmp_path, now=Clock(), cache_ttl=60.0) as rig:
        yield rig


@pytest.fixture(params=[5000, 3], ids=["moderate", "large"])
def moderate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a listing count as large from three entries on, so that it is repeated in the other way."""
    for module in ("dirstream", "retold"):
        monkeypatch.setattr(f"kvfs.vfs.{module}.KEPT_ENTRIES", request.param)


@pytest.mark.usefixtures("moderate")
@pytest.mark.parametrize("room", [1, 3, 1000])
async def test_what_is_told_again_is_what_stat_says(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """After every kind of change, the third reading shows numbers, sizes, modes and times as of now."""
    kernel, reader = rig.kernel, Reader(rig, monkeypatch, room)
    for number in range(6):
        await rig.other(f"d/k{number}", b"x" * number, metadata=b'{"a":1}' if number == 5 else None)
    await rig.other("d/below/x", b"")
    await rig.other("d/passing", b"x", ahead=100)

    async def check() -> Told:
        for _ in range(2):
            await reader.read("ns/d")
        told = await reader.read("ns/d")
        assert set(told) == set(await kernel.listdir("ns/d"))
        for name, (ino, size, mode, mtime) in told.items():
            attr = await kernel.stat(f"ns/d/{name}")
            assert (ino, mode & 0o777, mtime) == (attr.ino, attr.mode, attr.mtime), name
            assert size in (-1, attr.size), name
        return told

    await check()
    await kernel.read("ns/d/k3")
    assert (await check())["k3"][1] == 3
    await kernel.setattr("ns/d/k1", mode=0o600)
    await kernel.utimens("ns/d/k2", 1_000_000_000)
    await check()
    await kernel.write("ns/d/new", b"12345")
    assert (await check())["new"][1] == 5
    await rig.drain()
    assert (await check())["new"][1] == 5
    await kernel.unlink("ns/d/k0")
    assert "k0" not in await check()
    await kernel.rename("ns/d/new", "ns/d/k1")
    assert (await check())["k1"][1] == 5
    rig.now.advance(101)
    assert "passing" not in await check()


async def test_a_large_listing_is_told_again_without_looking_at_each_key(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third reading on, a large listing looks up no key in journal, listing and caches."""
    count = 6_000
    await rig.backend.bulk_put(rig.namespace, {Key(f"d/{number:05}"): Entry(b"1") for number in range(count)})
    reader = Reader(rig, monkeypatch, room=500)
    looks = []
    peek = rig.fs.overlay.known.peek
    monkeypatch.setattr(
        rig.fs.overlay.known, "peek", lambda *place, **how: looks.append(place) or peek(*place, **how)
    )
    first = await reader.read("ns/d")
    assert len(await reader.read("ns/d")) == len(first) == count
    looks.clear()
    assert await reader.read("ns/d") == first
    assert len(looks) < 100


async def test_the_kernels_references_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry given to the kernel is one reference more, and when all are forgotten the tables are empty."""
    monkeypatch.setattr("kvfs.vfs.dirstream.KEPT_ENTRIES", 2)
    for number in range(9):
        await rig.other(f"d/{number}", b"1")
    reader = Reader(rig, monkeypatch, room=4)
    readings = [await reader.read("ns/d") for _ in range(5)]
    assert all(reading == readings[0] for reading in readings)
    for ino, *_ in readings[0].values():
        rig.fs.inodes.forget(ino, 4)
        assert rig.fs.inodes.find(ino) is not None
        rig.fs.inodes.forget(ino, 1)
        assert rig.fs.inodes.find(ino) is None
