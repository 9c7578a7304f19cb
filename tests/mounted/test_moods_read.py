"""Reads through a mount while the API is in one of its moods: a bad key, one that hangs, odd shapes of answers."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.moods import OPTIONS, filled
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        yield mount


def test_a_key_whose_reads_fail_stops_no_other(mount: Mounted, api: Api) -> None:
    """With one bad key the 20 others are read, `ls -l` has their sizes, a new one is made, and there is no outage."""
    ns = filled(mount, api, 20)
    api.put(api.namespace("ns"), "bad", b"x")  # never seen here: nothing older can be answered
    api.set_faults({"fault": "bad_key", "key": "bad"})
    mount.kvfs("refresh", str(mount.path))
    sizes = {f"k{number:02}": os.stat(ns / f"k{number:02}").st_size for number in range(20)}
    assert sizes == {f"k{number:02}": len(str(number)) for number in range(20)}
    assert [(ns / f"k{number:02}").read_text() for number in range(20)] == [str(n) for n in range(20)]
    with pytest.raises(OSError, match="Input/output error") as caught:
        (ns / "bad").read_text()
    assert caught.value.errno == errno.EIO
    (ns / "new").write_text("new")
    assert (ns / "k07").read_text() == "7"
    assert mount.status()["store"]["reachable"]


def test_a_key_that_hangs_stops_no_other(mount: Mounted, api: Api) -> None:
    """A key that hangs is found among ten others, which are read; later reads and writes do not wait for it."""
    ns = filled(mount, api, 10)
    api.put(api.namespace("ns"), "stuck", b"x")
    api.set_faults({"fault": "stuck_key", "key": "stuck"})
    mount.kvfs("refresh", str(mount.path))
    with ThreadPoolExecutor(11) as pool:
        reads = [pool.submit(quickly, ns / name) for name in ["stuck", *(f"k{n:02}" for n in range(10))]]
        stuck, *others = [read.result() for read in reads]
    assert others == [str(number) for number in range(10)]
    assert stuck in ("ETIMEDOUT", "EIO")
    assert mount.status()["store"]["reachable"]
    for number in range(2):
        time.sleep(1.1)  # the cached values are stale
        begun = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(quickly, ns / "stuck")
            assert pool.submit(quickly, ns / f"k{number:02}").result() == str(number)
            (ns / f"k{number:02}").write_text("new")
            assert (ns / f"new{number}").write_text("new")
            subprocess.run(["sync", str(ns / f"new{number}")], check=True)
            assert time.monotonic() - begun < 4
    assert mount.status()["store"]["reachable"]
    api.set_faults()
    mount.sync()
    assert len(api.keys(api.namespace("ns"))) == 13


def test_a_key_that_hangs_holds_back_its_own_change_alone(mount: Mounted, api: Api) -> None:
    """A write over a key that hangs waits for its comparison, and ten other changes do not."""
    ns = filled(mount, api, 10)
    namespace = api.namespace("ns")
    (ns / "stuck").write_text("1")
    mount.sync()
    api.set_faults({"fault": "stuck_key", "key": "stuck"})
    for name in ["stuck", *(f"k{number:02}" for number in range(10))]:
        (ns / name).write_text("new")
    begun = time.monotonic()
    while [api.get(namespace, f"k{number:02}") for number in range(10)] != [b"new"] * 10:
        assert time.monotonic() - begun < 30
        time.sleep(0.2)
    assert mount.status()["pending"]["count"] == 1
    api.set_faults()
    mount.sync()
    assert api.get(namespace, "stuck") == b"new"


def quickly(path: Path) -> str:
    """Return the text of the file, or the error's name."""
    try:
        return path.read_text()
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, "")


@pytest.mark.parametrize(
    "fault", ["null_lists", "floats", "digits", "bare_bulk", "odd_rows", "plain_namespaces", "unknown_fields"]
)
def test_every_shape_that_the_schema_allows_is_read(mount: Mounted, api: Api, fault: str) -> None:
    """An empty namespace, a listing and a value in any shape of the schema are read without EIO."""
    ns = filled(mount, api, 3)
    (mount.path / "empty").mkdir()
    api.set_faults({"fault": fault})
    mount.kvfs("refresh", str(mount.path))
    assert {"ns", "empty"} <= set(os.listdir(mount.path))
    assert sorted(os.listdir(ns)) == ["k00", "k01", "k02"]
    assert [(ns / f"k0{number}").read_text() for number in range(3)] == ["0", "1", "2"]
    assert os.listdir(mount.path / "empty") == []


@pytest.mark.parametrize("how", ["append", "setfattr", "mv"])
def test_a_ttl_is_never_lost_by_reading(mount: Mounted, api: Api, how: str) -> None:
    """A bulk get without an expiration does not lose it: the listing knows it, and a later write keeps it."""
    ns = filled(mount, api, 1)
    namespace = api.namespace("ns")
    expires = int(time.time()) + 86_400
    api.put(namespace, "ttl", b"value", expiration=expires)
    api.set_faults({"fault": "no_bulk_expiration"})
    mount.kvfs("refresh", str(mount.path))
    assert (ns / "ttl").read_text() == "value"
    script = {"append": "echo >> ttl", "setfattr": "setfattr -n user.a -v 1 ttl", "mv": "mv ttl ttl2"}[how]
    subprocess.run(["bash", "-euc", script], cwd=ns, check=True)
    mount.sync()
    assert api.keys(namespace)["ttl2" if how == "mv" else "ttl"]["expiration"] == expires
