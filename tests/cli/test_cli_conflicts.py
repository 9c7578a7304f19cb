"""Conflicts outlive the mount that met them."""

import json
import os
import signal

import pytest
from support.mounted import Api
from support.serving import Served
from support.shell import Shell

from kvfs.cli.exits import Exit

pytestmark = pytest.mark.fuse


def test_a_conflict_stays_open_over_a_remount_and_is_named_without_one(shell: Shell, server: Served) -> None:
    """After kill -9, without a mount, `status` and `conflicts list` name the conflict; the next mount settles it."""
    with Api(server) as api:
        namespace, page = str(api.result("POST", "", json={"title": "ns"})["id"]), shell.mnt / "ns" / "page"
        api.put(namespace, "page", b"before")
        shell.ok("mount", "--cache-ttl=600", "--write-back=600", "cloudflare:", shell.mnt)
        assert page.read_bytes() == b"before"
        api.put(namespace, "page", b"theirs")
        page.write_bytes(b"mine")
        assert shell.kvfs("sync", shell.mnt).returncode == Exit.LEFT
        os.kill(shell.daemon(), signal.SIGKILL)
        shell.ok("umount", shell.mnt)
        [item] = json.loads(shell.ok("conflicts", "list", "--json"))
        assert (item["path"], item["mountpoint"], item["copy_size"]) == ("ns/page", "", 4)
        done = shell.kvfs("status")
        assert done.returncode == Exit.LEFT
        assert "1 open: kvfs conflicts list" in done.stdout
        assert "1 conflict is open" in shell.kvfs("doctor").stdout
        assert "is not mounted: kvfs mount" in shell.fails("conflicts", "keep", "mine", page)
        shell.ok("mount", "cloudflare:", shell.mnt)
        assert shell.status()["conflicts"] == {"count": 0, "items": [], "open": 1}
        shell.ok("conflicts", "keep", "mine", page)
        shell.ok("umount", shell.mnt)
        assert api.get(namespace, "page") == b"mine"
        assert set(api.keys(namespace)) == {"page"}
        assert shell.ok("status") == "nothing is mounted\n"
