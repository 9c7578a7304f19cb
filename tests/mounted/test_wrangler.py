"""Workers under `wrangler dev` and the mount: both see one state, whichever of them wrote it."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.mounted import Mounted, mounted
from support.wrangler import NEW, OLD, PREVIEW, Dev, dev_server, project

pytestmark = pytest.mark.fuse

BINARY = bytes(range(256))
STEPS = int(os.environ.get("KVFS_WRANGLER_STEPS", "150"))
KILLS = int(os.environ.get("KVFS_WRANGLER_KILLS", "2"))
PATIENCE = 20.0


@pytest.fixture(params=[OLD, NEW])
def version(request: pytest.FixtureRequest) -> str:
    """Both versions of wrangler."""
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project with two bindings, an environment and a preview_id."""
    return project(tmp_path / "project")


@pytest.fixture
def dev(version: str, place: Path) -> Iterator[Dev]:
    """A dev server of the project."""
    with dev_server(version, place) as running:
        yield running


def soon(true: Callable[[], bool], what: str) -> None:
    """Wait until the mount shows the Worker's change: within the second for which listings are believed."""
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends, f"{what} did not show"
        time.sleep(0.05)


def attribute(file: Path, name: str) -> str:
    """Return an extended attribute as text."""
    return os.getxattr(file, name).decode()


def write(mount: Mounted, name: str, value: bytes, **metadata: str) -> Path:
    """Write a file of CONFIG with attributes, and wait until it is in the store."""
    file = mount.path / "CONFIG" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(value)
    for key, text in metadata.items():
        os.setxattr(file, f"user.{key}", text.encode())
    return file


def test_the_worker_and_the_mount_see_each_other(dev: Dev, place: Path, tmp_path: Path) -> None:
    """Text and binary, metadata, expirations, listings and deletions pass both ways between Worker and mount."""
    with mounted(tmp_path, f"wrangler:{place}", *("--write-back=0.1", "--cache-ttl=1")) as mount:
        assert sorted(os.listdir(mount.path)) == ["CACHE", "CONFIG"]
        assert f"process {os.getpgid(0)}" not in mount.status()["store"]["route"]
        write(mount, "text", b"from the mount\n", role="admin")
        expires = int(time.time()) + 3600
        os.utime(write(mount, "dir/é binary", BINARY), (expires, expires))
        mount.sync()
        assert "is written through" in mount.status()["store"]["route"]
        assert dev.get("text") == (b"from the mount\n", '{"role":"admin"}')
        assert dev.get("dir/é binary") == (BINARY, "null")
        assert dev.listing()["dir/é binary"]["expiration"] == expires
        write(mount, "text", b"changed\n")
        mount.sync()
        assert dev.get("text") == (b"changed\n", '{"role":"admin"}')

        dev.put("worker/text", b"from the worker", meta='{"n": 1}', ttl=600)
        dev.put("worker/binary", BINARY)
        below = mount.path / "CONFIG" / "worker"
        soon(lambda: below.is_dir() and sorted(os.listdir(below)) == ["binary", "text"], "a new key")
        assert (below / "text").read_bytes() == b"from the worker"
        assert attribute(below / "text", "user.n") == "1"
        assert abs(float(attribute(below / "text", "user.kvfs.ttl")) - 600) < 60
        assert (below / "binary").read_bytes() == BINARY

        dev.put("worker/text", b"from the worker, again")
        soon(lambda: (below / "text").read_bytes() == b"from the worker, again", "a change")
        (mount.path / "CONFIG" / "text").unlink()
        dev.delete("worker/binary")
        mount.sync()
        assert dev.get("text") == (None, "null")
        soon(lambda: not (below / "binary").exists(), "a deletion")
        assert sorted(dev.listing()) == ["dir/é binary", "worker/text"]


def test_the_state_on_disk_is_what_a_dev_server_starts_with(
    version: str, place: Path, tmp_path: Path
) -> None:
    """kvfs writes a dev server's state before it exists, beside one that starts, and after it has ended."""
    with mounted(tmp_path, f"wrangler:{place}/@CONFIG", "--write-back=0.1", "--cache-ttl=1") as mount:
        (mount.path / "before").write_bytes(BINARY)
        os.setxattr(mount.path / "before", b"user.k", b"v")
        mount.sync()
        assert "no wrangler dev runs" in mount.status()["store"]["route"]
        with dev_server(version, place) as dev:
            assert dev.get("before") == (BINARY, '{"k":"v"}')
            (mount.path / "while").write_bytes(b"it runs")
            mount.sync()
            assert dev.get("while") == (b"it runs", "null")
            dev.put("by the worker", b"kept")
        (mount.path / "after").write_bytes(b"it ran")
        (mount.path / "before").unlink()
        mount.sync()
        names = ["after", "by the worker", "while"]
        soon(lambda: sorted(os.listdir(mount.path)) == names, "what the worker put")
        assert (mount.path / "by the worker").read_bytes() == b"kept"
        with dev_server(version, place) as dev:
            assert sorted(dev.listing()) == ["after", "by the worker", "while"]
            assert dev.get("after") == (b"it ran", "null")


def test_a_dev_server_can_be_named_by_its_url(place: Path, tmp_path: Path) -> None:
    """A dev server named by its URL is used through its API: values byte for byte, metadata, expirations."""
    with (
        dev_server(NEW, place) as dev,
        mounted(tmp_path, f"wrangler:{dev.origin}", "--write-back=0.1", "--cache-ttl=1") as mount,
    ):
        dev.put("worker", BINARY, meta='{"a": "b"}', ttl=600)
        file = write(mount, "file", BINARY, role="admin")
        expires = int(time.time()) + 3600
        os.utime(file, (expires, expires))
        mount.sync()
        assert dev.get("file") == (BINARY, '{"role":"admin"}')
        assert dev.listing()["file"]["expiration"] == expires
        worker = mount.path / "CONFIG" / "worker"
        soon(worker.exists, "a new key")
        assert worker.read_bytes() == BINARY
        assert attribute(worker, "user.a") == "b"
        assert abs(float(attribute(worker, "user.kvfs.ttl")) - 600) < 60
        worker.unlink()
        mount.sync()
        assert sorted(dev.listing()) == ["file"]


def test_a_url_where_nothing_answers_is_refused(place: Path, tmp_path: Path) -> None:
    """A URL where nothing answers is refused and named."""
    with (
        pytest.raises(
            AssertionError, match=r"no `wrangler dev` with a local explorer answers at http://127.0.0.1:1"
        ),
        mounted(tmp_path, "wrangler:http://127.0.0.1:1"),
    ):
        pass


def test_bindings_are_made_in_the_configuration(place: Path, tmp_path: Path) -> None:
    """mkdir, mv and rmdir of a namespace give EPERM: bindings are in the configuration. A new one shows by itself."""
    with mounted(tmp_path, f"wrangler:{place}", "--cache-ttl=1") as mount:
        said = mount.shell("mkdir NEW || mv CONFIG OTHER || rmdir CACHE", check=False)
        assert said.count("Operation not permitted") == 3, said
        file = place / "wrangler.jsonc"
        file.write_text(
            file.read_text().replace('"kv_namespaces": [\n', '"kv_namespaces": [{"binding": "NEW"},\n', 1)
        )
        soon(lambda: "NEW" in os.listdir(mount.path), "a new binding")


class History:
    """Random operations of both sides, and the content expected after them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.expected: dict[str, bytes] = {}

    def step(self, directory: Path, worker: Dev | None) -> None:
        """Do one operation: by the Worker, if there is one and chance says so, else through the mount with fsync.

        Each side has keys of its own, because a change shows on the other side within a second, not at once.
        """
        by_worker = worker is not None and self.random.random() < 0.3
        key = f"{'w' if by_worker else 'k'}{self.random.randrange(40)}"
        value = self.random.randbytes(self.random.choice((0, 10, 3000)))
        if self.random.random() < 0.25:
            if by_worker:
                assert worker is not None
                worker.delete(key)
            else:
                (directory / key).unlink(missing_ok=True)
            self.expected.pop(key, None)
            return
        if by_worker:
            assert worker is not None
            worker.put(key, value)
        else:
            _put(directory / key, value)
        self.expected[key] = value


def _put(file: Path, value: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(value)
        opened.flush()
        os.fsync(opened.fileno())


def test_random_operations_end_equal(place: Path, tmp_path: Path) -> None:
    """After random operations of both sides the Worker's binding shows the expected state, without a conflict."""
    history = History(1)
    options = ("--write-back=0.05", "--cache-ttl=0", "--on-conflict=overwrite")
    with dev_server(NEW, place) as dev, mounted(tmp_path, f"wrangler:{place}/@CONFIG", *options) as mount:
        for _ in range(STEPS):
            history.step(mount.path, dev)
            if history.random.random() < 0.1:
                mount.sync()
        mount.sync()
        assert {key: dev.get(key)[0] for key in dev.listing()} == history.expected
        mount.kvfs("refresh", str(mount.path))
        shown = {name: (mount.path / name).read_bytes() for name in os.listdir(mount.path)}
        assert shown == history.expected


def test_nothing_is_lost_when_either_side_is_killed(place: Path, tmp_path: Path) -> None:
    """After kill -9 of the dev server or the daemon the database is whole, and acknowledged fsyncs are there."""
    history = History(2)
    source = f"wrangler:{place}/@CONFIG"
    for round_ in range(KILLS):
        with ExitStack() as stack:
            dev = stack.enter_context(dev_server(NEW, place))
            mount = stack.enter_context(mounted(tmp_path, source, "--write-back=0.05", "--cache-ttl=0"))
            for _ in range(20):
                history.step(mount.path, None)
            if round_ % 2:
                mount.kill()
            else:
                dev.kill()
                history.step(mount.path, None)
                mount.sync()
    with mounted(tmp_path, source) as mount:
        mount.sync()
    with dev_server(NEW, place) as dev:
        assert {key: dev.get(key)[0] for key in dev.listing()} == history.expected
    files = (place / ".wrangler" / "state" / "v3" / "kv" / "miniflare-KVNamespaceObject").glob("*.sqlite")
    for file in files:
        checked = subprocess.run(
            ["sqlite3", file, "PRAGMA integrity_check"], capture_output=True, text=True, check=True
        )
        assert checked.stdout.strip() == "ok"


def test_the_preview_id_is_what_wrangler_dev_uses(place: Path, tmp_path: Path) -> None:
    """The mount reads the preview_id, as `wrangler dev` does, although many expect the id."""
    with mounted(tmp_path, f"wrangler:{place}") as mount:
        write(mount, "a", b"1")
        mount.sync()
        assert attribute(mount.path / "CONFIG" / "a", "user.kvfs.namespace_id") == PREVIEW
