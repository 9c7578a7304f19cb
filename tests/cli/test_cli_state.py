"""State of this machine: it is private, is found again, and its paths fit into a socket's address."""

import os
from pathlib import Path

import pytest

from kvfs.core.errors import UserError
from kvfs.host.claims import claimed
from kvfs.host.state import (
    SOCKET_PATH_BYTES,
    MountRecord,
    control_path,
    default_state_dir,
    log_path,
    private_directory,
    read_record,
    record_path,
    records,
    write_whole,
)

RECORD = MountRecord(mountpoint="/mnt/ü", source="local:/x", pid=42, socket="/s", since=1.5)


def test_the_state_directory_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """KVFS_STATE_DIR names the state directory, else it is `kvfs` below XDG_STATE_HOME."""
    monkeypatch.delenv("KVFS_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "kvfs"
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "other"))
    assert default_state_dir() == tmp_path / "other"


def test_a_private_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """A directory is made for its owner only, whatever the umask lets through."""
    before = os.umask(0)
    try:
        made = private_directory(tmp_path / "state" / "mounts")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o700])
def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    """`--state-dir /tmp` must not take /tmp from everybody; what is made in it is private."""
    tmp_path.chmod(mode)
    private_directory(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == mode
    assert private_directory(tmp_path / "mounts").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("is_link", [False, True])
def test_a_directory_above_that_is_somebody_elses_is_refused(tmp_path: Path, is_link: bool) -> None:
    """A directory owned by somebody else above ours is refused: he could replace ours.

    So could the owner of a link on the way.
    """
    above = tmp_path / "above"
    if is_link:
        (tmp_path / "real").mkdir()
        above.symlink_to(tmp_path / "real")
    else:
        above.mkdir()
    os.chown(above, 12345, 12345, follow_symlinks=False)
    with pytest.raises(UserError, match=r"/above belongs to uid 12345.*--state-dir"):
        private_directory(above / "state" / "kvfs")
    assert not (above / "state").exists()


def test_a_link_of_ours_above_is_followed(tmp_path: Path) -> None:
    """A link of ours above the state directory is followed, because a home directory is a link on many machines."""
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "real")
    assert private_directory(tmp_path / "home" / "state").is_dir()
    assert (tmp_path / "real" / "state").stat().st_mode & 0o777 == 0o700


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """A symbolic link is refused, because it could lead the journal elsewhere."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="symbolic link"):
        private_directory(tmp_path / "link")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A file in the way is named, without a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="in the way"):
        private_directory(tmp_path / "file")
    with pytest.raises(UserError, match="cannot make the directory"):
        private_directory(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    """A directory of another owner is refused, as `sudo` with somebody's HOME meets it."""
    (tmp_path / "foreign").mkdir()
    os.chown(tmp_path / "foreign", 12345, 12345)
    with pytest.raises(UserError, match=r"belongs to uid 12345.*--state-dir"):
        private_directory(tmp_path / "foreign")


def test_a_record_lives_as_long_as_the_mount(tmp_path: Path) -> None:
    """Other commands find the daemon by its record, only the owner can read it, and it goes with the mount."""
    path = record_path(Path(RECORD.mountpoint), tmp_path)
    path.parent.mkdir()
    with claimed(RECORD, [tmp_path]):
        assert read_record(path) == RECORD
        assert records(tmp_path) == [RECORD]
        assert path.stat().st_mode & 0o777 == 0o600
    assert records(tmp_path) == []


def test_a_later_mount_keeps_its_record(tmp_path: Path) -> None:
    """A daemon that still sends while the directory is mounted anew takes back its own record only."""
    path = record_path(Path(RECORD.mountpoint), tmp_path)
    path.parent.mkdir()
    later = MountRecord(mountpoint="/mnt/ü", source="local:/y", pid=43, socket="/s", since=2.5)
    with claimed(RECORD, [tmp_path]):
        write_whole(
            path,
            b'{"mountpoint": "/mnt/\xc3\xbc", "source": "local:/y", "pid": 43, "socket": "/s", "since": 2.5}',
        )
    assert read_record(path) == later


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff\xfe"])
def test_a_record_that_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    """A damaged record counts as none, and causes no traceback."""
    (tmp_path / "r.json").write_bytes(content)
    assert read_record(tmp_path / "r.json") is None


def test_files_of_a_mount_lie_together(tmp_path: Path) -> None:
    """Record and socket have one name, the log one that people recognise; another mount point has others."""
    one, other = Path("/mnt/a"), Path("/mnt/b")
    paths = {record_path(one, tmp_path), log_path(one, tmp_path), control_path(one, tmp_path)}
    assert {path.parent for path in paths} == {tmp_path / "mounts"}
    assert sorted(path.stem for path in paths)[::2] == [record_path(one, tmp_path).stem, "mnt-a"]
    assert not paths & {
        record_path(other, tmp_path),
        log_path(other, tmp_path),
        control_path(other, tmp_path),
    }


def test_a_socket_address_is_never_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deep home directory does not stop a mount, although unix(7) gives a socket's address 108 bytes."""
    deep = tmp_path / ("d" * 120)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert control_path(Path("/mnt"), deep).parent == Path("/run/user/0/kvfs")
    for runtime in ("", "relative", "/run/" + "r" * 120):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        path = control_path(Path("/mnt"), deep)
        assert path.parent == Path(f"/tmp/kvfs-{os.geteuid()}")
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES
    assert control_path(Path("/mnt"), deep / "x") != control_path(Path("/mnt"), deep)
