"""Own changes over a slow server: a change that waits here, or was just sent, is no other client's."""

import os
import time
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import served_by_process

pytestmark = pytest.mark.fuse

OPTIONS = ("--settle=2", "--cache-ttl=1", "--write-back=0.3", "--rate-requests=1000000")
BODY = 100  # pairs; a bulk write of them takes two seconds


def wait_until(mount: Mounted, *, state: str) -> None:
    """Wait until the sender is at work, or idle with nothing left in the journal.

    `kvfs sync` would save open files as well.
    """
    end = time.monotonic() + 30
    while True:
        status = mount.status()
        left = status["settling"]["count"] + status["pending"]["count"]
        if status["sender"]["state"] == state and (state != "idle" or not left):
            return
        assert time.monotonic() < end, status
        time.sleep(0.02)


def test_what_one_mount_does_beside_a_slow_bulk_write_is_no_conflict(tmp_path: Path) -> None:
    """Work on a name beside a slow bulk write makes no conflict, and a handle held open meanwhile makes none."""
    with (
        served_by_process(tmp_path, faults="pair_cost=20ms") as served,
        Api(served) as api,
        mounted(tmp_path, "cloudflare:", *OPTIONS, served=served) as mount,
    ):
        place = mount.path / "ns"
        place.mkdir()
        anew, held = place / "anew", place / "held"
        anew.write_text("sent")
        held.write_text("sent")
        wait_until(mount, state="idle")
        for number in range(BODY):
            (place / f"other{number}").write_text("slow")
        wait_until(mount, state="sending")
        anew.write_text("never sent")
        assert anew.read_text() == "never sent"
        anew.unlink()
        anew.write_text("made anew")
        with open(held, "w") as file:
            file.write("sent again")
            file.flush()
            os.fsync(file.fileno())
        with open(held, "w") as file:  # `job > held`
            wait_until(mount, state="idle")
            file.write("at last")
        mount.sync()
        namespace = api.namespace("ns")
        found = {key for key in api.keys(namespace) if not key.startswith("other")}
        assert {key: api.get(namespace, key) for key in found} == {"anew": b"made anew", "held": b"at last"}
