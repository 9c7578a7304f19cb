"""Feedback: work of more than half a second says so on a terminal, and elsewhere prints a line now and then."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.mounted import KVFS, Api, Mounted, mounted
from support.quick import quick
from support.serving import Served

from kvfs.cli.exits import Exit
from kvfs.cli.waiting import Waiting

pytestmark = pytest.mark.fuse


class Pty:
    """A command on a terminal of 80 columns, with its output and the time of each piece."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process, self._master = process, master
        self.begun, self.text = time.monotonic(), ""

    def wait_for(self, words: str, seconds: float = 20.0) -> float:
        """Wait until the words were written; return the seconds since the start."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} did not come: {self.text!r}"
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # the other end is gone
                    assert words in self.text, self.text
        return time.monotonic() - self.begun


@contextmanager
def on_terminal(env: dict[str, str], *words: object) -> Iterator[Pty]:
    """Run a command of kvfs on a terminal of its own."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    shown = {**env, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "kvfs", *map(str, words)],
        env=shown, cwd="/", stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave)
        try:
            yield Pty(process, master)
        finally:
            process.kill()
            os.close(master)


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    """A mount that sends when it is told to, with a namespace `ns`."""
    options = ("--write-back=600", "--timeout=20", "--settle=0", "--drain-timeout=20")
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        (mount.path / "ns").mkdir()
        yield mount


def test_umount_shows_a_bar_within_a_second_and_one_line_at_the_end(mount: Mounted, server: Served) -> None:
    """The bar of umount counts changes, and the last line says the bytes and requests that sent them."""
    for number in range(3):
        (mount.path / "ns" / f"{number}").write_text("x" * 1000)
    with Api(server) as api:
        api.set_faults({"fault": "latency", "seconds": 3, "method": "PUT"})
    begun = time.monotonic()
    subprocess.run([*KVFS, "status", mount.path], env=mount.env, check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic() - begun  # of an interpreter, on a machine that may be busy
    with on_terminal(dict(mount.env), "umount", mount.path) as screen:
        assert screen.wait_for("0/3") < 1.0 + 2 * start
        screen.wait_for("2.9 KiB left")
        screen.wait_for("sent 3 changes in 2 requests")
        assert screen.process.wait(20) == Exit.OK
        mount.process.wait(20)


def test_sync_counts_down_what_it_waits_for(tmp_path: Path, server: Served) -> None:
    """With a used-up budget sync counts the seconds down on the screen, until it goes on and all is sent."""
    options = ("--write-back=600", "--settle=0", "--rate-requests=6", "--rate-seconds=7")
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns" / "a").write_text("x")
        for _ in range(10):  # each look is a request
            quick(mount.env, "refresh", mount.path)
            (mount.path / "ns" / "b").exists()
            status = quick(mount.env, "status", "--json", mount.path).stdout
            if json.loads(status)["mounts"][0]["budget"]["left"] == 0:
                break
        with on_terminal(dict(mount.env), "sync", mount.path) as screen:
            screen.wait_for("waiting for the limit of 6 requests in 7 seconds (--rate-requests)")
            for seconds in (2, 1):
                screen.wait_for(f"goes on in {seconds}")  # the line may be broken here
            screen.wait_for("sent 1 change in ")
            assert screen.process.wait(20) == Exit.OK


def test_quiet_says_nothing(mount: Mounted, server: Served) -> None:
    """`--quiet` prints neither a bar nor a line."""
    (mount.path / "ns" / "a").write_text("x")
    with Api(server) as api:
        api.set_faults({"fault": "latency", "seconds": 1, "method": "PUT"})
    with on_terminal(dict(mount.env), "sync", "--quiet", mount.path) as screen:
        assert screen.process.wait(20) == Exit.OK
        assert screen.text == ""


def test_mount_says_whom_it_asks_and_how_often(tmp_path: Path) -> None:
    """From half a second on mount shows the host and the attempt; the reason comes at the end."""
    env = {name: os.environ[name] for name in ("PATH",)} | {
        "XDG_STATE_HOME": str(tmp_path), "CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a" * 32,
        "CLOUDFLARE_API_BASE_URL": "http://127.0.0.1:9/client/v4", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    (tmp_path / "mnt").mkdir(exist_ok=True)
    with on_terminal(env, "mount", "cloudflare:", tmp_path / "mnt") as screen:
        screen.wait_for("asking 127.0.0.1:9")
        screen.wait_for("attempt ")
        screen.wait_for("does not answer: ")


def test_elsewhere_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal a line now and then says what is waited for, and for how long so far."""
    monkeypatch.setattr("kvfs.cli.waiting.LINE_SECONDS", 0.05)
    with Waiting("asking the oracle") as waiting:
        time.sleep(0.08)
        waiting.say("asking again")
        time.sleep(0.08)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "asking the oracle (0 s)"
    assert "asking again (0 s)" in said
