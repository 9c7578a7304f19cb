"""Cached values while the server is away: the first read takes at most a second, and later ones none."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.mounted import Api, Mounted, mounted
from support.quick import quick
from support.serving import Served, served_by_process
from support.standing import wait_for

from kvfs.cli.exits import Exit

pytestmark = pytest.mark.fuse

OPTIONS = (
    "--cache-ttl=0.5",
    "--settle=0",
    "--write-back=0.1",
)  # and the --timeout of 30 s that everybody has
FIRST = 1.0 + 0.7  # seconds: one of trying, and a busy machine
NEXT = 0.5


def filled(mount: Mounted) -> Path:
    """Yield a namespace of values that were read, and are not fresh any more."""
    ns = mount.path / "ns"
    ns.mkdir()
    for number in range(10):
        (ns / f"{number}").write_text(f"value {number}")
    mount.sync()
    for number in range(10):
        assert (ns / f"{number}").read_text() == f"value {number}"
    os.listdir(ns)
    time.sleep(0.6)
    return ns


def took(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def test_a_server_that_does_not_answer_keeps_nobody_waiting_for_what_is_known(
    tmp_path: Path, server: Served
) -> None:
    """While the server does not answer, the first look takes a second and the next none.

    New values are seen soon after it is back.
    """
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = filled(mount)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert took(lambda: (ns / "0").read_text()) < FIRST
            assert took(lambda: [(ns / f"{number}").read_text() for number in range(10)]) < NEXT
            assert took(lambda: sorted(os.listdir(ns))) < NEXT
            assert took(lambda: (ns / "3").stat()) < NEXT
        finally:
            os.kill(server.pid, signal.SIGCONT)
        api.put(api.namespace("ns"), "0", b"news")
        wait_for(lambda: (ns / "0").read_text() == "news")


def test_a_server_that_is_gone_keeps_nobody_waiting_for_what_is_known(tmp_path: Path) -> None:
    """A refused connection is no answer either, and cached values are read without waiting."""
    with (
        served_by_process(tmp_path, faults="") as server,
        mounted(tmp_path, "cloudflare:", *OPTIONS, "--drain-timeout=1", served=server) as mount,
    ):
        ns = filled(mount)
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: refused(server.url))
        assert took(lambda: (ns / "0").read_text()) < FIRST
        assert took(lambda: [(ns / f"{number}").read_text() for number in range(10)]) < NEXT
        assert took(lambda: sorted(os.listdir(ns))) < NEXT


@pytest.mark.parametrize("end", ["kvfs umount", "SIGTERM"])
def test_a_mount_ends_within_its_drain_timeout(tmp_path: Path, server: Served, end: str) -> None:
    """A mount whose server does not answer ends within its drain timeout, and keeps the unsent changes."""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, "--drain-timeout=1", served=server) as mount:
        (mount.path / "ns").mkdir()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            (mount.path / "ns" / "a").write_text("kept")
            begun = time.monotonic()
            if end == "SIGTERM":
                assert mount.terminate() == Exit.LEFT
            else:
                assert quick(mount.env, "umount", mount.path).returncode == Exit.LEFT
                mount.process.wait(5)
            assert time.monotonic() - begun < 1 + 1 + 1, "one for a busy machine"
        finally:
            os.kill(server.pid, signal.SIGCONT)


def refused(url: str) -> bool:
    """Return a port at which nobody listens any more."""
    host, port = urlsplit(url).netloc.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0
