"""A file that a program has open pins its version for that program, and for nobody else on the mount."""

import mmap
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.standing import Namespace, Standing, standing, wait_for

pytestmark = pytest.mark.fuse

OLD, NEW = "the first version\n" * 500, "something else\n" * 900


@pytest.fixture(scope="module")
def slow() -> Iterator[Standing]:
    """A mount that forgets only when it is told to."""
    with standing("--cache-ttl=600", "--settle=0", "--write-back=600", "--timeout=10") as world:
        yield world


@pytest.fixture(scope="module")
def quick() -> Iterator[Standing]:
    """A mount that forgets within a second."""
    with standing("--cache-ttl=0.8", "--settle=0", "--write-back=600", "--timeout=10") as world:
        yield world


def filled(world: Standing) -> Namespace:
    """Yield a namespace with a file `f`."""
    space = world.namespace()
    change(world, space, OLD)
    world.mount.kvfs("refresh", str(space.path))
    return space


def change(world: Standing, space: Namespace, value: str, metadata: object = None) -> None:
    """Write `f` as another client."""
    world.api.bulk_put(space.id, [{"key": "f", "value": value, "metadata": metadata}])


def test_a_reader_that_stays_open_pins_nothing_for_others(slow: Standing) -> None:
    """A descriptor and a mapping keep the old bytes, never a mixture, while an open of the name gets the new ones."""
    space = filled(slow)
    path = space.path / "f"
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert mapping[:4096] == OLD.encode()[:4096]  # the rest is not in the kernel's pages yet
        change(slow, space, NEW, {"k": "v"})
        slow.mount.kvfs("refresh", str(space.path))
        assert path.read_text() == NEW
        assert path.stat().st_size == len(NEW)
        assert os.getxattr(path, "user.k") == b"v"
        assert os.fstat(file.fileno()).st_size == len(OLD)
        assert os.pread(file.fileno(), 1 << 20, 0).decode() == OLD
        assert mapping[:].decode() == OLD
        mapping.close()
    assert path.read_text() == NEW


def test_a_follower_does_not_keep_a_change_from_others(quick: Standing) -> None:
    """While `tail -f` has a file open, another client's change shows after `--cache-ttl`, and `>>` is no conflict."""
    space = filled(quick)
    path = space.path / "f"
    with subprocess.Popen(["tail", "-f", str(path)], stdout=subprocess.PIPE) as tail:
        try:
            assert tail.stdout is not None
            assert tail.stdout.readline() == OLD.encode().splitlines(keepends=True)[0]
            change(quick, space, NEW)
            wait_for(lambda: path.read_text() == NEW)
            with path.open("a") as file:
                file.write("more\n")
            quick.mount.sync()
            assert quick.api.get(space.id, "f") == (NEW + "more\n").encode()
            assert list(quick.api.keys(space.id)) == ["f"]
        finally:
            tail.terminate()


def test_a_writer_that_lost_the_name_is_kept_beside_it(slow: Standing) -> None:
    """If another client wrote while a file was open for writing, both versions are at the server."""
    space = filled(slow)
    path = space.path / "f"
    with path.open("r+") as file:
        file.read()
        change(slow, space, NEW)
        slow.mount.kvfs("refresh", str(space.path))
        assert path.read_text() == NEW
        file.seek(0)
        file.write("MY")
    slow.mount.sync(conflicts=True)
    found = {key: slow.api.get(space.id, key) for key in slow.api.keys(space.id)}
    assert found.pop("f") == NEW.encode()
    [(copy, value)] = found.items()
    assert value == b"MY" + OLD.encode()[2:]
    assert (space.path / copy).read_bytes() == value


def test_nobody_meets_a_mixture_or_a_stale_handle(quick: Standing) -> None:
    """While another client writes on and some hold the file open, others open, stat and read it whole."""
    space = filled(quick)
    path: Path = space.path / "f"
    allowed = [f"{number}" * (500 + 400 * number) for number in range(8)]
    change(quick, space, allowed[0])
    wait_for(lambda: path.read_text() == allowed[0])
    stop, faults = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                with path.open() as file:
                    text = file.read()
                    assert text in allowed, text[:20]
                    path.stat()
                    assert os.pread(file.fileno(), 1 << 20, 0).decode() == text
            except (OSError, AssertionError) as exc:
                faults.append(exc)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for value in allowed[1:]:
            change(quick, space, value)
            wait_for(lambda value=value: path.read_text() == value)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert faults == []
