"""Writes to an API in its moods: its firewall, its slow bulk writes, its codes, its quotas, its silence."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import wait_for

pytestmark = pytest.mark.fuse

OPTIONS = ("--cache-ttl=1", "--settle=0.5", "--timeout=5", "--write-back=0.5")
COMMITS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
db.execute("create table if not exists t (who, i)")
for i in range(20):
    db.execute("begin immediate")
    db.execute("insert into t values (?, ?)", (sys.argv[2], i))
    db.execute("commit")
"""


@pytest.fixture
def api(server: Served) -> Iterator[Api]:
    """The server's API, without faults at the end."""
    with Api(server) as api:
        yield api
        api.set_faults()


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    """A mount with the namespace `ns`."""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        mount.shell("mkdir ns")
        yield mount


def test_a_firewall_that_dislikes_one_text_stops_no_other(mount: Mounted, api: Api) -> None:
    """A firewall refuses one of fifty files: it is stored as base64, and the token is not blamed."""
    api.set_faults({"fault": "firewall", "text": "UNION SELECT", "method": "PUT"})
    ns = mount.path / "ns"
    for number in range(50):
        (ns / f"f{number:02}").write_text("1 UNION SELECT 2" if number == 25 else f"file {number}")
    mount.sync()
    api.set_faults()
    stored = api.keys(api.namespace("ns"))
    assert len(stored) == 50
    assert api.get(api.namespace("ns"), "f25") == b"1 UNION SELECT 2"
    assert mount.status()["rejected"]["count"] == 0


def test_what_a_firewall_refuses_in_any_form_is_set_aside_and_named(mount: Mounted, api: Api) -> None:
    """A file whose name the firewall refuses, which base64 cannot hide, is set aside and named, and the rest goes."""
    api.set_faults({"fault": "firewall", "text": "passwd", "method": "PUT"})
    ns = mount.path / "ns"
    for name in ("a", "b", "etc-passwd", "c"):
        (ns / name).write_text(name)
    mount.kvfs("sync", "--timeout=20", str(mount.path), check=False)
    api.set_faults()
    assert sorted(api.keys(api.namespace("ns"))) == ["a", "b", "c"]
    (refused,) = mount.status()["rejected"]["items"]
    assert refused["path"] == "ns/etc-passwd"
    assert "refused this content (HTTP 403" in refused["error"]
    assert (ns / "etc-passwd").read_text() == "etc-passwd"
    mount.kvfs("rejected", "discard", "--all", "--yes", str(mount.path))


def test_bulk_writes_that_end_in_524_are_not_paid_for_twice(mount: Mounted, api: Api) -> None:
    """After a 524 for 2,500 files the pairs that the server wrote all the same are found, and count as sent."""
    api.set_faults({"fault": "pair_cost", "seconds": 0.001, "limit": 1.5})
    mount.shell("cd ns; for i in $(seq 2500); do echo $i > f$i; done")
    mount.sync()
    api.set_faults()
    assert len(api.keys(api.namespace("ns"))) == 2500
    keys = mount.status()["keys"]
    assert 2500 <= keys["written"] <= 2500 * 1.1


def test_repeats_are_counted_and_priced(mount: Mounted, api: Api) -> None:
    """A repeated write after a lost answer is counted and priced like any other."""
    api.set_faults({"fault": "lost_ack", "path": "/bulk$", "method": "PUT", "times": 1})
    for number in range(10):
        (mount.path / f"ns/f{number}").write_text("x")
    mount.sync()
    keys = mount.status()["keys"]
    assert keys["written"] == 20
    assert keys["dollars"] >= 20 * 5e-6


def test_a_code_of_the_account_sets_nothing_aside(mount: Mounted, api: Api) -> None:
    """With code 10026 everything waits with few requests; when the account is mended `kvfs sync` sends it at once."""
    api.set_faults({"fault": "code", "code": 10026, "status": 403, "method": "PUT"})
    for number in range(50):
        (mount.path / f"ns/f{number}").write_text("x")
    time.sleep(2)
    status = mount.status()
    assert (status["pending"]["count"], status["rejected"]["count"]) == (50, 0)
    assert status["requests"]["bulk_put"] <= 3
    assert "10026" in status["store"]["error"]
    api.set_faults()
    begun = time.monotonic()
    mount.sync()
    assert time.monotonic() - begun < 10
    assert len(api.keys(api.namespace("ns"))) == 50


def test_a_code_nobody_knows_waits_for_a_witness(mount: Mounted, api: Api) -> None:
    """While all writes get the unknown code 19999 nothing is set aside, and all is sent when that is over."""
    api.set_faults({"fault": "code", "code": 19999, "status": 400, "method": "PUT"})
    for number in range(50):
        (mount.path / f"ns/f{number}").write_text("x")
    time.sleep(2)
    assert mount.status()["rejected"]["count"] == 0
    api.set_faults()
    mount.sync()
    assert len(api.keys(api.namespace("ns"))) == 50


def test_used_up_writes_hold_back_neither_deletes_nor_reads(mount: Mounted, api: Api) -> None:
    """With code 10048 for writes, deletions go, listings and reads are answered, and the user is told."""
    ns = mount.path / "ns"
    for name in ("old", "read"):
        (ns / name).write_text(name)
    mount.sync()
    api.set_faults({"fault": "quota", "method": "PUT"})
    (ns / "new").write_text("new")
    time.sleep(1.5)
    (ns / "old").unlink()
    mount.kvfs("sync", "--timeout=40", str(mount.path), check=False)
    namespace = api.namespace("ns")
    assert sorted(api.keys(namespace)) == ["read"]
    mount.kvfs("refresh", str(ns))
    assert (ns / "read").read_text() == "read"
    assert sorted(path.name for path in ns.iterdir()) == ["new", "read"]
    assert mount.status()["sender"]["state"] == "quota"


def test_a_body_larger_than_what_is_left_of_the_day_is_tried_smaller(mount: Mounted, api: Api) -> None:
    """A free plan with 30 writes left takes 30 of 100 files, because larger bodies are tried smaller."""
    api.set_faults({"fault": "free_plan", "count": 30})
    for number in range(100):
        (mount.path / f"ns/f{number:03}").write_text("x")
    mount.kvfs("sync", "--timeout=20", str(mount.path), check=False)
    api.set_faults()
    assert len(api.keys(api.namespace("ns"))) == 30
    assert mount.status()["pending"]["count"] == 70


def test_kvfs_sync_tries_at_once(mount: Mounted, api: Api) -> None:
    """After an outage the loop waits for its back-off, but `kvfs sync` tries at once."""
    api.set_faults({"fault": "status", "status": 503, "path": "/bulk"})
    (mount.path / "ns/f").write_text("x")
    wait_for(lambda: (mount.status()["sender"]["retry_at"] or 0.0) - time.time() > 3.5)
    api.set_faults()
    begun = time.monotonic()
    mount.sync()
    assert time.monotonic() - begun < 2.5
    assert api.get(api.namespace("ns"), "f") == b"x"


def test_an_fsync_does_not_wait_for_a_long_bulk_write(mount: Mounted, api: Api) -> None:
    """An fsync goes beside a bulk write of other files that takes longer than `--timeout`."""
    rule = {"fault": "pair_cost", "seconds": 0.02}
    api.set_faults(rule)
    mount.shell("cd ns; for i in $(seq 500); do echo $i > f$i; done")
    time.sleep(2)
    assert mount.status()["pending"]["count"] == 500
    begun = time.monotonic()
    mount.shell("cd ns; echo now > g; sync g")
    assert time.monotonic() - begun < 4
    assert api.get(api.namespace("ns"), "g") == b"now\n"
    api.set_faults()
    mount.sync()
    assert mount.status()["keys"]["written"] <= 501 * 1.1


@pytest.mark.parametrize("source", ["cloudflare:", "local:"])
def test_sqlite_commits_at_the_pace_of_its_requests(tmp_path: Path, server: Served, source: str) -> None:
    """Two processes commit 20 rows each: no fsync waits for a second to pass, and none finds the database locked."""
    source = source if source == "cloudflare:" else f"local:{tmp_path / 'store.sqlite'}"
    with mounted(tmp_path, source, served=server) as mount:
        mount.shell("mkdir ns")
        begun = time.monotonic()
        jobs = [
            subprocess.Popen(
                [sys.executable, "-c", COMMITS, str(mount.path / "ns/db"), who], stderr=subprocess.PIPE
            )
            for who in "ab"
        ]
        said = [job.communicate(timeout=60)[1] for job in jobs]
        seconds = time.monotonic() - begun
        assert said == [b"", b""]
        assert seconds < 30
        with sqlite3.connect(mount.path / "ns/db") as database:
            assert database.execute("select count(*) from t").fetchone() == (40,)
        database.close()
