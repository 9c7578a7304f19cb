"""Sending on a full state disk: real small file systems, mounted for the test and full to the last byte."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounted.test_durability_disk import answer, crowd, disk, filled, prepared, write
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import wait_for

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems of a given size"),
]

EXPECTED = {"old": b"old", "gone": b"gone", "kept": b"kept", "kept large": b"\0\xff" * 500_000}


@contextmanager
def crowded(path: Path, server: Served, *options: str) -> Iterator[tuple[Mounted, Path, dict[str, bytes]]]:
    """Yield a mount whose state disk takes not a byte more, with changes that wait; and the ballast that fills it."""
    with (
        disk(path / "state", "4m") as state,
        mounted(path, "cloudflare:", "--write-back=600", "--cache-ttl=1", *options, served=server) as mount,
    ):
        ns = prepared(mount)
        ballast = filled(state)
        yield mount, ballast, EXPECTED | crowd(ns)


def at_server(api: Api) -> dict[str, bytes | None]:
    """Return everything that the server has."""
    namespace = api.namespace("ns")
    return {key: api.get(namespace, key) for key in api.keys(namespace)}


def seconds(call, *arguments) -> float:
    """Return how long it takes, in seconds."""
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def test_everything_is_sent_from_a_full_disk_and_room_comes_back(tmp_path: Path, server: Served) -> None:
    """Without a byte of room `sync` sends everything, and settled changes make room for new ones."""
    with Api(server) as api, crowded(tmp_path, server, "--settle=1") as (mount, _, expected):
        mount.sync()
        assert at_server(api) == expected
        ns = mount.path / "ns"
        wait_for(lambda: answer(write, ns / "next", b"x" * 20_000) == 0)
        os.unlink(ns / "kept large")
        mount.sync()
        del expected["kept large"]
        assert at_server(api) == expected | {"next": b"x" * 20_000}
        assert seconds(mount.umount) < 6


def test_a_daemon_starts_anew_on_a_full_disk_and_sends(tmp_path: Path, server: Served) -> None:
    """A daemon killed and mounted again on a full disk loses nothing, sends all, and `umount` ends."""
    with Api(server) as api, crowded(tmp_path, server, "--settle=90") as (mount, _, expected):
        mount.kill()
        with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as again:
            again.sync()
            assert at_server(api) == expected
            assert seconds(again.umount) < 6


@pytest.mark.parametrize("words", [("--timeout=2",), ("--timeout=2", "--force")])
def test_umount_ends_in_time_on_a_full_disk_without_a_server(
    tmp_path: Path, server: Served, words: tuple[str, ...]
) -> None:
    """On a full disk without a server umount names and keeps the rest, and the daemon ends within its time-out."""
    with Api(server, direct=True) as api, crowded(tmp_path, server) as (mount, _, expected):
        api.set_faults({"fault": "stall", "seconds": 600})
        began = time.monotonic()
        done = mount.kvfs("umount", *words, str(mount.path), check=False)
        assert time.monotonic() - began < 4
        assert done.returncode == 3
        assert mount.process.poll() is not None
        api.set_faults()
        with mounted(tmp_path, "cloudflare:", served=server):
            pass
        assert at_server(api) == expected
