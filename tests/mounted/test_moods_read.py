"""Reads through a mount while the API is in one of its moods: one bad key, odd shapes, refusals, its own pacing."""

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mounted import KVFS, QUICK, Api, Mounted, environment, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

OPTIONS = (*QUICK, "--timeout=6", "--write-back=0.2")


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        yield mount


def filled(mount: Mounted, count: int) -> Path:
    """Yield a namespace of files whose content is their number, all at the server and forgotten here."""
    ns = mount.path / "ns"
    ns.mkdir()
    for number in range(count):
        (ns / f"k{number:02}").write_text(f"{number}")
    mount.sync()
    while mount.status()["settling"]["count"]:  # until then this mount shows what it wrote, and asks nobody
        time.sleep(0.05)
    mount.kvfs("refresh", str(mount.path))
    return ns


def test_a_key_whose_reads_fail_stops_no_other(mount: Mounted, api: Api) -> None:
    """With one bad key the 20 others are read, `ls -l` has their sizes, a new one is made, and there is no outage."""
    ns = filled(mount, 20)
    api.put(api.namespace("ns"), "bad", b"x")  # never seen here: nothing older can be answered
    api.set_faults({"fault": "bad_key", "key": "bad"})
    time.sleep(1.1)
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
    ns = filled(mount, 10)
    api.put(api.namespace("ns"), "stuck", b"x")
    api.set_faults({"fault": "stuck_key", "key": "stuck"})
    time.sleep(1.1)
    mount.kvfs("refresh", str(mount.path))
    with ThreadPoolExecutor(11) as pool:
        reads = [pool.submit(quickly, ns / name) for name in ["stuck", *(f"k{n:02}" for n in range(10))]]
        stuck, *others = [read.result() for read in reads]
    assert others == [str(number) for number in range(10)]
    assert stuck in ("ETIMEDOUT", "EIO")
    assert mount.status()["store"]["reachable"]
    for number in range(2):
        time.sleep(1.1)  # what is held is stale
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
    ns = filled(mount, 10)
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
    ns = filled(mount, 3)
    (mount.path / "empty").mkdir()
    api.set_faults({"fault": fault})
    time.sleep(1.1)
    mount.kvfs("refresh", str(mount.path))
    assert {"ns", "empty"} <= set(os.listdir(mount.path))
    assert sorted(os.listdir(ns)) == ["k00", "k01", "k02"]
    assert [(ns / f"k0{number}").read_text() for number in range(3)] == ["0", "1", "2"]
    assert os.listdir(mount.path / "empty") == []


@pytest.mark.parametrize("how", ["append", "setfattr", "mv"])
def test_a_ttl_is_never_lost_by_reading(mount: Mounted, api: Api, how: str) -> None:
    """A bulk get without an expiration does not lose it: the listing knows it, and a later write keeps it."""
    ns = filled(mount, 1)
    namespace = api.namespace("ns")
    expires = int(time.time()) + 86_400
    api.put(namespace, "ttl", b"value", expiration=expires)
    api.set_faults({"fault": "no_bulk_expiration"})
    time.sleep(1.1)
    mount.kvfs("refresh", str(mount.path))
    assert (ns / "ttl").read_text() == "value"
    script = {"append": "echo >> ttl", "setfattr": "setfattr -n user.a -v 1 ttl", "mv": "mv ttl ttl2"}[how]
    subprocess.run(["bash", "-euc", script], cwd=ns, check=True)
    mount.sync()
    assert api.keys(namespace)["ttl2" if how == "mv" else "ttl"]["expiration"] == expires


def test_a_refusal_that_passes_is_not_noticed(tmp_path: Path, server: Served, api: Api) -> None:
    """A refusal that passes is not noticed at mount, by a read, a sync and an umount."""
    rule: dict[str, object] = {"fault": "denied", "times": 1}
    api.set_faults(rule)
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = filled(mount, 1)
        api.set_faults(rule)
        assert (ns / "k00").read_text() == "0"
        (ns / "new").write_text("new")
        api.set_faults(rule | {"method": "PUT"})
        mount.sync()
        (ns / "newer").write_text("newer")
        api.set_faults(rule | {"method": "PUT"})
        mount.umount()
    assert sorted(api.keys(api.namespace("ns"))) == ["k00", "new", "newer"]


def test_a_refused_token_is_not_hammered_and_mended_by_its_file(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """With a refused token a walk makes a handful of requests, and the right token in its file is used at once."""
    file = tmp_path / "token"
    file.write_text(server.token)
    file.chmod(0o600)
    with mounted(tmp_path, "cloudflare:", *OPTIONS, f"--token-file={file}", served=server) as mount:
        ns = filled(mount, 30)
        file.write_text("another-token-than-before")
        api.set_faults({"fault": "code", "code": 9109})
        before = api.requests()
        for number in range(30):
            with pytest.raises(OSError, match="Permission denied"):
                (ns / f"k{number:02}").read_text()
        assert sum(api.requests().values()) - sum(before.values()) <= 6
        api.set_faults()
        file.write_text(server.token)
        assert (ns / "k03").read_text() == "3"


@pytest.mark.parametrize(
    ("code", "said"), [(6003, "Authorization"), (9106, "Authentication failed"), (9109, "access token")]
)
def test_a_lasting_refusal_is_named_at_the_mount(
    tmp_path: Path, server: Served, api: Api, code: int, said: str
) -> None:
    """A lasting refusal is named at the mount, soon, also when it comes as HTTP 400."""
    api.set_faults({"fault": "code", "code": code})
    (tmp_path / "mnt").mkdir()
    begun = time.monotonic()
    done = subprocess.run(
        [*KVFS, "mount", "cloudflare:", str(tmp_path / "mnt")],
        env=environment(tmp_path, server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the token is not accepted" in done.stderr
    assert said in done.stderr
    assert time.monotonic() - begun < 15


def test_the_token_is_nowhere_in_the_daemon(tmp_path: Path, server: Served) -> None:
    """A token from a command is in no argument and no environment of the daemon, and nowhere in its log."""
    env = environment(tmp_path, server)
    (tmp_path / "mnt").mkdir()
    secret = tmp_path / "secret"
    secret.write_text(server.token)
    env["KVFS_TOKEN_COMMAND"] = f"cat {secret}"
    try:
        subprocess.run(
            [*KVFS, "mount", *OPTIONS, "cloudflare:", str(tmp_path / "mnt")], env=env, check=True, cwd="/"
        )
        found = subprocess.run(
            [*KVFS, "status", "--json", str(tmp_path / "mnt")],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        pid = json.loads(found.stdout)["mounts"][0]["pid"]
        shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert server.token.encode() not in shown
        assert server.token not in found.stdout
    finally:
        subprocess.run([*KVFS, "umount", str(tmp_path / "mnt")], env=env, check=True)
    logs = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    assert logs
    assert not [file for file in logs if server.token.encode() in file.read_bytes()]


def test_a_token_command_that_hangs_holds_up_no_end(tmp_path: Path, server: Served, api: Api) -> None:
    """While a token command hangs, reads are answered within their bound and umount ends at once."""
    script, asked = tmp_path / "token", tmp_path / "asked"
    script.write_text(f"#!/bin/sh\n[ ! -e {asked} ] || sleep 1000\ntouch {asked}\necho {server.token}\n")
    script.chmod(0o700)
    options = [*OPTIONS[:2], "--timeout=2", f"--token-command={script}"]
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        ns = filled(mount, 3)
        api.set_faults({"fault": "code", "code": 9109})
        time.sleep(1.1)
        begun = time.monotonic()
        with pytest.raises(OSError, match="k01"):
            (ns / "k01").read_text()
        assert time.monotonic() - begun < 8
        begun = time.monotonic()
        mount.umount()
        assert time.monotonic() - begun < 8


def test_ctrl_c_ends_a_mount_that_waits_for_its_token(tmp_path: Path, server: Served) -> None:
    """Ctrl-C ends a mount that waits for its token at once, together with the command."""
    (tmp_path / "mnt").mkdir()
    words = [*KVFS, "mount", "--token-command=sleep 1000", "cloudflare:", str(tmp_path / "mnt")]
    with subprocess.Popen(words, env=environment(tmp_path, server), start_new_session=True) as process:
        time.sleep(1.5)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - begun < 8
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
