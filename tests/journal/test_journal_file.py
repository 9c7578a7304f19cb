"""The journal's file: who may open it, what it refuses, and a full or read-only disk."""

import contextlib
import errno
import gc
import io
import multiprocessing
import os
import random
import re
import resource
import sqlite3
import stat
import threading
import time
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from support.journal_check import check_journal
from support.journals import (
    NS,
    SOURCE,
    START,
    ack_all,
    failing_disk,
    full_disk,
    keys,
    open_journal,
    put,
    shown,
    side_of,
    snapshot,
)

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import JournalError, JournalFullError, JournalLockedError, JournalUnreadableError
from kvfs.core.model import ChangeState, Key
from kvfs.journal.journal import Journal
from kvfs.journal.opener import check, prepare
from kvfs.journal.worth import Worth, worth
from kvfs.kept import facts as kept
from kvfs.kept import sidefile
from kvfs.kept.local import LocalAttrs
from kvfs.log.segment import VERSION, segments_of
from kvfs.log.spool_directory import SpoolDirectory

BIG = bytes(range(256)) * 1024  # twice the inline limit


@pytest.fixture
def path(tmp_path):
    """Return the place of the journal."""
    return tmp_path / "state" / "journal.db"


def sql(path, statement: str) -> list:
    """Run SQL on the file from outside, without its log."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def two_puts(journal: Journal) -> None:
    """Record a small and a large put, both or none."""
    with journal.transaction():
        put(journal, "b", b"small")
        put(journal, "c", b"x" * 100_000)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def record_big(journal: Journal, key: str, value: bytes = BIG) -> None:
    """Record a value that goes to the spool."""
    body = await journal.spool(value)
    journal.record_put(NS, Key(key), body, metadata=None, expiration=None, base=b"")


class CountedFile(io.FileIO):
    """A file of the spool that counts reads and may fail the first."""

    def __init__(self, path, reads: list, error: Exception | None) -> None:
        super().__init__(path)
        self._reads, self._error = reads, error

    def read(self, size=-1):
        """Read all of it."""
        self._reads.append(self.name)
        if self._error is not None and len(self._reads) == 1:
            raise self._error
        return super().read(size)


def count_reads(monkeypatch, error: Exception | None = None) -> list:
    """Count the reads of spooled contents; the first of them raises `error`."""
    reads = []
    opened = lambda files, name: CountedFile(files.directory / name, reads, error)  # noqa: E731
    monkeypatch.setattr(SpoolDirectory, "opened", opened)
    return reads


def half_recorded(journal: Journal, body) -> None:
    """Record a put in a transaction that fails."""
    with journal.transaction():
        journal.record_put(NS, Key("a"), body, metadata=None, expiration=None, base=b"")
        raise LookupError


def test_what_was_recorded_is_there_after_a_reopen(path):
    """Changes in every state are there after a reopen, with numbers that go on growing."""
    with open_journal(path) as journal:
        put(journal, "settled", b"1")
        ack_all(journal)
        journal.reject(put(journal, "rejected", b"2"), "why")
        put(journal, "local", b"3", local=True)
        last = put(journal, "pending", b"4", metadata=b'"m"', expiration=1_900_000_000)
        before = list(journal.under(NS, ""))
    with open_journal(path) as journal:
        assert list(journal.under(NS, "")) == before
        assert shown(journal) == {"settled": b"1", "rejected": b"2", "local": b"3", "pending": b"4"}
        assert put(journal, "new") > last
        check_journal(journal)


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_nobody_else_can_read_it(path, umask):
    """The directory has mode 0700 and the files 0600, whatever the umask."""
    old = os.umask(umask)
    try:
        with open_journal(path) as journal:
            put(journal, "a")
            await record_big(journal, "b")
            assert mode(path.parent) == 0o700
            spool = path.with_name("journal.db.spool")
            assert mode(spool) == 0o700
            files = [file for file in [*path.parent.iterdir(), *spool.iterdir()] if file.is_file()]
            names = {file.name for file in files}
            side_of(journal)
            assert names > {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"}
            assert "journal.db-log.1" in names
            assert {mode(file) for file in files} == {0o600}
    finally:
        os.umask(old)


def _hold(path, ready, done):
    with open_journal(path, mountpoint="/mnt/kv"):
        ready.set()
        done.wait(60)


def test_a_second_daemon_is_told_who_has_it(path):
    """A second daemon is told pid and mount point of the first; when that ends, even by a kill, the journal is free."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(path, ready, done))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(JournalLockedError, match=f"{process.pid}.*/mnt/kv") as caught:
            open_journal(path)
        assert (caught.value.pid, caught.value.mountpoint) == (process.pid, "/mnt/kv")
    finally:
        process.kill()
        process.join()
    with open_journal(path) as journal:
        assert journal.pending() == []


def test_a_lock_without_an_owner_still_locks(path):
    """The lock holds although a full disk kept pid and mount point from being written."""
    with open_journal(path):
        lock = path.with_name("journal.db.lock")
        lock.write_bytes(b"")
        with pytest.raises(JournalLockedError, match="unknown") as caught:
            open_journal(path)
        assert caught.value.pid == 0


def test_closing_frees_it(path):
    """Closing frees the journal in the same process too, and so does a failed opening."""
    with open_journal(path):
        pass
    with pytest.raises(JournalUnreadableError):
        open_journal(path, source="other")
    with open_journal(path):
        pass


def _a_journal(path):
    """Write and close a journal."""
    with open_journal(path) as journal:
        put(journal, "a", b"precious")


def _foreign(path):
    sql(path, "CREATE TABLE t (x)")


def _text(path):
    path.write_text("not a database at all, but somebody's text\n" * 100)


def _empty(path):
    path.touch()


def _newer(path):
    _a_journal(path)
    sql(path, f"PRAGMA user_version = {VERSION + 1}")


def _other_source(path):
    open_journal(path, source="cloudflare:other").close()


def _many(path):
    """Make a side table of many pages."""
    with open_journal(path) as journal:
        for number in range(5000):
            journal.attributes.set_file_attrs(NS, Key(f"key{number}" + "x" * 100), LocalAttrs(mode=number))


def _damaged(path):
    _many(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(content)


def _truncated(path):
    _many(path)
    os.truncate(path, path.stat().st_size // 2)


def _without_table(path):
    _a_journal(path)
    sql(path, "DROP TABLE files")


def _unknown_record(path):
    with open_journal(path) as journal:
        put(journal, "a", b"precious")
        journal._transactions.log.append(msgspec.msgpack.encode([[77, "sideways"]]), [])


def _with_snapshot(path):
    """Make a journal whose log begins with a snapshot."""
    with open_journal(path) as journal:
        put(journal, "a", b"precious")
        trio.run(snapshot, journal)
        put(journal, "b", b"later")


def _damaged_snapshot(path):
    _with_snapshot(path)
    file = path.with_name("journal.db-log.2")
    content = bytearray(file.read_bytes())
    content[-60] ^= 1
    file.write_bytes(content)


def _cut_snapshot(path):
    _with_snapshot(path)
    file = path.with_name("journal.db-log.2")
    os.truncate(file, file.stat().st_size - 10)


def _without_beginning(path):
    _a_journal(path)
    with open_journal(path) as journal:
        put(journal, "b", b"later")
    path.with_name("journal.db-log.1").unlink()


def _with_log(path):
    """Make a newer journal, with a write-ahead log that its kvfs left behind."""
    _newer(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE meta SET value = value")
    log = path.with_name("journal.db-wal")
    content, logged = path.read_bytes(), log.read_bytes()
    connection.close()
    path.write_bytes(content)
    log.write_bytes(logged)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_foreign, "not a journal of kvfs"),
        (_text, "not a database"),
        (_empty, "not a journal of kvfs"),
        (_newer, "newer kvfs"),
        (_other_source, "cloudflare:other"),
        (_damaged, "damaged|malformed"),
        (_truncated, "damaged|malformed"),
        (_without_table, "lacks files"),
        (_unknown_record, "77"),
        (_damaged_snapshot, "damaged.*log.2"),
        (_cut_snapshot, "damaged.*log.2"),
        (_without_beginning, "before journal.db-log.2 is missing"),
        (_with_log, "newer kvfs"),
    ],
)
def test_what_cannot_be_read_is_refused_and_left_alone(path, spoil, reason):
    """An unreadable journal is refused with instructions and unchanged, because it may be the only copy."""
    path.parent.mkdir()
    spoil(path)
    files = [path, *(file for name in ("wal", "log.*") for file in path.parent.glob(f"{path.name}-{name}"))]
    before = [file.read_bytes() for file in files]

    with pytest.raises(JournalUnreadableError, match=reason) as caught:
        open_journal(path)

    assert str(path) in str(caught.value)
    assert "left as it is" in str(caught.value)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("version", [*range(1, VERSION), VERSION + 1])
def test_a_journal_of_another_format_is_refused_with_the_way_out(path, version):
    """A journal of another format is refused unchanged: the message says what still sends its changes."""
    _a_journal(path)
    sql(path, f"PRAGMA user_version = {version}")
    before = {file: file.read_bytes() for file in (path, *segments_of(path))}
    with pytest.raises(
        JournalUnreadableError, match=f"version {version}, .*use the kvfs version .*that wrote"
    ):
        open_journal(path)
    assert {file: file.read_bytes() for file in (path, *segments_of(path))} == before
    assert worth(path) is Worth.CHANGES, "no sweep removes it"


def test_nothing_of_a_refused_journal_is_removed(path):
    """With any garbled pages of the side table, the journal is opened, or refused with every byte where it was."""
    _many(path)
    content = path.read_bytes()
    logged = {file: file.read_bytes() for file in segments_of(path)}
    rng = random.Random(3)
    for round_ in range(60):
        spoilt = bytearray(content)
        for _ in range(1 + round_ % 20):
            spoilt[rng.randrange(len(spoilt))] ^= rng.randrange(1, 256)
        for other in path.parent.glob("journal.db*"):
            if other.is_file():
                other.unlink()
        path.write_bytes(spoilt)
        for file, records in logged.items():
            file.write_bytes(records)
        try:
            open_journal(path).close()
        except JournalUnreadableError:
            assert path.read_bytes() == spoilt
            assert {file: file.read_bytes() for file in segments_of(path)} == logged


def test_a_failed_creation_is_begun_again(path):
    """A failed creation is begun again, and half a file under the temporary name belongs to no journal."""
    path.parent.mkdir()
    path.with_name("journal.db.new").write_bytes(b"half")
    with open_journal(path) as journal:
        put(journal, "a")
    assert not path.with_name("journal.db.new").exists()


@pytest.mark.parametrize(("limit", "error"), [(4096, JournalError), (None, FileNotFoundError)])
def test_a_failed_creation_names_the_journal(path, limit, error):
    """The name that the file has until it is whole is nothing that a user could act on."""
    if limit is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit or before[0], before[1]))
    try:
        with pytest.raises(error, match=re.escape(f"{path}") + r"(?!\.new)"):
            sidefile.create(path.with_name(f"{path.name}.new"), VERSION, {}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_file_is_whole_on_the_disk_before_it_has_its_name(path, monkeypatch):
    """A new file is written in one transaction and forced to the disk once, whole, before it gets its name."""
    forced, force = [], os.fsync

    def forcing(descriptor):
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if file.is_file():
            forced.append((file.name, file.read_bytes(), path.exists()))
        force(descriptor)

    path.parent.mkdir()
    monkeypatch.setattr(os, "fsync", forcing)
    assert prepare(path, SOURCE, START)
    assert forced == [("journal.db.new", path.read_bytes(), False)]
    transactions = int.from_bytes(path.read_bytes()[24:28])  # https://sqlite.org/fileformat2.html
    assert transactions <= 2  # the tables and what is in them; the write-ahead log
    assert not check(path, SOURCE)


def test_a_directory_that_cannot_be_written_says_so(tmp_path):
    """A directory that cannot be written, because a file is in its place, is reported."""
    (tmp_path / "state").write_text("")
    with pytest.raises(JournalError, match="state"):
        open_journal(tmp_path / "state" / "journal.db")


def test_a_full_disk_loses_nothing(path):
    """On a full disk the change that does not fit raises, the others stay as they are, and with room it works."""
    with open_journal(path) as journal:
        put(journal, "a", b"kept")
        with full_disk(journal):
            with pytest.raises(JournalFullError, match="make room"):
                put(journal, "a", b"x" * 100_000)
            with pytest.raises(JournalFullError):
                two_puts(journal)
            assert shown(journal) == {"a": b"kept"}
            assert journal.pending_bytes == 4
        check_journal(journal)
        put(journal, "a", b"x" * 100_000)
        check_journal(journal)
    with open_journal(path) as journal:
        assert shown(journal) == {"a": b"x" * 100_000}


def test_an_error_of_the_disk_is_told_as_what_it_is(path):
    """An error of the disk is told apart from a full disk, because only the latter is helped by making room."""
    with open_journal(path) as journal:
        put(journal, "a", b"kept")
        with failing_disk(errno.EIO), pytest.raises(JournalError, match="Input/output error") as caught:
            put(journal, "a", b"more")
        assert not isinstance(caught.value, JournalFullError)
        with failing_disk(errno.EDQUOT), pytest.raises(JournalFullError, match="make room"):
            put(journal, "a", b"more")
        assert shown(journal) == {"a": b"kept"}


def test_what_the_side_table_does_not_take_waits_in_the_log(path, monkeypatch, expect_log):
    """Changes settle though the side table takes nothing, and their attributes answer from the log, also later."""
    monkeypatch.setattr(kept, "SAVE_COUNT", 10)
    with open_journal(path) as journal:
        database = side_of(journal)
        database.execute("PRAGMA query_only = ON")
        expect_log("attributes stay in the journal's log")
        expect_log("log stays as long as it is")
        for number in range(100):
            put(journal, f"{number}", attrs=LocalAttrs(mode=number))
            journal.attributes.set_file_attrs(NS, Key(f"clean {number}"), LocalAttrs(mode=number))
        ack_all(journal)
        assert len(journal.settle(START + 90, 90)) == 100
        check_journal(journal)
    with open_journal(path) as journal:
        for number in range(100):
            for key in (f"{number}", f"clean {number}"):
                assert journal.attributes.file_attrs(NS, Key(key)) == LocalAttrs(mode=number)
        assert side_of(journal).execute("SELECT count(*) FROM files").fetchone() == (200,)


def test_the_loop_does_not_wait_while_the_side_table_is_forced_out(path):
    """While the side table is forced out on a slow disk only the thread waits.

    Attributes of later changes stay in the log until then.
    """
    attrs = LocalAttrs(mode=0o604)
    with open_journal(path) as journal:
        put(journal, "a", attrs=attrs)
        ack_all(journal)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as forcing:
            forcing.execute("BEGIN IMMEDIATE")  # as a checkpoint does
            began = time.perf_counter()
            journal.settle(START + 1000, 90)
            assert time.perf_counter() - began < 5
            assert shown(journal) == {}
            assert journal.attributes.file_attrs(NS, Key("a")) == attrs
        put(journal, "b")
        assert side_of(journal).execute("SELECT key FROM files").fetchall() == [("a",)]
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, Key("a")) == attrs


async def test_a_large_value_goes_beside_the_file(path):
    """A large value is read back from its file, which goes when its change has settled and the journal was tidied."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        await record_big(journal, "a")
        change = journal.get(NS, Key("a"))
        assert change.size == len(BIG) > INLINE_BYTES
        assert journal.value(change) == await journal.read_value(change) == BIG
        assert len(list(spool.iterdir())) == 1
        check_journal(journal)
        ack_all(journal)
        journal.settle(START + 90, 90)
        await journal.tidy()
        assert list(spool.iterdir()) == []


async def test_a_large_value_is_read_by_a_thread_for_whoever_wants_it_soon(path):
    """A thread reads a large value for a caller that wants it soon.

    The read outlives the change, and a failed one is not reported.
    """
    with open_journal(path) as journal:
        await record_big(journal, "a")
        change, found = journal.get(NS, Key("a")), []
        journal.read_soon(change, found.append)
        journal.discard(NS, Key("a"))
        await journal.tidy()
        with trio.fail_after(30):
            while not found:
                await journal.make_durable()  # lets the threads run
        assert found == [BIG]
        with pytest.raises(KeyError):
            journal.read_soon(change, found.append)


async def test_a_large_value_is_read_once_to_be_kept_and_sent(path, monkeypatch):
    """A sender waits for the thread that already reads a large value; a second time the file is read again."""
    reads = count_reads(monkeypatch)
    with open_journal(path) as journal:
        await record_big(journal, "a")
        change, found = journal.get(NS, Key("a")), []
        journal.read_soon(change, found.append)
        with trio.fail_after(30):
            assert await journal.read_value(change) is found[0]
        assert (found, len(reads)) == ([BIG], 1)
        assert await journal.read_value(change) == BIG
        assert len(reads) == 2


async def test_what_could_not_be_read_in_advance_is_read_when_it_is_sent(path, monkeypatch):
    """A failed read in advance holds nobody up: the value is read when it is sent."""
    with open_journal(path) as journal:
        await record_big(journal, "a")
        change, found = journal.get(NS, Key("a")), []
        for error in (MemoryError, RuntimeError):
            count_reads(monkeypatch, error("for once"))
            journal.read_soon(change, found.append)
            with trio.fail_after(30):
                assert await journal.read_value(change) == BIG
        assert found == []


async def test_a_value_read_in_advance_is_not_taken_for_another(path):
    """A value read in advance is not used for another key, nor for a newer content of its own."""
    with open_journal(path) as journal:
        await record_big(journal, "a")
        await record_big(journal, "b", BIG[::-1])
        journal.read_soon(journal.get(NS, Key("a")), lambda value: None)
        assert await journal.read_value(journal.get(NS, Key("b"))) == BIG[::-1]
        await record_big(journal, "a", BIG + b"!")
        assert await journal.read_value(journal.get(NS, Key("a"))) == BIG + b"!"


async def test_a_large_value_being_read_outlives_its_change(path):
    """A reader keeps the value that it began to read, though its change goes."""
    with open_journal(path) as journal:
        await record_big(journal, "a")
        change = journal.get(NS, Key("a"))
        found = []

        async def read():
            found.append(await journal.read_value(change))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            journal.discard(NS, Key("a"))
            await journal.tidy()
        assert found == [BIG]


async def test_a_value_nobody_recorded_is_cleared_away(path):
    """The file of a value that was never recorded goes when the body is dropped, or at the next start."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        body = await journal.spool(BIG)
        await journal.tidy()
        assert len(list(spool.iterdir())) == 1
        del body
        await journal.tidy()
        assert list(spool.iterdir()) == []
        kept = await journal.spool(BIG)
    assert len(list(spool.iterdir())) == 1
    with open_journal(path):
        assert list(spool.iterdir()) == []
    del kept


async def test_a_spool_that_was_given_up_leaves_no_file(path):
    """A spool that is cancelled before it is complete leaves no file."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.spool(BIG * 8)
        assert scope.cancelled_caught
        with trio.fail_after(30):
            while list(spool.iterdir()):
                await journal.make_durable()  # lets the threads run


async def test_a_piece_that_was_not_taken_is_told(path, monkeypatch):
    """A piece that memory has no room for raises, so no content is recorded with a hole."""
    with open_journal(path) as journal:
        stream = journal.stream()

        def take(file, piece):
            raise MemoryError

        stream._take = take
        stream.feed(BIG)
        with pytest.raises(MemoryError):
            await stream.finish()


async def test_a_large_value_survives_a_failed_record(path):
    """After a failed record a second try records the same body."""
    with open_journal(path) as journal:
        body = await journal.spool(BIG)

        with pytest.raises(LookupError):
            half_recorded(journal, body)
        await journal.tidy()
        journal.record_put(NS, Key("a"), body, metadata=None, expiration=None, base=b"")
        assert journal.value(journal.get(NS, Key("a"))) == BIG
        check_journal(journal)


async def test_a_large_body_that_leaves_memory_within_its_transaction_stays(path):
    """A large body that leaves memory within its transaction keeps its file, because a row will need it."""
    with open_journal(path) as journal:
        body = await journal.spool(BIG)
        with journal.transaction():
            journal.record_put(NS, Key("a"), body, metadata=None, expiration=None, base=b"")
            del body
            gc.collect()
        await journal.tidy()
        assert shown(journal) == {"a": BIG}
    with open_journal(path) as journal:
        assert shown(journal) == {"a": BIG}


async def test_one_large_body_may_serve_several_keys(path):
    """The file of a large body for several keys stays until the last of them is gone."""
    with open_journal(path) as journal:
        body = await journal.spool(BIG)
        for key in "ab":
            journal.record_put(NS, Key(key), body, metadata=None, expiration=None, base=b"")
        journal.discard(NS, Key("a"))
        await journal.tidy()
        assert shown(journal) == {"b": BIG}
        check_journal(journal)


async def test_a_spool_that_cannot_be_written_says_so(path, monkeypatch):
    """A spool that cannot be written leaves nothing half done, and tells a full disk from other errors."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        spool.rmdir()
        with pytest.raises(JournalError, match=r"cannot write.*No such file") as caught:
            await journal.spool(BIG)
        assert not isinstance(caught.value, JournalFullError)
        spool.mkdir()
        monkeypatch.setattr("kvfs.log.spool.Stream._take", full)
        with pytest.raises(JournalFullError, match=r"cannot write.*make room"):
            await journal.spool(BIG)
        assert list(spool.iterdir()) == []


def full(*_: object) -> None:
    """Make a disk without room."""
    raise OSError(errno.ENOSPC, "no space left")


async def test_a_large_value_lost_in_a_power_cut_is_said_to_be(path):
    """A torn file after a power cut is no value: the change is set aside with that reason, and the others are whole."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        put(journal, "small", b"whole")
        await record_big(journal, "torn")
        await record_big(journal, "sent")
        ack = journal.get(NS, Key("sent")).seq
        journal.mark_attempted([ack])
        journal.ack([ack], START)
    for file in spool.iterdir():
        os.truncate(file, 0)
    with open_journal(path) as journal:
        change = journal.get(NS, Key("torn"))
        assert change.state is ChangeState.REJECTED
        assert "power" in change.error
        assert keys(journal.pending()) == ["small"]
        assert journal.get(NS, Key("sent")) is None
        check_journal(journal)


async def test_a_value_that_vanished_is_an_error_of_the_journal(path):
    """A value that vanished is an error of the journal, not one of the operating system."""
    with open_journal(path) as journal:
        await record_big(journal, "a")
        for file in path.with_name("journal.db.spool").iterdir():
            file.unlink()
        change = journal.get(NS, Key("a"))
        with pytest.raises(JournalError, match="cannot be read"):
            journal.value(change)
        with pytest.raises(JournalError, match="cannot be read"):
            await journal.read_value(change)
        journal.discard(NS, Key("a"))


async def test_the_log_does_not_grow_for_ever(path, monkeypatch):
    """Under a writer that never pauses `maintain` writes snapshots, so the log does not grow for ever."""
    monkeypatch.setattr("kvfs.journal.snapshot.SNAPSHOT_BYTES", 1_000_000)
    with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tidy_for_ever, journal)
            for number in range(1000):
                put(journal, str(number % 20), bytes(120_000))
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert journal._transactions.log.size < 60_000_000
        check_journal(journal)


async def _tidy_for_ever(journal):
    while True:
        await journal.tidy()


async def test_callers_of_a_sync_share_it(path, monkeypatch):
    """Callers during a sync share the next one, because this one may have begun too early for them."""
    syncs, under_way, may_end = [], threading.Event(), threading.Event()

    def sync(log):
        syncs.append(log)
        under_way.set()
        assert may_end.wait(30)

    monkeypatch.setattr("kvfs.log.log.Log.sync", sync)
    with open_journal(path, durable=True) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.make_durable)
            assert await trio.to_thread.run_sync(under_way.wait, 30)
            put(journal, "late", b"1")
            for _ in range(100):
                nursery.start_soon(journal.make_durable)
            await trio.testing.wait_all_tasks_blocked()
            assert len(syncs) == 1
            may_end.set()
        assert len(syncs) == 2


async def test_what_is_on_the_disk_is_not_forced_again(path, monkeypatch):
    """Until something else is recorded; after a sync that failed it is."""
    syncs = []
    monkeypatch.setattr("kvfs.log.log.Log.sync", lambda log: syncs.append(log))
    with open_journal(path, durable=True) as journal:
        for count in (1, 1):
            await journal.make_durable()
            assert len(syncs) == count
        put(journal, "a", b"1")
        for count in (2, 2):
            await journal.make_durable()
            assert len(syncs) == count
        journal._transactions.log._doubtful = 1
        await journal.make_durable()
        assert len(syncs) == 3


async def test_a_durable_journal_forces_what_it_says(path):
    """A durable journal forces out the log, the spooled value and its name without an error, and all is readable."""
    with open_journal(path, durable=True) as journal:
        await record_big(journal, "a")
        await journal.make_durable()
        assert shown(journal) == {"a": BIG}


def test_room_is_given_back_at_the_end(path):
    """At the end room is given back, so a journal that was large once does not stay so."""
    with open_journal(path) as journal:
        with journal.transaction():
            for number in range(300):
                put(journal, str(number), bytes(100_000))
        ack_all(journal)
        journal.settle(START + 90, 90)
        put(journal, "left", b"1")
    assert sum(file.stat().st_size for file in path.parent.glob("journal.db*")) < 1_000_000
    with open_journal(path) as journal:
        assert shown(journal) == {"left": b"1"}
        check_journal(journal)


def test_the_file_names_its_source(path):
    """The file names its source, so that another account's changes are never sent to this one."""
    open_journal(path).close()
    assert sql(path, "SELECT value FROM meta WHERE name = 'source'") == [(SOURCE,)]


def test_a_change_that_is_named_twice_counts_once(path):
    """A change that a sender names twice counts once."""
    with open_journal(path) as journal:
        seq = put(journal, "a", b"value")
        journal.mark_attempted([seq, seq])
        journal.ack([seq, seq], 1.0)
        assert journal.pending_bytes == 0
        check_journal(journal)
