"""rclone mount over WebDAV that rclone serves, as a `Subject`; as fast as it lets itself be set up.

No write-back delay, 16 uploads at once, attributes kept as long as kvfs keeps them, no pause between requests where
the version has an option for that, and a server without encryption or passwords on this machine's disk.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path

import httpx
from bench.filesystems import MountedPlace
from bench.material import Material
from bench.mounts import ended
from bench.relay import Relay
from bench.workloads import FILE_WORK, Phase, WrongError

MODES = ("writes", "full")
_OPTIONS = ("--vfs-write-back=0s", "--transfers=16", "--attr-timeout=60s")
_PACER = "--webdav-pacer-min-sleep"
_PATIENCE = 300.0  # seconds until something has to be at the server


@cache
def has_pacer_option() -> bool:
    """Return True if this rclone can be told not to leave 10 ms between requests (1.60 cannot)."""
    done = subprocess.run(["rclone", "help", "flags"], capture_output=True, text=True, check=False)
    return _PACER in done.stdout


def _pacing() -> list[str]:
    return [f"{_PACER}=0"] if has_pacer_option() else []


class Rclone:
    """rclone mount over `rclone serve webdav`; a server for each place."""

    work = FILE_WORK

    def __init__(self, material: Material, relay: Relay, delay: float, mode: str) -> None:
        self._material = material
        self._relay = relay
        self.delay = delay
        self.name = f"rclone {mode}"
        self._options = [f"--vfs-cache-mode={mode}", *_OPTIONS, *_pacing()]
        self.settings = (
            f"`rclone mount {' '.join(self._options)}` over `rclone serve webdav`; waits for its upload queue where "
            "something changed"
        )

    @contextmanager
    def place(self, directory: Path, phase: Phase) -> Iterator[MountedPlace]:
        """A fresh server and a fresh mount."""
        served, path = directory / "served", directory / "mnt"
        self._material.copy(served, phase.content)
        path.mkdir()
        with ExitStack() as stack:
            server = stack.enter_context(_rclone_server(directory, served))
            self._relay.aim(server.port)
            begun, before = time.perf_counter(), self._relay.counts()
            daemon = stack.enter_context(self._mount(directory, path))
            url = f"http://127.0.0.1:{daemon.port}"
            control = stack.enter_context(httpx.Client(base_url=url, trust_env=False))
            place = _RclonePlace(path, daemon.pid, server.pid, self._relay, control, served)
            place.ready(begun, before)
            yield place

    @contextmanager
    def _mount(self, directory: Path, path: Path) -> Iterator["_Process"]:
        port = free_port()
        command = [
            "mount", "dav:", str(path), *self._options, f"--cache-dir={directory / 'cache'}",
            "--rc", "--rc-no-auth", f"--rc-addr=127.0.0.1:{port}",
        ]  # fmt: skip
        remote = {
            "RCLONE_CONFIG_DAV_TYPE": "webdav",
            "RCLONE_CONFIG_DAV_VENDOR": "other",
            "RCLONE_CONFIG_DAV_URL": f"http://127.0.0.1:{self._relay.port}",
        }
        with _rclone(directory, command, remote) as process, ended(process, path):
            _wait(lambda: os.path.ismount(path), process, directory)
            yield _Process(process.pid, port)


class _Process:
    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.port = pid, port


class _RclonePlace(MountedPlace):
    def __init__(
        self, path: Path, pid: int, server: int, relay: Relay, control: httpx.Client, served: Path
    ) -> None:
        super().__init__(path, [pid], [server])
        self.counts = relay.counts
        self._control = control
        self._served = served

    def stored(self) -> Set[str]:
        return {str(path.relative_to(self._served)) for path in self._served.rglob("*") if path.is_file()}

    def value(self, name: str) -> bytes | None:
        path = self._served / name
        return path.read_bytes() if path.exists() else None

    def _sync(self, directory: Path) -> None:
        """Wait until rclone's queue is empty and the server has everything: rclone has no such call."""
        begun = time.monotonic()
        while self._uploads() or not self._done():
            waited = time.monotonic() - begun
            if waited > _PATIENCE:
                raise WrongError("rclone did not upload in time")
            time.sleep(min(0.2, max(0.005, waited / 50)))  # asking costs CPU, of which there is little

    def _uploads(self) -> int:
        found = self._control.post("/vfs/stats").json()["diskCache"]
        return int(found["uploadsInProgress"] + found["uploadsQueued"])


@contextmanager
def _rclone_server(directory: Path, served: Path) -> Iterator[_Process]:
    port = free_port()
    command = ["serve", "webdav", str(served), f"--addr=127.0.0.1:{port}"]
    with _rclone(directory, command, {}) as process, ended(process):
        _wait(lambda: _answers(port), process, directory)
        yield _Process(process.pid, port)


@contextmanager
def _rclone(
    directory: Path, command: Sequence[str], environ: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    log = directory / f"rclone-{command[0]}.log"
    yield subprocess.Popen(
        [shutil.which("rclone") or "rclone", *command, "--config=", f"--log-file={log}"],
        env=os.environ | environ, stdin=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", directory: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            logs = "".join(log.read_text() for log in directory.glob("*.log"))
            raise RuntimeError(f"rclone did not start: {logs}")
        time.sleep(0.005)


def _answers(port: int) -> bool:
    with closing(socket.socket()) as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with closing(socket.socket()) as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])
