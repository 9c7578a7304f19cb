"""A mount that is ending, and one whose state directory makes trouble."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mounted import Api, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse


def until(holds: Callable[[], bool]) -> None:
    """Wait for another process, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_during_the_drain_does_not_end_it(
    tmp_path: Path, server: Served, number: signal.Signals
) -> None:
    """A signal at logout, while the daemon sends after the unmount, does not end the drain."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/f").write_text("sent")
        api.set_faults({"fault": "status", "status": 503, "path": "/bulk"})
        subprocess.run(["fusermount3", "-u", mount.path], check=True)
        until(lambda: "503" in mount.log.read_text() or mount.process.poll() is not None)
        mount.process.send_signal(number)
        api.set_faults()
        assert mount.process.wait(60) == 0
        assert api.get(api.namespace("ns"), "f") == b"sent"


def test_a_leftover_that_cannot_be_removed_does_not_end_the_mount(tmp_path: Path) -> None:
    """A leftover of the spool that cannot be removed is logged, and the mount goes on."""
    with mounted(tmp_path, f"local:{tmp_path}/store.db", "--write-back=600") as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/big").write_bytes(b"\0" * 3_000_000)
        (content,) = mount.state.glob("**/*.spool/*")
        content.unlink()
        content.mkdir()
        (mount.path / "ns/big").unlink()
        until(lambda: "going on" in mount.log.read_text() or mount.process.poll() is not None)
        (mount.path / "ns/small").write_text("still here")
        content.rmdir()
