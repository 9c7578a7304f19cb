"""A close that returned 0 survives kill -9; pending changes of an earlier run are sent by the next."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse


def test_a_closed_file_survives_kill_9(tmp_path: Path, server: Served) -> None:
    """The daemon is killed right after close, before anything was sent; the next mount sends it."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *QUICK, "--write-back=600", served=server) as mount:
            ns = mount.path / "ns"
            ns.mkdir()
            (ns / "old").write_text("old")
            mount.sync()
            (ns / "closed").write_text("survives")
            (ns / "big").write_bytes(b"\0" * 3_000_000)
            os.setxattr(ns / "closed", "user.a", b"b")
            (ns / "old").rename(ns / "new")
            mount.kill()
            namespace = api.namespace("ns")
            assert set(api.keys(namespace)) == {"old"}  # nothing had been sent: the harness proves something
        with mounted(tmp_path, "cloudflare:", *QUICK, "--write-back=0.2", served=server) as mount:
            assert (mount.path / "ns/closed").read_text() == "survives"
            assert not (mount.path / "ns/old").exists()
            mount.sync()
            keys = api.keys(namespace)
            assert set(keys) == {"closed", "big", "new"}
            assert keys["closed"]["metadata"] == {"a": "b"}
            assert api.get(namespace, "closed") == b"survives"
            assert api.get(namespace, "big") == b"\0" * 3_000_000
            assert api.get(namespace, "new") == b"old"


def test_pending_changes_need_no_new_one_to_be_sent(tmp_path: Path, server: Served) -> None:
    """A mount that only starts, and is unmounted, has sent what an earlier one left."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
            (mount.path / "ns").mkdir()
            (mount.path / "ns/key").write_text("value")
            mount.kill()
        with mounted(tmp_path, "cloudflare:", served=server):
            pass
        assert api.get(api.namespace("ns"), "key") == b"value"


def test_a_failed_sync_is_remembered_after_kill_9(tmp_path: Path, server: Served) -> None:
    """The next mount tells which change failed, why and when, before it tries again, as does `kvfs pending`."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *QUICK, "--write-back=600", served=server) as mount:
            (mount.path / "ns").mkdir()
            api.set_faults({"fault": "code", "code": 10000, "status": 403, "method": "PUT"})
            (mount.path / "ns/key").write_text("value")
            assert mount.kvfs("sync", str(mount.path), check=False).returncode == 3
            mount.kill()
        [item] = json.loads(mount.kvfs("pending", "--json").stdout)
        assert "10000" in item["error"]
        assert time.time() - 120 < item["failed_at"] <= time.time()
        with mounted(tmp_path, "cloudflare:", *QUICK, "--write-back=600", served=server) as mount:
            path = mount.path / "ns/key"
            assert b"the last try failed: " in os.getxattr(path, "user.kvfs.error")
            assert b"10000" in os.getxattr(path, "user.kvfs.error")
            said = mount.kvfs("why", str(path)).stdout
            assert "10000" in said
            assert "last try" in said
            [reason] = mount.status()["reasons"]
            assert (reason["count"], "10000" in reason["reason"]) == (1, True)
            api.set_faults()
            mount.sync()
            assert api.get(api.namespace("ns"), "key") == b"value"


def test_a_value_rewritten_ten_times_is_sent_once(tmp_path: Path, server: Served) -> None:
    """The last of ten values is the only one written, and a file that came and went never is."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *QUICK, served=server) as mount:
        ns = mount.path / "ns"
        ns.mkdir()
        before = api.requests().get("bulk_put", 0)
        for number in range(10):
            (ns / "key").write_text(f"value {number}")
            (ns / "brief").write_text("never sent")
            (ns / "brief").unlink()
        mount.sync()
        assert api.requests()["bulk_put"] - before == 1
        assert "bulk_delete" not in api.requests()
        assert api.get(api.namespace("ns"), "key") == b"value 9"


def test_fsync_returns_when_the_server_has_it(tmp_path: Path, server: Served) -> None:
    """Right after fsync the API shows the value, even with a long write-back time."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
        (mount.path / "ns").mkdir()
        with (mount.path / "ns/key").open("w") as handle:
            handle.write("synced")
            handle.flush()
            os.fsync(handle.fileno())
            assert api.get(api.namespace("ns"), "key") == b"synced"


def test_sigterm_and_plain_umount_drain(tmp_path: Path, server: Served) -> None:
    """Ending the daemon by signal or the mount by fusermount3 sends what is pending first."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
            (mount.path / "ns").mkdir()
            (mount.path / "ns/first").write_text("1")
            assert mount.terminate() == 0
        with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
            (mount.path / "ns/second").write_text("2")
            subprocess.run(["fusermount3", "-u", mount.path], check=True)
            assert mount.process.wait(30) == 0
        namespace = api.namespace("ns")
        assert api.get(namespace, "first") == b"1"
        assert api.get(namespace, "second") == b"2"


def test_what_cannot_be_sent_is_said_and_kept(tmp_path: Path, server: Served) -> None:
    """umount with a dead server ends with status 3 and names the file, and the next mount sends it."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", "--timeout=2", served=server) as mount:
            (mount.path / "ns").mkdir()
            api.set_faults({"fault": "status", "status": 503, "path": "/bulk"})
            (mount.path / "ns/stuck").write_text("kept")
            done = mount.kvfs("umount", "--timeout=1", str(mount.path), check=False)
            assert done.returncode == 3
            assert "ns/stuck" in done.stdout + done.stderr
            assert mount.process.wait(30) == 3
        api.set_faults()
        with mounted(tmp_path, "cloudflare:", served=server):
            pass
        assert api.get(api.namespace("ns"), "stuck") == b"kept"


def test_a_second_daemon_on_the_journal_is_refused(tmp_path: Path, server: Served) -> None:
    """The refusal names the first one's process and mount point."""
    with mounted(tmp_path, "cloudflare:", served=server) as mount:
        second = tmp_path / "second"
        second.mkdir()
        done = mount.kvfs("mount", "cloudflare:", str(second), check=False)
        assert done.returncode != 0
        assert str(mount.process.pid) in done.stderr
        assert str(mount.path) in done.stderr
        assert "Traceback" not in done.stderr
