"""Bad input and a sick server: an entry that KV cannot keep is refused at its call, and faults cost no data."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

MIB = 1024 * 1024
OPTIONS = ("--cache-ttl=1", "--settle=0.5", "--timeout=4", "--write-back=0.3")


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    """A mount with the namespace `ns`."""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        mount.shell("mkdir ns; echo kept > ns/kept")
        mount.sync()
        yield mount


def _errno(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is what is asked
        call(*args)
    return errno.errorcode[caught.value.errno or 0]


def test_what_kv_cannot_keep_is_refused_at_the_call(mount: Mounted) -> None:
    """Each limit of KV has its errno, at once; the mount lives on and nothing pending is lost."""
    ns = mount.path / "ns"
    file = ns / "file"
    file.write_text("x")

    long = ns / ("d" * 250) / ("e" * 250)
    long.mkdir(parents=True)
    assert _errno((long / "too-long-a-name").write_text, "x") == "ENAMETOOLONG"
    (long / "ten-bytes!").write_text("exactly 512 bytes of key")
    assert _errno((ns / ("n" * 256)).write_text, "x") == "ENAMETOOLONG"
    assert _errno(os.mkdir, bytes(ns) + b"/\xff\xfe") == "EILSEQ"
    assert _errno(os.open, bytes(ns) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY) == "EILSEQ"
    assert _errno((ns / "%2E").write_text, "x") == "EINVAL"
    assert _errno((ns / "a%25b").write_text, "x") == "EINVAL"

    descriptor = os.open(file, os.O_RDWR)
    assert _errno(os.pwrite, descriptor, b"x", 25 * MIB) == "EFBIG"
    assert _errno(os.close, descriptor) == "EFBIG"
    assert _errno(os.truncate, file, 25 * MIB + 1) == "EFBIG"
    assert _errno(os.truncate, file, 10**15) == "EFBIG"
    assert file.read_bytes() == b"x"

    assert _errno(os.setxattr, file, "user.big", b"v" * 1024) == "ENOSPC"
    assert _errno(os.setxattr, file, "user.kvfs.metadata", b"{no json") == "EINVAL"
    assert _errno(os.setxattr, file, "user.kvfs.metadata", b"\xff") == "EINVAL"
    assert _errno(os.setxattr, file, "trusted.x", b"v") in ("ENOTSUP", "EOPNOTSUPP")
    assert _errno(os.getxattr, file, "user.missing") == "ENODATA"
    assert _errno(os.setxattr, ns, "user.x", b"v") in ("ENOTSUP", "EOPNOTSUPP")
    now = time.time()
    assert _errno(os.utime, file, (now, now + 30)) == "EINVAL"
    assert _errno(os.symlink, "a", ns / "link") == "EPERM"
    assert _errno(os.link, file, ns / "hard") == "EPERM"
    assert _errno(os.mkfifo, ns / "fifo") == "EPERM"
    assert _errno(os.rename, file, mount.path / "elsewhere") == "EXDEV"
    assert _errno(os.mkdir, mount.path / ".kvfs") == "EEXIST"
    assert _errno((mount.path / "no-namespace-file").write_text, "x") == "EPERM"

    mount.sync()
    assert mount.status()["rejected"]["count"] == 0


def test_the_longest_key_reaches_the_server(mount: Mounted, api: Api) -> None:
    """A key of 512 bytes and a binary value of exactly 25 MiB reach the server."""
    ns = mount.path / "ns"
    directory = ns / ("d" * 250)
    directory.mkdir()
    (directory / ("f" * 250)).write_text("x")
    value = os.urandom(25 * MIB)
    (ns / "largest").write_bytes(value)
    mount.sync()
    namespace = api.namespace("ns")
    assert api.get(namespace, f"{'d' * 250}/{'f' * 250}") == b"x"
    assert api.get(namespace, "largest") == value


SICK: dict[str, dict[str, Any]] = {
    "garbage": {"fault": "garbage"},
    "html": {"fault": "html", "status": 502},
    "truncated": {"fault": "truncate"},
    "500": {"fault": "status", "status": 500},
    "503": {"fault": "status", "status": 503},
    "429": {"fault": "status", "status": 429, "retry_after": 1},
    "reset": {"fault": "reset"},
    "lost acknowledgement": {"fault": "lost_ack"},
}


@pytest.mark.parametrize("fault", SICK, ids=str)
def test_a_sick_server_is_retried(mount: Mounted, api: Api, fault: str) -> None:
    """Reads and writes succeed once the server recovers, and nothing is lost."""
    ns = mount.path / "ns"
    namespace = api.namespace("ns")
    api.put(namespace, "other", b"from elsewhere")
    time.sleep(1.1)  # the cache's time
    api.set_faults({**SICK[fault], "times": 2, "path": "/storage/"})
    assert (ns / "other").read_bytes() == b"from elsewhere"
    api.set_faults({**SICK[fault], "times": 2, "path": "/bulk"})
    (ns / "written").write_bytes(b"meanwhile")
    (ns / "kept").unlink()
    mount.sync()
    api.set_faults()
    assert api.get(namespace, "written") == b"meanwhile"
    assert api.get(namespace, "kept") is None


@pytest.mark.parametrize(("status", "reads", "syncs"), [(401, "EACCES", "EACCES"), (403, "EACCES", "EACCES")])
def test_denied_credentials_lose_nothing(
    mount: Mounted, api: Api, status: int, reads: str, syncs: str
) -> None:
    """After 401 and 403, reported at once, everything stays pending, and goes when the token is good again."""
    ns = mount.path / "ns"
    namespace = api.namespace("ns")
    api.put(namespace, "other", b"x")
    time.sleep(1.1)
    assert "other" in os.listdir(ns)
    api.set_faults({"fault": "status", "status": status, "code": 10000, "path": "/storage/"})
    assert _errno((ns / "other").read_bytes) == reads
    file = ns / "pending"
    with file.open("w") as handle:
        handle.write("kept")
        handle.flush()
        assert _errno(os.fsync, handle.fileno()) == syncs
    assert file.read_text() == "kept"
    assert mount.status()["pending"]["count"] >= 1
    api.set_faults()
    mount.sync()
    assert api.get(namespace, "pending") == b"kept"


def test_a_namespace_that_vanished_is_an_answer(mount: Mounted, api: Api) -> None:
    """Reads of a namespace that another client deleted say so; its pending values stay readable and are named."""
    ns = mount.path / "ns"
    with (ns / "late").open("w") as late:  # open before: what is asked for afterwards is not there any more
        api.result("DELETE", "/" + api.namespace("ns"))
        late.write("kept here")
    done = mount.kvfs("sync", str(mount.path), check=False)
    assert done.returncode == 3
    assert "ns/late" in done.stdout + done.stderr or "late" in done.stdout + done.stderr
    for _ in range(3):  # a namespace just made may be unknown for a moment: it has to be gone for a while
        if (status := mount.status())["rejected"]["count"]:
            break
        mount.kvfs("sync", str(mount.path), check=False)
    assert status["rejected"]["count"] == 1
    assert "namespace" in json.dumps(status["rejected"]["items"])
    mount.kvfs("rejected", "discard", "--all", "--yes", str(mount.path))
    assert mount.status()["rejected"]["count"] == 0


def test_a_stalled_server_does_not_hang_the_mount(mount: Mounted, api: Api) -> None:
    """A call to a server that accepts and never answers ends within its bound with an errno, and the mount lives."""
    ns = mount.path / "ns"
    api.put(api.namespace("ns"), "other", b"x")
    time.sleep(1.1)
    api.set_faults({"fault": "stall", "seconds": 600, "path": "/storage/"})
    start = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011  which errno depends on which bound is met first
        (ns / "other").read_bytes()
    assert time.monotonic() - start < 12
    (ns / "written").write_text("accepted all the same")
    assert (ns / "written").read_text() == "accepted all the same"
    api.set_faults()
    mount.sync()
