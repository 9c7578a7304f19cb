"""A server with old answers, as KV may have: the mount never goes back behind its own changes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served, served_by_process

pytestmark = pytest.mark.fuse

STALE = 3.0  # seconds that an answer may be old
SETTLE = 9  # seconds: enough for a mount on a busy machine
OPTIONS = (f"--settle={SETTLE}", "--cache-ttl=0.2", "--write-back=0.05")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server whose lists, values and negative answers are up to STALE seconds old."""
    with served_by_process(tmp_path, faults="") as served, Api(served) as api:
        read = {"fault": "stale", "seconds": STALE}
        api.set_faults({**read, "method": "GET"}, {**read, "method": "POST", "path": "/bulk/get"})
        yield served


def expect(mount: Mounted, files: dict[str, bytes | None]) -> None:
    """Check what the mount shows by name, by value, by attribute and by listing."""
    ns = mount.path / "ns"
    present = {name for name, value in files.items() if value is not None}
    assert set(os.listdir(ns)) == present
    for name, value in files.items():
        if value is None:
            assert not (ns / name).exists()
        else:
            assert (ns / name).read_bytes() == value
            assert (ns / name).stat().st_size == len(value)
            assert os.getxattr(ns / name, "user.v") == str(len(value)).encode()


def put(mount: Mounted, name: str, value: bytes) -> None:
    path = mount.path / "ns" / name
    path.write_bytes(value)
    os.setxattr(path, "user.v", str(len(value)).encode())


def watch(mount: Mounted, files: dict[str, bytes | None], seconds: float) -> int:
    """Look again and again; return how often."""
    until, looks = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        expect(mount, files)
        looks += 1
    return looks


def test_the_server_of_these_tests_answers_with_the_past(tmp_path: Path, server: Served) -> None:
    """Asked directly, the server of these tests shows an older value and a deleted key, or they would prove nothing."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        (mount.path / "ns").mkdir()
        put(mount, "key", b"old")
        put(mount, "gone", b"old")
        mount.sync()
        time.sleep(STALE)
        put(mount, "key", b"newer")
        (mount.path / "ns/gone").unlink()
        mount.sync()
        namespace = api.namespace("ns")
        answers = [(api.get(namespace, "key"), api.get(namespace, "gone")) for _ in range(40)]
        assert {value for value, _ in answers} == {b"old", b"newer"}
        assert {value for _, value in answers} == {b"old", None}


def test_the_mount_never_goes_back_behind_its_own_changes(tmp_path: Path, server: Served) -> None:
    """The mount keeps its changes while the server shows old ones, after the settle window, and over kill -9."""
    files: dict[str, bytes | None] = {"rewritten": b"1", "deleted": b"22", "renamed": b"333", "kept": b"4444"}
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        (mount.path / "ns").mkdir()
        for name, value in files.items():
            put(mount, name, value)
        mount.sync()
        expect(mount, files)
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        expect(mount, files)  # the server may not show any of them yet
        put(mount, "rewritten", b"55555")
        (mount.path / "ns/deleted").unlink()
        (mount.path / "ns/renamed").rename(mount.path / "ns/moved")
        files |= {"rewritten": b"55555", "deleted": None, "renamed": None, "moved": b"333"}
        mount.sync()
        expect(mount, files)
        mount.kill()
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        assert mount.status()["settling"]["count"] > 0
        assert watch(mount, files, SETTLE + 2) > 20
        assert (
            mount.status()["settling"]["count"] == 0
        )  # that was beyond the window: the server agrees by now
        put(mount, "deleted", b"666666")  # back again, under a name the server may call absent
        (mount.path / "ns/moved").rename(mount.path / "ns/renamed")
        files |= {"deleted": b"666666", "moved": None, "renamed": b"333"}
        mount.sync()
        watch(mount, files, 1)
        mount.kill()
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        watch(mount, files, SETTLE + 2)


def test_what_is_written_over_a_stale_answer_of_our_own_is_no_conflict(
    tmp_path: Path, server: Served
) -> None:
    """An edit sent while the server still shows our own earlier value is no conflict and makes no copy."""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        (mount.path / "ns").mkdir()
        for number in range(1, 9):
            put(mount, "key", b"x" * number)
            mount.sync()
            expect(mount, {"key": b"x" * number})
            if number == 4:
                watch(mount, {"key": b"x" * number}, SETTLE + 2)
        assert mount.status()["sender"]["conflicts"] == 0
