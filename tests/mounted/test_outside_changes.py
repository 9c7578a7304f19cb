"""Changes of others through the API: each shows after the cache time or `kvfs refresh`, and never in halves."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.standing import Namespace, Standing, standing, wait_for

pytestmark = pytest.mark.fuse

TTL = 0.8


@dataclass
class Expiring:
    """A namespace where everything but `stays` expires `at` an epoch second."""

    space: Namespace
    at: int


@pytest.fixture(scope="module")
def quick() -> Iterator[Standing]:
    """A mount that forgets within a second."""
    with standing(f"--cache-ttl={TTL}", "--settle=0.5", "--write-back=0.2", "--timeout=10") as world:
        yield world


@pytest.fixture(scope="module", autouse=True)
def expiring(slow: Standing) -> Expiring:
    """Keys that expire when KV lets them at the earliest: in a minute, while the other tests run."""
    space = slow.namespace()
    at = int(time.time()) + 64
    theirs = {"value": "soon gone", "expiration": at}
    stays = {"key": "stays", "value": "x"}
    slow.api.bulk_put(space.id, [{"key": "d/theirs", **theirs}, {"key": "theirs", **theirs}, stays])
    slow.mount.kvfs("refresh", str(space.path))
    (space.path / "ours").write_text("ours")
    os.setxattr(space.path / "ours", "user.kvfs.expiration", str(at).encode())
    slow.mount.sync()
    return Expiring(space, at)


@pytest.fixture(scope="module")
def slow() -> Iterator[Standing]:
    """A mount that forgets only when it is told to."""
    with standing("--cache-ttl=600", "--settle=0.5", "--write-back=0.2", "--timeout=10") as world:
        yield world


def _pairs(**values: str) -> list[dict[str, str]]:
    return [{"key": key.replace("__", "/"), "value": value} for key, value in values.items()]


def _filled(world: Standing) -> Namespace:
    """Yield a namespace with a few keys that the mount, and the kernel, have seen."""
    space = world.namespace()
    world.api.bulk_put(space.id, _pairs(one="1", two="22", d__three="333", d__four="4444"))
    world.mount.kvfs("refresh", str(space.path))
    wait_for(lambda: _all(space.path) == {"one": "1", "two": "22", "d/three": "333", "d/four": "4444"})
    return space


def _all(top: Path) -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory) / name
            try:
                text = path.read_text()
                assert path.stat().st_size == len(path.read_bytes())
            except FileNotFoundError:  # it went while we looked
                continue
            found[str(path.relative_to(top))] = text
    return found


def _change(world: Standing, space: Namespace) -> dict[str, str]:
    """Change values, add and delete keys, make one directory come and one go; return the new content."""
    world.api.bulk_put(space.id, _pairs(one="eleven", new__key="made", five="5"))
    for key in ("two", "d/three", "d/four"):
        world.api.delete(space.id, key)
    return {"one": "eleven", "new/key": "made", "five": "5"}


def test_changes_show_after_the_cache_time(quick: Standing) -> None:
    """Values, keys and directories changed, added and deleted elsewhere show by themselves after the cache time."""
    space = _filled(quick)
    assert not (space.path / "five").exists()  # the kernel may remember that
    wanted, start = _change(quick, space), time.monotonic()
    wait_for(lambda: _all(space.path) == wanted)
    assert time.monotonic() - start < TTL + 4.0
    assert sorted(os.listdir(space.path)) == ["five", "new", "one"]
    assert not (space.path / "d").exists()


def test_changes_show_after_refresh(slow: Standing) -> None:
    """`kvfs refresh` shows them at once, and before it nothing is asked of the server."""
    space = _filled(slow)
    assert not (space.path / "five").exists()
    counts = slow.counts()
    wanted = _change(slow, space)
    others = counts.since()
    assert _all(space.path) == {"one": "1", "two": "22", "d/three": "333", "d/four": "4444"}
    assert counts.since() == others
    slow.mount.kvfs("refresh", str(space.path))
    wait_for(lambda: _all(space.path) == wanted, 5.0)
    assert not (space.path / "d").exists()


def test_refresh_of_one_file_or_directory(slow: Standing) -> None:
    """A refresh of a path asks anew for what is at and below it only."""
    space = _filled(slow)
    slow.api.bulk_put(space.id, _pairs(one="eleven", two="twenty-two", d__three="33"))
    slow.mount.kvfs("refresh", str(space.path / "one"))
    wait_for(lambda: (space.path / "one").read_text() == "eleven", 5.0)
    assert (space.path / "one").stat().st_size == 6
    assert (space.path / "two").read_text() == "22"
    slow.mount.kvfs("refresh", str(space.path / "d"))
    wait_for(lambda: (space.path / "d/three").read_text() == "33", 5.0)
    assert (space.path / "two").read_text() == "22"


@pytest.mark.parametrize("how", ["ttl", "refresh"])
def test_metadata_and_expirations_follow(quick: Standing, slow: Standing, how: str) -> None:
    """Attributes set, changed and removed elsewhere show as xattrs and mtime."""
    world = quick if how == "ttl" else slow
    space = _filled(world)
    path, expires = space.path / "one", int(time.time()) + 4000

    def changed(**other: object) -> None:
        world.api.bulk_put(space.id, [{"key": "one", "value": "1", **other}])
        if how == "refresh":
            world.mount.kvfs("refresh", str(path))

    changed(metadata={"colour": "red"}, expiration=expires)
    wait_for(lambda: os.listxattr(path) == ["user.colour"])
    assert os.getxattr(path, "user.colour") == b"red"
    wait_for(lambda: path.stat().st_mtime == expires)
    changed(metadata={"colour": "blue", "n": 1}, expiration=expires + 500)
    wait_for(lambda: sorted(os.listxattr(path)) == ["user.colour", "user.n"])
    assert json.loads(os.getxattr(path, "user.kvfs.metadata")) == {"colour": "blue", "n": 1}
    wait_for(lambda: path.stat().st_mtime == expires + 500)
    changed()
    wait_for(lambda: os.listxattr(path) == [])
    wait_for(lambda: path.stat().st_mtime <= time.time())
    assert path.read_text() == "1"


@pytest.mark.parametrize("how", ["ttl", "refresh"])
def test_a_change_moves_the_mtime(quick: Standing, slow: Standing, how: str) -> None:
    """A program that goes by the mtime notices each change of another client, and nothing else."""
    world = quick if how == "ttl" else slow
    space = _filled(world)
    one, two = space.path / "one", space.path / "two"
    for path in (one, two):
        os.utime(path, (10**9, 10**9))
    world.mount.sync()
    start = int(time.time())
    world.api.put(space.id, "one", b"9")
    if how == "refresh":
        time.sleep(0.7)  # our own write of the times' moment has settled
        world.mount.kvfs("refresh", str(space.path))
    wait_for(lambda: one.read_bytes() == b"9")
    assert one.stat().st_mtime >= start
    assert two.read_bytes() == b"22"
    assert two.stat().st_mtime == 10**9


def test_a_reader_never_sees_halves(quick: Standing) -> None:
    """While a value changes in length and bytes, every read gets one whole version of it."""
    space = quick.namespace()
    versions = {letter * (2000 + 3500 * number) for number, letter in enumerate("abcdefgh")}
    quick.api.put(space.id, "k", b"a" * 2000)
    quick.mount.kvfs("refresh", str(space.path))
    wait_for((space.path / "k").exists)
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            with open(space.path / "k", "rb", buffering=0) as file:
                text = file.read().decode()
            if text not in versions:
                wrong.append((len(text), set(text)))
            seen.add(text)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for version in sorted(versions, key=len) + sorted(versions, key=len)[::-2]:
            quick.api.put(space.id, "k", version.encode())
            time.sleep(0.6)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) >= 4


def test_a_size_and_its_bytes_belong_together(quick: Standing) -> None:
    """fstat after open tells the size of exactly the bytes that this open reads."""
    space = quick.namespace()
    for number, length in enumerate((10, 200_000, 0, 77)):
        quick.api.put(space.id, "k", bytes([65 + number]) * length)
        deadline = time.monotonic() + 2 * TTL + 0.2
        while time.monotonic() < deadline:
            try:
                fd = os.open(space.path / "k", os.O_RDONLY)
            except FileNotFoundError:
                continue
            data, size = os.read(fd, 1_000_000), os.fstat(fd).st_size
            os.close(fd)
            assert len(data) == size
            assert len(set(data)) <= 1
            time.sleep(0.05)
        assert (space.path / "k").stat().st_size == length


def test_an_open_handle_keeps_its_view(quick: Standing) -> None:
    """An open handle goes on showing the version it was opened with; a new open shows the new one."""
    space = quick.namespace()
    old, new = b"old " * 50_000, b"new " * 30_000
    quick.api.put(space.id, "k", old)
    quick.mount.kvfs("refresh", str(space.path))
    wait_for((space.path / "k").exists)
    with open(space.path / "k", "rb", buffering=0) as file:
        assert file.read(10) == old[:10]
        quick.api.put(space.id, "k", new)
        time.sleep(TTL + 0.5)
        quick.mount.kvfs("refresh", str(space.path / "k"))
        rest = file.read(1 << 20)
        while more := file.read(1 << 20):
            rest += more
        assert old[:10] + rest == old
        assert os.fstat(file.fileno()).st_size == len(old)
    wait_for(lambda: (space.path / "k").read_bytes() == new)
    assert (space.path / "k").stat().st_size == len(new)


def test_a_deleted_key_stays_with_who_has_it_open(quick: Standing) -> None:
    """A handle reads on after its key was deleted elsewhere, and the name goes."""
    space = _filled(quick)
    with open(space.path / "two", "rb", buffering=0) as file:
        quick.api.delete(space.id, "two")
        wait_for(lambda: "two" not in os.listdir(space.path))
        assert file.read(10) == b"22"
    wait_for(lambda: not (space.path / "two").exists())


def test_our_pending_change_hides_theirs_and_both_are_kept(quick: Standing) -> None:
    """A file edited here and there at once is kept and shown in both versions."""
    space = _filled(quick)
    path = space.path / "one"
    with path.open("r+") as file:
        assert file.read() == "1"
        quick.api.put(space.id, "one", b"theirs")
        file.write(" and ours")
    assert path.read_text() == "1 and ours"
    quick.mount.sync(conflicts=True)
    beside = [key for key in quick.api.keys(space.id) if key.startswith("one.kvfs-conflict-")]
    assert len(beside) == 1
    both = {name: quick.api.get(space.id, name) for name in ("one", beside[0])}
    assert sorted(both.values()) == [b"1 and ours", b"theirs"]
    wait_for(lambda: {name: (space.path / name).read_bytes() for name in both} == both)


def test_keys_expire_on_time_without_a_request(slow: Standing, expiring: Expiring) -> None:
    """At its expiration a key goes from lookups, listings and the kernel's caches, without a request."""
    top, at = expiring.space.path, expiring.at
    names = [top / name for name in ("theirs", "d/theirs", "ours")]
    assert [path.stat().st_mtime for path in names] == [at] * 3
    assert [path.read_text() for path in names] == ["soon gone", "soon gone", "ours"]
    assert sorted(os.listdir(top)) == ["d", "ours", "stays", "theirs"]
    counts = slow.counts()
    time.sleep(max(0.0, at - time.time() - 1.0))
    assert all(path.exists() for path in names)
    while time.time() < at + 0.02:  # the kernel counts in jiffies
        time.sleep(0.005)
    assert [path.name for path in [*names, top / "d"] if path.exists()] == []
    assert os.listdir(top) == ["stays"]
    assert counts.since() == {}
