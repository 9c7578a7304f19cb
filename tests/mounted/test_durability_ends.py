"""Ends of a mount: all closed files reach the server, by the ending daemon or by the next one."""

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBC.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
WRITE_AND_WAIT, MNT_FORCE, MNT_DETACH = 7, 1, 2

LATER = ("--write-back=600", "--settle=1", "--cache-ttl=1")


def run(*words: str) -> Callable[[Mounted], None]:
    """Run a command that ends the mount."""
    return lambda mount: subprocess.run([*words, mount.path], check=True) and None


def sent(number: signal.Signals) -> Callable[[Mounted], None]:
    """Send a signal to the daemon."""
    return lambda mount: mount.process.send_signal(number)


ENDS: dict[str, Callable[[Mounted], object]] = {
    "kvfs umount": lambda mount: mount.kvfs("umount", str(mount.path)),
    "SIGTERM": sent(signal.SIGTERM),
    "SIGINT": sent(signal.SIGINT),
    "SIGHUP": sent(signal.SIGHUP),
    "umount": run("umount"),
    "umount -l": run("umount", "-l"),
    "fusermount3 -u": run("fusermount3", "-u"),
    "fusermount3 -uz": run("fusermount3", "-uz"),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_orderly_end_sends_what_waits(tmp_path: Path, server: Served, end: str) -> None:
    """The daemon ends with 0 when the server has everything, and nothing is mounted any more."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/key").write_text("value")
        ENDS[end](mount)
        assert mount.process.wait(60) == 0
        assert not os.path.ismount(mount.path)
        assert api.get(api.namespace("ns"), "key") == b"value"


def test_a_file_open_at_a_lazy_unmount_is_sent_when_it_is_closed(tmp_path: Path, server: Served) -> None:
    """A file open at a lazy unmount is out of the tree, and its close is still recorded and sent."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        with (mount.path / "ns/open").open("w") as file:
            file.write("before ")
            file.flush()
            subprocess.run(["fusermount3", "-uz", mount.path], check=True)
            file.write("after")
        assert mount.process.wait(60) == 0
        assert api.get(api.namespace("ns"), "open") == b"before after"


def test_what_a_mapping_changed_outlives_a_close_the_daemon_never_hears_of(
    tmp_path: Path, server: Served
) -> None:
    """A change through a mapping outlives a close whose RELEASE the kernel drops when the mount goes."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/mapped").write_bytes(bytes(5_000))
        fd = os.open(mount.path / "ns/mapped", os.O_RDWR)
        at = LIBC.mmap(None, 5_000, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        os.close(fd)
        ctypes.memmove(at + 100, b"later", 5)
        reader = os.open(mount.path / "ns/mapped", os.O_RDONLY)
        assert LIBC.sync_file_range(reader, 0, 0, WRITE_AND_WAIT) == 0  # a WRITE and no FSYNC
        os.close(reader)
        mount.process.send_signal(signal.SIGSTOP)
        try:  # a call that waits for the daemon now waits for ever: no look at the mount, no flush
            LIBC.munmap(at, 5_000)  # its RELEASE stays in the queue
            assert LIBC.umount2(os.fsencode(mount.path), MNT_DETACH) == 0
        finally:
            mount.process.send_signal(signal.SIGCONT)
        assert mount.process.wait(60) == 0
        stored = api.get(api.namespace("ns"), "mapped")
        assert stored is not None
        assert stored[100:105] == b"later"


@pytest.mark.parametrize("flags", [MNT_FORCE, MNT_FORCE | MNT_DETACH], ids=["umount -f", "umount -lf"])
def test_a_mount_that_is_cut_off_sends_what_was_closed_and_no_half_a_file(
    tmp_path: Path, server: Served, flags: int
) -> None:
    """A connection aborted while files are written sends all closed ones and no half file, with status 0."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/whole").write_text("value")
        (mount.path / "ns/written").write_text("good old value")
        with ExitStack() as stack:
            stack.enter_context(suppress(OSError))
            for name in ("half", "written"):
                file = stack.enter_context((mount.path / "ns" / name).open("w", buffering=1))
                file.write("half\n")
            LIBC.umount2(os.fsencode(mount.path), flags)  # busy, maybe, but cut off by now
            assert mount.process.wait(60) == 0
        assert api.get(api.namespace("ns"), "whole") == b"value"
        assert api.get(api.namespace("ns"), "written") == b"good old value"
        assert api.get(api.namespace("ns"), "half") is None


def test_after_a_reboot_whoever_has_the_old_number_is_not_the_daemon(tmp_path: Path, server: Served) -> None:
    """After a reboot the leftovers name a process number that another process has, and hinder nothing."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Api(server) as api:
            with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
                (mount.path / "ns").mkdir()
                (mount.path / "ns/key").write_text("value")
                mount.kill()
            (lock,) = mount.state.glob("sources/*/journal.sqlite.lock")
            (record,) = mount.state.glob("mounts/*.json")
            for leftover in (lock, record):
                found = json.loads(leftover.read_text())
                leftover.write_text(json.dumps({**found, "pid": other.pid}))
            with mounted(tmp_path, "cloudflare:", *LATER, served=server):
                pass
            assert api.get(api.namespace("ns"), "key") == b"value"
    finally:
        other.communicate(b"\n")


def test_the_next_mount_takes_a_dead_one_away(tmp_path: Path, server: Served) -> None:
    """A mount on "Transport endpoint is not connected" replaces the dead one, and nothing was lost."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            (mount.path / "ns").mkdir()
            (mount.path / "ns/key").write_text("value")
            mount.process.kill()
            mount.process.wait()
            with pytest.raises(OSError, match="not connected"):
                os.listdir(mount.path)
            mount.kvfs("mount", *LATER, "cloudflare:", str(mount.path))
            assert (mount.path / "ns/key").read_text() == "value"
            mount.kvfs("umount", str(mount.path))
        assert api.get(api.namespace("ns"), "key") == b"value"


def test_another_account_never_gets_the_journal(tmp_path: Path, server: Served) -> None:
    """The pending changes of one account wait for it, whichever account is mounted meanwhile."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
            (mount.path / "ns").mkdir()
            (mount.path / "ns/key").write_text("value")
            mount.kill()
        with mounted(tmp_path, "cloudflare:another", *LATER, served=server) as mount:
            assert os.listdir(mount.path) == []
            assert mount.status()["pending"]["count"] == 0
        assert api.get(api.namespace("ns"), "key") is None
        with mounted(tmp_path, "cloudflare:", *LATER, served=server):
            pass
        assert api.get(api.namespace("ns"), "key") == b"value"
