"""Answers of calls when the server does not take a value, and the access of other users to a mount."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

LATER = ("--write-back=600", "--settle=0", "--cache-ttl=1", "--timeout=3")


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    """A mount with the namespace `ns`."""
    with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        yield mount


def synced(path: Path) -> int:
    """Write and fsync; return 0 or the errno of the fsync."""
    with path.open("w") as file:
        file.write("kept")
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as exc:
            return exc.errno or -1
    return 0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"fault": "quota"}, {errno.EDQUOT}),
        ({"fault": "status", "status": 403, "code": 10000}, {errno.EACCES}),
        ({"fault": "status", "status": 503}, {errno.EIO, errno.ETIMEDOUT}),
        ({"fault": "stall"}, {errno.EIO, errno.ETIMEDOUT}),
        ({"fault": "status", "status": 400, "code": 10147}, {errno.EIO}),
    ],
    ids=["quota", "token", "sick", "silent", "refused"],
)
def test_an_fsync_tells_why_and_the_value_is_kept(
    tmp_path: Path, mount: Mounted, server: Served, api: Api, rule: dict[str, object], said: set[int]
) -> None:
    """An fsync fails with EDQUOT, EACCES, ETIMEDOUT or EIO.

    The file reads as written, also after the daemon was killed.
    """
    api.set_faults({**rule, "path": "/bulk"})
    assert synced(mount.path / "ns/key") in said
    assert (mount.path / "ns/key").read_text() == "kept"
    status = mount.status()
    assert status["pending"]["count"] + status["rejected"]["count"] == 1
    api.set_faults()
    mount.kvfs("rejected", "retry", "--all", str(mount.path), check=False)
    if (
        "stall" in rule.values()
    ):  # the answer of a bulk write is awaited for two minutes, but not by a new daemon
        mount.kill()
        with mounted(tmp_path, "cloudflare:", *LATER, served=server) as again:
            again.sync()
            assert api.get(api.namespace("ns"), "key") == b"kept"
        return
    if "quota" not in rule.values():  # that is waited for until midnight
        mount.sync()
        assert api.get(api.namespace("ns"), "key") == b"kept"
    mount.kill()


def test_a_write_with_o_sync_is_at_the_server(mount: Mounted, api: Api) -> None:
    """A write with O_SYNC is at the server before write(2) returns, without a close."""
    descriptor = os.open(mount.path / "ns/key", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    try:
        os.write(descriptor, b"synced")
        assert api.get(api.namespace("ns"), "key") == b"synced"
    finally:
        os.close(descriptor)


def test_unlink_and_chmod_survive_kill_9(tmp_path: Path, mount: Mounted, api: Api, server: Served) -> None:
    """unlink and chmod need no close: they are in the journal when the call returns."""
    ns = mount.path / "ns"
    (ns / "gone").write_text("1")
    (ns / "script").write_text("2")
    mount.sync()
    (ns / "gone").unlink()
    (ns / "script").chmod(0o755)
    os.utime(ns / "script", (1_000_000_000, 1_000_000_000))
    mount.kill()
    with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        assert os.listdir(mount.path / "ns") == ["script"]
        assert (mount.path / "ns/script").stat().st_mode & 0o777 == 0o755
        assert (mount.path / "ns/script").stat().st_mtime == 1_000_000_000
        mount.sync()
        assert set(api.keys(api.namespace("ns"))) == {"script"}


def test_what_was_not_closed_is_what_a_kill_loses(tmp_path: Path, server: Served, api: Api) -> None:
    """A kill loses only writes that were not closed: the old value stays whole, and half a write is never sent."""
    with mounted(tmp_path, "cloudflare:", *LATER, served=server) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns/key").write_text("old")
        descriptor = os.open(mount.path / "ns/key", os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, b"half of the new")
        mount.kill()
        with pytest.raises(OSError, match=r"not connected|abort"):  # every caller is told
            os.fsync(descriptor)
        with suppress(OSError):
            os.close(descriptor)
    with mounted(tmp_path, "cloudflare:", *LATER, served=server):
        pass
    assert api.get(api.namespace("ns"), "key") == b"old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_see_nothing_unless_asked_for() -> None:
    """No mount, not even root's, is open to other users without --allow-other; its state never is."""
    home = Path(tempfile.mkdtemp(prefix="kvfs-others-"))  # where others get to, as pytest's places are not
    home.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def seen_by_others(path: Path, *command: str) -> str:
        words = [*nobody, *(command or ("ls",)), path]
        done = subprocess.run(words, input="x", capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    refused = "Permission denied"
    try:
        for options, expected, value in ((), refused, refused), (("--allow-other",), "key\n", "value"):
            with mounted(home, f"local:{home}/store", *options) as mount:
                (mount.path / "ns").mkdir(exist_ok=True)
                (mount.path / "ns/key").write_text("value")
                assert expected in seen_by_others(mount.path / "ns")
                assert value in seen_by_others(mount.path / "ns/key", "cat")
                assert refused in seen_by_others(mount.path / "ns/key", "tee", "-a")
                assert refused in seen_by_others(mount.path / "ns/key", "rm", "-f")
                assert (mount.path / "ns/key").read_text() == "value"
                assert refused in seen_by_others(mount.state / "sources")
                assert refused in seen_by_others(mount.state / "mounts")
    finally:
        shutil.rmtree(home)
