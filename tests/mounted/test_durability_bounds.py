"""A server that accepts and never answers: every call of the kernel ends within its bound."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mounted import Api, mounted
from support.serving import Served, served_by_process
from support.timed import timed

pytestmark = pytest.mark.fuse

TIMEOUT = 2.0
BOUND = TIMEOUT + 2.5  # seconds, with twenty callers at once on a busy machine
OPTIONS = (f"--timeout={TIMEOUT:g}", "--cache-ttl=0.3", "--settle=0", "--write-back=600")
SAID = {errno.EIO, errno.ETIMEDOUT}
KNOWN = SAID | {0, errno.ENOTEMPTY, errno.ENODATA}  # a listing of a moment ago may still be the answer


def synced(path: Path) -> None:
    """Write, fsync and close."""
    with path.open("wb") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())


def directory_synced(path: Path) -> None:
    """Fsync a directory with a change in it."""
    (path / "made here").write_bytes(b"1")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


CALLS: dict[str, tuple[Callable[[Path], object], bool]] = {
    # a call with a directory that holds `f`; True: it must succeed without a server
    "lookup of a name nobody knows": (lambda d: (d / "unknown").exists(), False),
    "getattr": (lambda d: (d / "f").stat(), False),
    "readdir": (lambda d: os.listdir(d), False),
    "readdir below": (lambda d: os.listdir(d / "below"), False),
    "open and read": (lambda d: (d / "f").read_bytes(), False),
    "open to append": (lambda d: (d / "f").open("ab").close(), False),
    "write and close": (lambda d: (d / "f").write_bytes(b"new"), True),
    "truncate to nothing": (lambda d: os.truncate(d / "f", 0), True),
    "truncate": (lambda d: os.truncate(d / "f", 1), False),
    "fsync": (lambda d: synced(d / "f"), False),
    "fsync of a directory": (directory_synced, False),
    "unlink": (lambda d: (d / "f").unlink(), True),
    "rename": (lambda d: (d / "f").rename(d / "g"), False),
    "rename of a directory": (lambda d: (d / "below").rename(d / "above"), False),
    "mkdir": (lambda d: (d / "new").mkdir(), False),
    "rmdir": (lambda d: (d / "below").rmdir(), False),
    "mkdir at the root": (lambda d: (d.parents[1] / "another").mkdir(), False),
    "rmdir at the root": (lambda d: (d.parents[1] / "empty").rmdir(), False),
    "mv at the root": (lambda d: (d.parents[1] / "empty").rename(d.parents[1] / "full"), False),
    "statfs": (lambda d: os.statvfs(d), True),
    "getxattr": (lambda d: os.getxattr(d / "f", "user.a"), False),
    "setxattr": (lambda d: os.setxattr(d / "f", "user.a", b"2"), False),
    "listxattr": (lambda d: os.listxattr(d / "f"), False),
    "utimens": (lambda d: os.utime(d / "f", (1, 1)), False),
    "chmod": (lambda d: (d / "f").chmod(0o600), False),
    "access": (lambda d: os.access(d / "f", os.W_OK), False),
    "control file": (lambda d: (d.parents[1] / ".kvfs" / "status").read_text(), True),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Yield a server with a directory for each call."""
    with served_by_process(tmp_path, faults="") as served, Api(served) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.result("POST", "", json={"title": "empty"})
        keys = [f"{place}/{name}" for place in range(len(CALLS)) for name in ("f", "below/deep")]
        api.bulk_put(namespace, [{"key": key, "value": "value", "metadata": {"a": 1}} for key in keys])
        yield served


def test_every_call_is_bounded(tmp_path: Path, server: Served) -> None:
    """All calls at once, each in a directory of its own, end in time with success or a fitting errno."""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = mount.path / "ns"
        for place in range(len(CALLS)):
            assert sorted(os.listdir(ns / f"{place}")) == ["below", "f"]
        os.listdir(mount.path / "empty")
        time.sleep(0.4)  # the listing is no longer fresh
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(len(CALLS)) as pool:
                pending = {
                    name: pool.submit(timed, call, ns / f"{place}")
                    for place, (name, (call, _)) in enumerate(CALLS.items())
                }
                told = {name: future.result() for name, future in pending.items()}
        finally:
            os.kill(server.pid, signal.SIGCONT)
        late = {name: seconds for name, (_, seconds) in told.items() if seconds > BOUND}
        assert not late
        wrong = {
            name: errno.errorcode.get(number)
            for name, (number, _) in told.items()
            if number not in ({0} if CALLS[name][1] else KNOWN)
        }
        assert not wrong
        assert told["fsync"][0] in SAID
        assert told["open and read"][0] in SAID
        deadline = time.monotonic() + 30
        while timed(lambda d: (d / "f").read_bytes(), ns / "0")[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (ns / "0" / "f").read_bytes() == b"value"
        mount.sync()
