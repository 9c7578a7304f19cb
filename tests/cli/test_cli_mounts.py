"""The mount table, as the kernel writes it, and the processes that keep a mount busy."""

import mmap
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import UserError
from kvfs.host.mounts import (
    Mount,
    busy_message,
    current_mounts,
    holders,
    is_stale,
    mount_at,
    mount_of,
    parse_mountinfo,
    real_mountpoint,
    unmount,
)

TABLE = rb"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
40 21 0:42 / /home/ada/my\040kv rw,nosuid - fuse.kvfs local:/x\040y rw,user_id=1000,group_id=1000
41 21 0:43 / /home/ada/\303\274 rw - fuse.sshfs host: rw,user_id=7
42 40 0:44 / /home/ada/my\040kv rw shared:2 master:1 - tmpfs tmpfs rw
nonsense
43 21 0:45 / /x -
"""


def test_the_table_is_read() -> None:
    """Spaces and UTF-8 come escaped, optional fields vary, and malformed lines are passed over."""
    assert parse_mountinfo(TABLE) == [
        Mount(Path("/"), "ext4", "/dev/root", "254:0"),
        Mount(Path("/home/ada/my kv"), "fuse.kvfs", "local:/x y", "0:42", 1000),
        Mount(Path("/home/ada/ü"), "fuse.sshfs", "host:", "0:43", 7),
        Mount(Path("/home/ada/my kv"), "tmpfs", "tmpfs", "0:44"),
    ]


def test_only_kvfs_is_ours() -> None:
    """Mounts of kvfs are recognised by the type of the file system."""
    assert [mount.is_kvfs for mount in parse_mountinfo(TABLE)] == [False, True, False, False]


@given(st.binary())
def test_no_table_breaks_the_reader(content: bytes) -> None:
    """No text of a mount table raises an exception."""
    assert isinstance(parse_mountinfo(content), list)


def test_this_machine_has_a_root() -> None:
    """In the real table the topmost mount at a place is the one that counts."""
    assert Path("/") in {mount.mountpoint for mount in current_mounts()}
    assert mount_at(Path("/proc")) is not None
    assert mount_at(Path("/no/such/place")) is None


def test_a_path_outside_every_kvfs_mount(tmp_path: Path) -> None:
    """A path outside every kvfs mount belongs to another file system."""
    assert mount_of(tmp_path / "x") is None


def test_a_mount_point_is_canonical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, `..` and relative names lead to the name that the kernel has."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for name in ("real", "link", "./real/", "real/../link", f"{tmp_path}/link"):
        assert real_mountpoint(Path(name)) == tmp_path.resolve() / "real"
    assert real_mountpoint(Path("/proc")) == Path("/proc")


def test_a_living_directory_is_not_stale(tmp_path: Path) -> None:
    """Neither a living directory nor a missing one is stale: there is no mount to clean up."""
    assert not is_stale(tmp_path)
    assert not is_stale(tmp_path / "missing")


def test_who_keeps_a_directory_busy_is_named(tmp_path: Path) -> None:
    """A process with its working directory, an open file or a mapped file in it is named.

    This process and neighbours are not.
    """
    device = os.stat(tmp_path).st_dev
    mount = Mount(tmp_path, "fuse.kvfs", "x", f"{os.major(device)}:{os.minor(device)}")
    (tmp_path / "file").write_bytes(b"x")
    neighbour = tmp_path.with_name(tmp_path.name + "-neighbour")
    neighbour.mkdir()
    with (
        (tmp_path / "file").open("r+b") as file,
        mmap.mmap(file.fileno(), 0),
        subprocess.Popen(["sleep", "60"], cwd=tmp_path) as inside,
        subprocess.Popen(["sleep", "60"], stdin=file) as reading,
        subprocess.Popen(["sleep", "60"], cwd=neighbour) as beside,
    ):
        found = {holder.pid: holder for holder in holders(mount)}
        for process in (inside, reading, beside):
            process.kill()
    assert str(found[inside.pid]) == f"sleep (pid {inside.pid}, working directory)"
    assert found[reading.pid].what == f"open file {tmp_path}/file"
    assert os.getpid() not in found
    assert beside.pid not in found or found[beside.pid].what == "mapped file"


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    """Unmounting a directory that is not mounted passes on the helper's own reason."""
    with pytest.raises(UserError, match=f"cannot unmount {tmp_path}: "):
        unmount(tmp_path)


def test_a_busy_message_needs_no_names() -> None:
    """The message about a busy mount works without names, because other users' processes cannot be looked into."""
    assert "a process that you may not look into" in busy_message(Path("/no/such/place"))
