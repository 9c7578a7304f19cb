"""The API away for a while: waiting changes and those of other clients meet when it is back."""

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

TIMEOUT = 2.0
BOUND = TIMEOUT + 1.5  # seconds, on a busy machine; also for a path that is several requests of the kernel
OPTIONS = (f"--timeout={TIMEOUT:g}", "--cache-ttl=0.3", "--settle=1", "--write-back=0.2", "--max-pending=64K")


@contextmanager
def silent(server: Served, api: Api) -> Iterator[None]:
    """Accept connections and never answer."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def resetting(server: Served, api: Api) -> Iterator[None]:
    """Break every connection."""
    api.set_faults({"fault": "reset"})
    yield
    api.set_faults()


def bounded(act: Callable[[], object]) -> object:
    """Return the result, or the errno that was raised, soon enough."""
    begun = time.monotonic()
    try:
        return act()
    except OSError as exc:
        return exc.errno
    finally:
        assert time.monotonic() - begun < BOUND


def filled(mount: Mounted, count: int) -> Path:
    """Yield a namespace of small files, all at the server, their caches about to be old."""
    ns = mount.path / "ns"
    ns.mkdir()
    for number in range(count):
        (ns / f"{number}").write_text(f"value {number}")
    mount.sync()
    return ns


@pytest.fixture
def unread(tmp_path: Path, server: Served, api: Api) -> Callable[[int], AbstractContextManager[Mounted]]:
    """Mount such a namespace made by another client, of which only the names are known here."""

    @contextmanager
    def unread(count: int) -> Iterator[Mounted]:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.bulk_put(namespace, [{"key": f"{number}", "value": f"value {number}"} for number in range(count)])
        with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
            os.listdir(mount.path / "ns")
            yield mount

    return unread


@pytest.mark.parametrize("away", [silent, resetting])
def test_work_goes_on_while_the_api_is_away(tmp_path: Path, server: Served, away) -> None:
    """Without the API cached reads, and changes up to --max-pending, go on, the rest fails in time, and all is sent."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
            filled(mount, 40)
        apart = api.result("POST", "", json={"title": "apart"})["id"]  # where nothing is read ahead
        api.put(apart, "unread", b"never read here")
        with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
            ns = mount.path / "ns"
            for number in range(20):
                assert (ns / f"{number}").read_text() == f"value {number}"
            names = set(os.listdir(ns))
            os.listdir(mount.path / "apart")
            time.sleep(0.4)  # the listing is no longer fresh
            before = sum(api.requests().values())
            with away(server, api):
                for number in range(20):
                    assert bounded((ns / f"{number}").read_text) == f"value {number}"
                assert set(bounded(lambda: os.listdir(ns))) == names
                assert bounded((mount.path / "apart/unread").read_bytes) in (
                    errno.EIO,
                    errno.ETIMEDOUT,
                    errno.EAGAIN,
                )
                for edit in range(3):
                    for number in range(10):
                        written = bounded(lambda n=number, e=edit: (ns / f"{n}").write_text(f"edit {e} {n}"))
                        assert written == 8
                for number in range(30, 40):
                    assert bounded((ns / f"{number}").unlink) is None
                for number in range(10):
                    assert bounded(lambda n=number: (ns / f"new{n}").write_text("new")) == 3
                assert bounded((ns / "5").read_text) == "edit 2 5"
                assert bounded((ns / "30").exists) is False
                assert bounded(lambda: (ns / "big").write_bytes(b"x" * 70_000)) == errno.ENOSPC
                assert mount.status()["pending"]["count"] >= 30
            mount.sync()
            namespace = api.namespace("ns")
            sent = sum(api.requests().values()) - before
            assert sent < 50, api.requests()  # there were 50 changes, and reads
            keys = api.keys(namespace)
            assert {key for key in keys if key.startswith("new")} == {f"new{n}" for n in range(10)}
            assert not set(keys) & {f"{n}" for n in range(30, 40)}
            assert api.get(namespace, "5") == b"edit 2 5"


def test_an_fsync_while_the_api_is_away_says_why_and_loses_nothing(tmp_path: Path, server: Served) -> None:
    """An fsync without the API fails within --timeout, and the value is still sent when the API is back."""
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = filled(mount, 1)

        with (ns / "synced").open("w") as handle:
            handle.write("kept")
            with silent(server, api):
                handle.flush()
                assert bounded(lambda: os.fsync(handle.fileno())) in (errno.EIO, errno.ETIMEDOUT)
        mount.sync()
        assert api.get(api.namespace("ns"), "synced") == b"kept"


@pytest.mark.parametrize("away", [silent, resetting])
def test_what_was_never_read_can_be_overwritten_while_the_api_is_away(
    server: Served, api: Api, unread, away
) -> None:
    """`>`, truncate to nothing and rm need no old value and work without the API; `>>` and reading fail in time."""
    with unread(4) as mount:
        ns = mount.path / "ns"
        with away(server, api):
            assert bounded(lambda: (ns / "0").write_text("new")) == 3
            assert bounded(lambda: os.truncate(ns / "1", 0)) is None
            assert bounded((ns / "2").unlink) is None
            assert bounded(lambda: (ns / "3").open("a").close()) == errno.EIO
            assert (ns / "0").read_text() == "new"
            assert (ns / "3").stat().st_size != 0  # not known; never shown as empty
        mount.sync()
        namespace = api.namespace("ns")
        found = {key: api.get(namespace, key) for key in api.keys(namespace)}
        assert found == {"0": b"new", "1": b"", "3": b"value 3"}


def test_an_outage_is_waited_for_once(server: Served, api: Api, unread) -> None:
    """After one read that failed in time the next fail at once, and soon after the API is back they succeed."""
    with unread(12) as mount:
        ns = mount.path / "ns"
        with silent(server, api):
            assert bounded((ns / "0").read_text) == errno.EIO
            begun = time.monotonic()
            for number in range(1, 12):
                assert bounded((ns / f"{number}").read_text) == errno.EIO
            assert time.monotonic() - begun < TIMEOUT  # waited for at most once more
        deadline = time.monotonic() + 2 * TIMEOUT + 5
        while (found := bounded((ns / "1").read_text)) == errno.EIO and time.monotonic() < deadline:
            pass
        assert found == "value 1"


# somebody else's changes


def test_an_edit_of_a_value_that_changed_elsewhere_keeps_both(tmp_path: Path, server: Served) -> None:
    """An edit of a value that changed elsewhere makes a copy beside it, told by log and status.

    Equal bytes are no conflict.
    """
    with Api(server) as api, mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = filled(mount, 2)
        namespace = api.namespace("ns")
        time.sleep(1.5)  # settled: what is edited is the server's value, not our own
        with (ns / "0").open("r+") as ours, (ns / "1").open("r+") as same:
            ours.read()
            same.read()
            api.put(namespace, "0", b"theirs")
            api.put(namespace, "1", b"agreed on")
            for handle, text in ((ours, "ours"), (same, "agreed on")):
                handle.seek(0)
                handle.truncate()
                handle.write(text)
        mount.sync(conflicts=True)
        keys = api.keys(namespace)
        (copy,) = set(keys) - {"0", "1"}
        assert re.fullmatch(r"0\.kvfs-conflict-[\w.-]+-\d{8}T\d{6}Z", copy)
        assert api.get(namespace, "0") == b"theirs"
        assert api.get(namespace, copy) == b"ours"
        assert api.get(namespace, "1") == b"agreed on"
        assert (ns / copy).read_bytes() == b"ours"
        assert copy in mount.log.read_text()
        assert mount.status()["sender"]["conflicts"] == 1
        assert copy in (mount.path / ".kvfs/errors").read_text()
        time.sleep(0.5)
        assert (ns / "0").read_bytes() == b"theirs"


def test_looking_for_conflicts_costs_a_request_a_hundred_keys(tmp_path: Path, server: Served) -> None:
    """After 250 values were read, their edit costs three bulk gets more than without a read, and one bulk put."""
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", "--settle=0", served=server) as mount:
            filled(mount, 250)
        with mounted(tmp_path, "cloudflare:", "--settle=0", "--write-back=600", served=server) as mount:
            ns = mount.path / "ns"
            while mount.status()["settling"]["count"]:
                time.sleep(0.1)
            subprocess.run("cat *", shell=True, cwd=ns, check=True, stdout=subprocess.DEVNULL)
            before = api.requests()
            for number in range(250):
                with (ns / f"{number}").open("a") as handle:
                    handle.write(" edited")
            mount.sync()
            after = api.requests()
            spent = {name: after[name] - before.get(name, 0) for name in after}
            assert {name: count for name, count in spent.items() if count} == {"bulk_get": 3, "bulk_put": 1}
        assert api.get(api.namespace("ns"), "249") == b"value 249 edited"
