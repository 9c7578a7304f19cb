"""Commits of SQLite in a mount: their cost, counted in syncs of the disk and in requests, never in time."""

import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from support.mounted import mounted
from support.serving import Served, served_by_process
from support.syncs import Syncs

pytestmark = pytest.mark.fuse

COMMITS = 20
SYNCED = 3
"""SQLite's fsyncs in a commit: of its journal twice, of the database once."""


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A database with a table; SQLite in its usual mode, with a journal that it deletes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
        base.execute("INSERT INTO t (text) VALUES ('the first')")
        yield base


def commit(base: sqlite3.Connection) -> None:
    for number in range(COMMITS):
        base.execute("INSERT INTO t (text) VALUES (?)", (str(number),))


def test_a_commit_on_a_local_store_forces_the_disk_once_an_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit on a local store forces the disk once an fsync, and neither the mount's journal nor the directory."""
    syncs = Syncs(tmp_path)
    for name, value in syncs.environment.items():
        monkeypatch.setenv(name, value)
    with mounted(tmp_path, f"local:{tmp_path / 'store.sqlite'}") as mount:
        monkeypatch.undo()
        mount.shell("mkdir ns")
        with database(mount.path / "ns/db") as base:
            before, sent = syncs.count, mount.status()["sender"]
            commit(base)
            done, after = syncs.count - before, mount.status()["sender"]
    assert SYNCED * COMMITS <= done <= SYNCED * COMMITS + 2, "of a checkpoint, perhaps"
    assert after["requests"] - sent["requests"] == SYNCED * COMMITS, "nothing is read to be compared"
    assert after["conflicts"] == 0


def test_a_commit_through_the_api_is_a_comparison_and_a_write_for_each_fsync(tmp_path: Path) -> None:
    """A commit through the API compares each file before each write, because KV has no compare-and-swap."""
    with served_by_process(tmp_path) as server, mounted(tmp_path, "cloudflare:", served=server) as mount:
        mount.shell("mkdir ns")
        with database(mount.path / "ns/db") as base:
            before = requests(server)
            commit(base)
            done = requests(server) - before
    assert done <= 2 * SYNCED * COMMITS + 2


def requests(server: Served) -> int:
    """Return how many requests the server has answered."""

    text = httpx.get(f"{server.root}/metrics", headers=server.headers, trust_env=False).text
    lines = (line for line in text.splitlines() if line.startswith("kvfs_requests_total"))
    return sum(int(float(line.split()[-1])) for line in lines)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_what_was_committed_survives_kill_9(tmp_path: Path, where: str) -> None:
    """A daemon killed amid commits on a local store loses none that had ended, and the store has what was fsynced."""
    if where == "memory" and not Path("/dev/shm").is_mount():
        pytest.skip("no file system of memory is here")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if where == "memory" else tmp_path) as directory:
        source, committed = f"local:{directory}/store.sqlite", 0
        for delay in (0.31, 0.17):
            with mounted(tmp_path, source) as mount:
                (mount.path / "ns").mkdir(exist_ok=True)
                killer = threading.Timer(delay, mount.kill)
                with suppress(sqlite3.OperationalError), closing(connected(mount.path / "ns/db")) as base:
                    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
                    assert base.execute("SELECT count(*) FROM t").fetchone()[0] in (committed, committed + 1)
                    killer.start()
                    while True:
                        committed = base.execute("INSERT INTO t VALUES (NULL) RETURNING n").fetchone()[0]
                killer.join()
        (tmp_path / "elsewhere").mkdir()
        with mounted(
            tmp_path / "elsewhere", source
        ) as mount:  # it knows what the store has, and no unlink since
            with closing(connected(mount.path / "ns/db")) as base:
                assert abs(base.execute("SELECT count(*) FROM t").fetchone()[0] - committed) <= 1
                assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert {path.name for path in (mount.path / "ns").iterdir()} <= {"db", "db-journal"}
    assert committed > 10, "it was killed amid commits"


def connected(path: Path) -> sqlite3.Connection:
    """Return a connection that commits each statement."""
    return sqlite3.connect(path, isolation_level=None)
