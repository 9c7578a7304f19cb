"""The journal's disk full, read-only or gone: real small file systems, mounted for the test."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import wait_for

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems of a given size"),
]

LATER = ("--write-back=600", "--settle=1", "--cache-ttl=1")
LARGE = b"\0\xff" * 500_000  # goes to the spool
SMALL = b"x" * 20_000


@contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """Yield a file system of its own at `path`."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "kvfs-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def filled(disk: Path) -> Path:
    """Make a file that leaves not a page free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while answer(file.write, bytes(4096)) == 0:
            pass
    return ballast


def answer(call: Callable[..., object], *args: object) -> int:
    """Return 0, or the errno."""
    try:
        call(*args)
    except OSError as exc:
        return exc.errno or -1
    return 0


def write(path: Path, value: bytes, *, sync: bool = False) -> None:
    """Write one whole file; the result of close counts."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(descriptor, value)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prepared(mount: Mounted) -> Path:
    """Yield a namespace with two values at the server and one that waits."""
    ns = mount.path / "ns"
    ns.mkdir()
    write(ns / "old", b"old")
    write(ns / "gone", b"gone")
    mount.sync()
    write(ns / "kept", b"kept")
    write(ns / "kept large", LARGE)
    return ns


def crowd(ns: Path) -> dict[str, bytes]:
    """Write until the journal takes no more, not even a byte; return the acknowledged writes."""
    taken, left = {}, [SMALL, b"x"]
    for number in range(1000):
        if (refused := answer(write, ns / f"{number}", left[0])) == 0:
            taken[f"{number}"] = left[0]
            continue
        assert refused == errno.ENOSPC
        del left[0]
        if not left:
            return taken
    raise AssertionError("the disk was not full")


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path, server: Served) -> None:
    """close, fsync, rename and others give ENOSPC, acknowledged changes stay, and with room all goes on."""
    with (
        disk(tmp_path / "state", "4m") as state,
        Api(server) as api,
        mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount,
    ):
        ns = prepared(mount)
        ballast = filled(state)
        expected = {"kept": b"kept", "kept large": LARGE, "old": b"old", "gone": b"gone"} | crowd(ns)
        for call in (
            lambda: write(ns / "kept", SMALL),
            lambda: write(ns / "new large", LARGE),
            lambda: write(ns / "new", SMALL, sync=True),
            lambda: os.rename(ns / "kept", ns / "renamed"),
            lambda: os.setxattr(ns / "kept", "user.a", SMALL[:900]),
        ):
            assert answer(call) == errno.ENOSPC
        wait_for(lambda: len(os.listdir(ns)) <= len(expected))  # a refused file goes with its release
        assert {path.name: path.read_bytes() for path in ns.iterdir()} == expected
        ballast.unlink()
        write(ns / "kept", b"again")
        os.rename(ns / "old", ns / "renamed")
        os.unlink(ns / "gone")
        mount.sync()
        namespace = api.namespace("ns")
        expected |= {"kept": b"again", "renamed": expected.pop("old")}
        del expected["gone"]
        assert {key: api.get(namespace, key) for key in api.keys(namespace)} == expected


def test_a_daemon_killed_on_a_full_disk_loses_nothing(tmp_path: Path, server: Served) -> None:
    """The next mount works, or says why not in one line; with room everything acknowledged is sent."""
    with disk(tmp_path / "state", "4m") as state, Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            ns = prepared(mount)
            ballast = filled(state)
            expected = {"kept": b"kept", "kept large": LARGE, "old": b"old", "gone": b"gone"} | crowd(ns)
            mount.kill()
        done = mount.kvfs("mount", "cloudflare:", str(mount.path), check=False)
        if done.returncode == 0:
            mount.kvfs("umount", "--timeout=1", str(mount.path), check=False)
        else:
            assert "No space left" in done.stderr or "make room" in done.stderr
            assert "Traceback" not in done.stderr
        ballast.unlink()
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            mount.sync()
        namespace = api.namespace("ns")
        assert {key: api.get(namespace, key) for key in api.keys(namespace)} == expected


def test_sending_goes_on_when_a_full_disk_has_room_again(tmp_path: Path, server: Served) -> None:
    """A change that the server took and the journal could not note is sent again or noted later."""
    with (
        disk(tmp_path / "state", "4m") as state,
        Api(server) as api,
        mounted(
            tmp_path, "cloudflare:", "--write-back=1", "--settle=1", "--cache-ttl=1", served=server
        ) as mount,
    ):
        ns = prepared(mount)
        ballast = filled(state)
        for number in range(30):
            answer(write, ns / f"{number}", SMALL)
        ballast.unlink()
        mount.sync()
        namespace = api.namespace("ns")
        assert api.get(namespace, "kept large") == LARGE
        assert mount.status()["pending"]["count"] == 0


def test_a_read_only_state_directory_is_said_before_the_mount(tmp_path: Path, server: Served) -> None:
    """A read-only state directory is named before the mount, and its changes are sent when it is writable again."""
    with disk(tmp_path / "state", "8m") as state, Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            prepared(mount)
            mount.kill()
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        done = mount.kvfs("mount", "cloudflare:", str(mount.path), check=False)
        assert done.returncode != 0
        assert str(state) in done.stderr
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,rw", state], check=True)
        with mounted(tmp_path, "cloudflare:", *LATER, served=server):
            pass
        assert api.get(api.namespace("ns"), "kept large") == LARGE


@contextmanager
def ext4(directory: Path) -> Iterator[Path]:
    """Yield an ext4 file system of its own at `directory`/state, in a file."""
    image, path = directory / "image", directory / "state"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-e", "remount-ro", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, path], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_disk_that_turns_read_only_refuses_and_loses_nothing(tmp_path: Path, server: Served) -> None:
    """On a disk that turns read-only after an error, close fails, reading goes on, and the next boot has all."""
    with ext4(tmp_path) as state, Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            ns = prepared(mount)
            os.sync()
            subprocess.run(["mount", "-o", "remount,abort", state], check=True)
            for call in (
                lambda: write(ns / "kept", SMALL),
                lambda: write(ns / "new large", LARGE),
                lambda: os.rename(ns / "kept", ns / "renamed"),
            ):
                assert answer(call) in (errno.ENOSPC, errno.EIO, errno.EROFS)
            assert (ns / "kept").read_bytes() == b"kept"
            assert (ns / "kept large").read_bytes() == LARGE
            mount.kill()
        subprocess.run(["umount", state], check=True)
        subprocess.run(["e2fsck", "-fy", tmp_path / "image"], check=False, capture_output=True)
        subprocess.run(["mount", "-o", "loop", tmp_path / "image", state], check=True)
        with mounted(tmp_path, "cloudflare:", *LATER, served=server):
            pass
        namespace = api.namespace("ns")
        assert {key: api.get(namespace, key) for key in api.keys(namespace)} == {
            "kept": b"kept", "kept large": LARGE, "old": b"old", "gone": b"gone",
        }  # fmt: skip


def test_a_close_that_found_no_room_publishes_nothing(tmp_path: Path, server: Served) -> None:
    """A `cp` over a value that fails for want of room leaves the value here and at the server, also with room again."""
    big, small = tmp_path / "big", tmp_path / "small"
    big.write_bytes(LARGE)
    small.write_bytes(SMALL)
    with (
        disk(tmp_path / "state", "4m") as state,
        Api(server) as api,
        mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount,
    ):
        ns = prepared(mount)
        mount.sync()
        ballast = filled(state)
        crowded = crowd(ns)
        with (ns / "old").open("rb", buffering=0) as reader:  # it keeps what was written there alive
            for source in (big, small):
                done = subprocess.run(["cp", source, ns / "old"], capture_output=True, text=True, check=False)
                assert done.returncode == 1
                assert "No space left on device" in done.stderr
            ballast.unlink()
            assert reader.read(9) == b"old"
        mount.sync()
        assert (ns / "old").read_bytes() == b"old"
        assert api.get(api.namespace("ns"), "old") == b"old"
        assert set(api.keys(api.namespace("ns"))) == {"old", "gone", "kept", "kept large", *crowded}
        assert subprocess.run(["cp", small, ns / "old"], check=False).returncode == 0
        assert (ns / "old").read_bytes() == SMALL
