"""The embedded store's file: its creation, recognition, refusal, and a race at its birth."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key
from kvfs.store.embedded import schema
from kvfs.store.embedded.sqlite_store import open_sqlite

A = Key("a")


@pytest.fixture
def path(tmp_path) -> Path:
    """Return the place of the store."""
    return tmp_path / "store.db"


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_the_owner_reads_it(tmp_path):
    """File and side files have mode 0600, new parents 0700, and existing ones stay, whatever the umask."""
    tmp_path.chmod(0o755)
    path = tmp_path / "new" / "parents" / "store.db"
    before = os.umask(0)
    try:
        async with open_sqlite(path) as store:
            await store.create_namespace("n")
            assert {file.name for file in path.parent.iterdir()} == {
                "store.db",
                "store.db-wal",
                "store.db-shm",
            }
            assert {mode(file) for file in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)
    assert (mode(path.parent), mode(path.parent.parent), mode(tmp_path)) == (0o700, 0o700, 0o755)


async def test_what_was_stored_is_there_after_reopening(path):
    """Namespaces, values, metadata and expirations are there after reopening, and one file is all there is."""
    entry = Entry(b"\0value", b'{"a":1}', 4_000_000_000)
    async with open_sqlite(path) as store:
        namespace = await store.create_namespace("title")
        await store.put(namespace.id, A, entry)
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]

    async with open_sqlite(path) as store:
        assert await store.list_namespaces() == [namespace]
        assert await store.bulk_get(namespace.id, [A]) == {A: entry}


async def test_an_empty_file_becomes_a_store(path):
    """An empty file, as `mktemp` makes one, becomes a store."""
    path.touch()
    async with open_sqlite(path) as store:
        assert await store.list_namespaces() == []


def foreign_text(path):
    """Make a file that is no database at all."""
    path.write_text("my diary\n" * 100)


def foreign_short(path):
    """Make a file of a few bytes."""
    path.write_bytes(b"x")


def foreign_database(path):
    """Make a database of another program."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def foreign_wal(path):
    """Make a database of another program, with an id of its own, in WAL mode."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA application_id = 7")
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer(path):
    """Make a store of a later version."""
    schema.prepare(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()


@pytest.mark.parametrize("make", [foreign_text, foreign_short, foreign_database, foreign_wal, newer])
async def test_a_file_that_is_not_ours_is_refused_and_left_alone(path, make):
    """A file that is not ours is refused by name; not a byte of it changes and no file appears beside it."""
    make(path)
    before = path.read_bytes()

    with pytest.raises(UserError, match=f"{path} is .* it was left as it is"):
        async with open_sqlite(path):
            pass

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


async def test_a_newer_version_is_seen_in_the_wal_too(path):
    """A newer version is seen in the WAL too, where the file's header lags behind, and nothing is changed."""
    writer = schema.prepare(path)
    writer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    assert int.from_bytes(path.read_bytes()[60:64], "big") == schema.VERSION

    with pytest.raises(UserError, match="Use a newer kvfs"):
        async with open_sqlite(path):
            pass
    writer.close()


async def test_a_path_that_cannot_be_a_file_is_a_clear_error(tmp_path):
    """A path to a directory, or below a file, is a clear error."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        with pytest.raises(UserError, match=f"cannot open the store {path}: "):
            async with open_sqlite(path):
                pass


def test_creating_survives_a_race_in_one_process(tmp_path):
    """A second creator in one process finds the tables made, however close the two are."""
    for number in range(5):
        path, start = tmp_path / f"{number}.db", threading.Barrier(6)

        def prepare(path=path, start=start) -> None:
            start.wait()
            schema.prepare(path).close()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(prepare) for _ in range(6)]:
                done.result()


def test_creating_survives_a_race(path):
    """Several processes that start on a missing file all find one store."""
    script = """if True:
        import sys, trio
        from pathlib import Path
        from kvfs.core.model import Entry, Key
        from kvfs.store.embedded.sqlite_store import open_sqlite

        async def main(path, title):
            async with open_sqlite(Path(path)) as store:
                namespace = (await store.create_namespace(title)).id
                for number in range(20):
                    await store.put(namespace, Key(str(number)), Entry(b"x"))

        trio.run(main, *sys.argv[1:])
        """
    processes = [subprocess.Popen([sys.executable, "-c", script, path, title]) for title in "abcd"]
    assert [process.wait() for process in processes] == [0] * 4

    connection = sqlite3.connect(path)
    titles = connection.execute("SELECT title FROM namespaces ORDER BY title").fetchall()
    keys = connection.execute("SELECT count(*) FROM keys").fetchone()
    connection.close()
    assert titles == [("a",), ("b",), ("c",), ("d",)]
    assert keys == (80,)
