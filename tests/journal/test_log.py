"""The redo log: cut, garbled or replayed, everything a commit promised is there, once."""

import contextlib
import random
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest
import trio
from support.journals import NS, SOURCE, ack_all, delete, full_disk, open_journal, put, shown, tables_of

from kvfs.core.errors import JournalError, JournalFullError, JournalUnreadableError
from kvfs.core.model import Key, NamespaceId
from kvfs.journal import log, schema, tables
from kvfs.journal.attributes import DirRow, LocalAttrs
from kvfs.journal.journal import INLINE_BYTES, QUIET, Journal, Move

RECORDS = 40


@pytest.fixture
def path(tmp_path) -> Path:
    """Where the journal is to be."""
    return tmp_path / "journal.db"


ATTRS = LocalAttrs(mode=0o600, mtime_ns=1, ctime_ns=2)


def killed(path: Path, journal: Journal) -> Path:
    """The files of a journal as a kill would leave them now, in a directory of their own."""
    copy = Path(tempfile.mkdtemp(prefix="killed-", dir=path.parent))
    for file in path.parent.glob("journal.db*"):
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, copy / file.name)
    assert journal.path == path
    return copy / path.name


def logs(path: Path) -> list[str]:
    """The names of the files of its log."""
    return [file.name for file in log.files_of(path)]


def told(path: Path) -> int:
    """Up to which record the tables have them, as another process sees it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return schema.applied(connection)


def kept(path: Path) -> list[bytes]:
    """What was kept of damaged files."""
    return [file.read_bytes() for file in path.parent.glob("*.damaged-*")]


def written(path: Path) -> tuple[Path, list[int]]:
    """The log of a journal whose owner was killed, and how long it was after each record."""
    with open_journal(path) as journal:
        sizes = []
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
            sizes.append(journal._ledger.tables.redo.size)
        return killed(path, journal), sizes


def expected(count: int) -> dict[str, bytes]:
    """The first records."""
    return {f"{number:02}": b"%d" % number * 50 for number in range(count)}


def reopened(path: Path, logged: bytes) -> dict[str, bytes | None]:
    """What a journal with this log shows; it can be written and opened again, and shows the same."""
    copy = path.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.copyfile(path, copy / path.name)
    (copy / "journal.db-redo.1").write_bytes(logged)
    with open_journal(copy / path.name) as journal:
        journal.check_invariants()
        found = shown(journal)
        put(journal, "new", b"new")
    with open_journal(copy / path.name) as journal:
        assert shown(journal) == found | {"new": b"new"}
    return found


def test_a_closed_journal_has_no_log(path):
    """All is in the tables, forced out; nothing lies beside them."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        assert logs(path) == ["journal.db-redo.1"]
    assert logs(path) == []
    with open_journal(path) as journal:
        assert logs(path) == [], "none is made before there is something for it"
        assert shown(journal) == {"a": b"1"}


def test_a_log_cut_anywhere_gives_every_record_before_the_cut(path):
    """A record that is not whole was promised to nobody: no damage."""
    crashed, sizes = written(path)
    logged = (crashed.parent / "journal.db-redo.1").read_bytes()
    rng = random.Random(1)
    for cut in [0, 1, 27, 28, *sizes[::7], *(rng.randrange(len(logged)) for _ in range(60))]:
        assert reopened(crashed, logged[:cut]) == expected(sum(size <= cut for size in sizes)), cut
        assert kept(crashed.parent / "copy" / "journal.db") == []


def test_zeros_at_the_end_are_no_damage(path):
    """A power cut leaves them where a record was never forced out."""
    crashed, sizes = written(path)
    logged = (crashed.parent / "journal.db-redo.1").read_bytes()
    for count in (0, 7, RECORDS):
        assert reopened(crashed, logged[: ([32, *sizes])[count]] + bytes(5000)) == expected(count)
        assert kept(crashed.parent / "copy" / "journal.db") == []


def test_a_log_garbled_anywhere_gives_every_record_before_and_keeps_the_rest(path, expect_log):
    """What may have been promised and cannot be read is kept under another name, and that is said."""
    crashed, sizes = written(path)
    logged = (crashed.parent / "journal.db-redo.1").read_bytes()
    expect_log("the log of the journal is damaged")
    rng = random.Random(2)
    for place in [0, 9, 20, 31, 33, *(rng.randrange(len(logged)) for _ in range(80))]:
        spoilt = bytearray(logged)
        spoilt[place] ^= 0x55
        before = sum(size <= place for size in sizes)
        assert reopened(crashed, bytes(spoilt)) == expected(before), place
        assert kept(crashed.parent / "copy" / "journal.db") == [bytes(spoilt)], place


def rotating(monkeypatch, *, apply_count: int = 1) -> None:
    """A file of the log for a few records; the tables hear of so many at once."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 1000)
    monkeypatch.setattr(tables, "APPLY_COUNT", apply_count)


def test_records_that_are_missing_end_the_replay(path, monkeypatch, expect_log):
    """What follows them stands on what they said: it is kept, and the tables stay as far as they are."""
    with open_journal(path) as journal:
        start = killed(path, journal)  # the tables of the beginning
    rotating(monkeypatch)
    with open_journal(path) as journal:
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
        crashed = killed(path, journal)
    files = log.files_of(crashed)
    assert len(files) > 4
    for file in (crashed, crashed.with_name("journal.db-wal")):
        shutil.copyfile(start.with_name(file.name), file)
    lost = log.Reading(files[2])
    numbers = [number for number, _ in lost]
    files[2].unlink()
    expect_log("the log of the journal is damaged")
    with open_journal(crashed) as journal:
        journal.check_invariants()
        assert shown(journal) == expected(numbers[0] - 1)
    assert len(kept(crashed)) == len(files) - 3


def test_a_file_that_was_cut_short_does_not_hide_the_next_one(path, monkeypatch):
    """Its tail never was forced out, but the tables have it: the numbers say so."""
    rotating(monkeypatch)
    with open_journal(path) as journal:
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
        crashed = killed(path, journal)
    first = log.files_of(crashed)[0]
    first.write_bytes(first.read_bytes()[:-10])
    with open_journal(crashed) as journal:
        journal.check_invariants()
        assert shown(journal) == expected(RECORDS)
    assert kept(crashed) == []


@pytest.mark.parametrize("at_once", [1, RECORDS // 2, RECORDS])
def test_a_replay_counts_to_its_last_record(path, monkeypatch, at_once):
    """However many the tables are told at once: what is recorded next follows without a gap."""
    crashed, _ = written(path)
    monkeypatch.setattr(tables, "APPLY_COUNT", at_once)
    with open_journal(crashed) as journal:
        monkeypatch.setattr(tables, "APPLY_COUNT", 1000)
        journal._ledger.tables._next_try = (1000, 10**6)
        put(journal, "new", b"new")
        again = killed(crashed, journal)
    with open_journal(again) as journal:
        assert shown(journal) == expected(RECORDS) | {"new": b"new"}


def test_an_old_log_that_comes_back_changes_nothing(path):
    """A power cut may undo that it was removed: the tables know that they had all of it."""
    with open_journal(path) as journal:
        logged = []
        for value in (b"first", b"second"):
            put(journal, "k", value, base=None)
            ack_all(journal)
            journal.settle(0, -(10**12))
            logged.append(log.files_of(path)[0].read_bytes())
        assert shown(journal) == {}
    path.with_name("journal.db-redo.1").write_bytes(logged[0])
    with open_journal(path) as journal:
        assert shown(journal) == {}, "what was sent long ago is not sent again"
        put(journal, "new", b"1")
        crashed = killed(path, journal)
    with open_journal(crashed) as journal:
        assert shown(journal) == {"new": b"1"}


async def test_a_round_that_is_cancelled_forgets_no_file(path, monkeypatch):
    """The daemon ends as one begins: all files of the log go with the close, or none."""
    rotating(monkeypatch)
    with open_journal(path) as journal:
        for number in range(20):
            put(journal, f"{number}", b"x" * 300)
        retired = list(journal._ledger.tables.redo.retired)
        assert len(retired) > 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.tidy()
        assert scope.cancelled_caught
        assert journal._ledger.tables.redo.retired == retired
        journal._ledger.tables.redo.retired.clear()
    assert logs(path) == []


def test_large_values_named_behind_the_damage_are_kept(path, expect_log):
    """What is left of the log may be read by somebody, some day: until it is taken away nothing of it goes."""
    spool = path.with_name("journal.db.spool")

    async def record() -> None:
        body = await journal.spool(b"x" * 1_000_000)
        journal.record_put(NS, Key("large"), body, metadata=None, expiration=None, base=None)

    with open_journal(path) as journal:
        put(journal, "small", b"1")
        before = journal._ledger.tables.redo.size
        trio.run(record)
        crashed = killed(path, journal)
    spool = crashed.with_name("journal.db.spool")
    file = log.files_of(crashed)[0]
    file.write_bytes(file.read_bytes()[: before + 30] + b"?" + file.read_bytes()[before + 31 :])
    expect_log("the log of the journal is damaged")
    for _ in range(2):
        with open_journal(crashed) as journal:
            assert shown(journal) == {"small": b"1"}
        assert len(list(spool.iterdir())) == 1
    for kept_log in crashed.parent.glob("*.damaged-*"):
        kept_log.unlink()
    with open_journal(crashed):
        assert list(spool.iterdir()) == []


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_damaged_log_that_cannot_be_put_away_stays(path, monkeypatch, expect_log, fails_at):
    """A full disk, say: the journal is refused, and the next try finds all that there was."""
    rotating(monkeypatch, apply_count=1000)
    monkeypatch.setattr(tables, "ROTATE_BYTES", 10**9)
    crashed, sizes = written(path)
    file = log.files_of(crashed)[0]
    spoilt = bytearray(file.read_bytes())
    spoilt[sizes[20] + 30] ^= 1
    for number in range(1, 3):
        file.with_name(f"journal.db-redo.{number}").write_bytes(spoilt)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == fails_at:
            raise OSError("no room for a longer name")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(JournalError, match="put away"):
        open_journal(crashed)
    assert len(logs(crashed)) + len(kept(crashed)) == 2
    expect_log("the log of the journal is damaged")
    with open_journal(crashed) as journal:
        assert shown(journal) == expected(21)
    assert len(kept(crashed)) == 2


def test_damage_in_what_the_tables_have_hides_nothing_else(path, monkeypatch):
    """Of records that are in the tables only the heads count."""
    monkeypatch.setattr(tables, "APPLY_COUNT", RECORDS - 5)
    crashed, sizes = written(path)
    file = log.files_of(crashed)[0]
    spoilt = bytearray(file.read_bytes())
    spoilt[sizes[3] + 40] ^= 1
    file.write_bytes(spoilt)
    with open_journal(crashed) as journal:
        assert shown(journal) == expected(RECORDS)
    assert kept(crashed) == []


def test_a_damaged_file_does_not_keep_the_next_one_from_being_read(path, monkeypatch, expect_log):
    """Where the tables have all that the damaged one can be missing."""
    rotating(monkeypatch)
    with open_journal(path) as journal:
        for number in range(RECORDS - 1):
            put(journal, f"{number:02}", b"%d" % number * 50)
        journal._ledger.tables.redo.rotate()
        journal._ledger.tables._next_try = (1000, 10**9)
        put(journal, f"{RECORDS - 1:02}", b"%d" % (RECORDS - 1) * 50)  # in the log alone
        crashed = killed(path, journal)
    file = log.files_of(crashed)[0]
    spoilt = bytearray(file.read_bytes())
    spoilt[33] ^= 1  # the head of its first record
    file.write_bytes(spoilt)
    expect_log("the log of the journal is damaged")
    with open_journal(crashed) as journal:
        assert shown(journal) == expected(RECORDS)
    assert kept(crashed) == [bytes(spoilt)]


def test_a_strange_log_is_refused_however_long_the_journal_is_checked(path, monkeypatch):
    """The check of a huge journal may end undecided: whose log it is was decided before."""
    crashed, _ = written(path)
    other = log.RedoLog(path.parent / "other", b"o" * schema.ID_BYTES, schema.VERSION)
    other.append(b"record")
    other.close()
    shutil.copyfile(path.parent / "other-redo.1", log.files_of(crashed)[0])
    monkeypatch.setattr("kvfs.journal.opening.CHECK_SECONDS", 0.0)
    with pytest.raises(JournalUnreadableError, match="another journal"):
        open_journal(crashed)


def test_a_log_whose_tables_cannot_be_loaded_is_left_alone(path):
    """However often it is tried: the log may be all there is."""
    crashed, _ = written(path)
    with contextlib.closing(sqlite3.connect(crashed, isolation_level=None)) as database:
        database.execute(
            "INSERT INTO changes SELECT 'n', 'k', 99, 'put', 'pending', 1, NULL, NULL, NULL, 0, 0, NULL,"
            " NULL, 77, 0, x'', NULL, 0"
        )
    for _ in range(2):
        with pytest.raises(JournalUnreadableError, match="left as it is"):
            open_journal(crashed)
        assert logs(crashed) == ["journal.db-redo.1"]


def test_a_sync_does_not_rely_on_one_that_is_under_way(path, monkeypatch):
    """Of two the second returns when the new file's name is on the disk, not before."""
    forced, may_end = [], threading.Event()

    def sync_directory(directory):
        assert may_end.wait(30)
        forced.append(directory)

    monkeypatch.setattr(log, "sync_directory", sync_directory)
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        redo = journal._ledger.tables.redo
        threads = [threading.Thread(target=redo.sync) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[1].join(0.05)
        assert all(thread.is_alive() for thread in threads)
        may_end.set()
        for thread in threads:
            thread.join()
        assert forced
        count = len(forced)
        redo.sync()
        assert len(forced) == count


def test_tables_that_take_nothing_are_not_asked_at_every_close(path, monkeypatch, expect_log):
    """What waits is offered again when as much has come to it."""
    monkeypatch.setattr(tables, "APPLY_BYTES", 1_000_000)
    with open_journal(path) as journal:
        put(journal, "0", b"first")
        database = tables_of(journal)
        database.execute("PRAGMA query_only = ON")
        expect_log("stays in the journal's log")
        statements = []
        database.set_trace_callback(statements.append)
        for number in range(100):
            put(journal, f"{number}", b"x" * 100_000)
        assert 5 < len([one for one in statements if one.startswith("BEGIN")]) < 20
        database.execute("PRAGMA query_only = OFF")


def test_attributes_are_read_though_the_tables_take_nothing(path, monkeypatch):
    """Of every file, kept in the table or written since, also when the cache has let go of them."""
    monkeypatch.setattr("kvfs.journal.attributes.CACHED_FILES", 1)
    with open_journal(path) as journal:
        attributes = journal.attributes
        for name in "abc":
            attributes.set_file_attrs(NS, Key(name), LocalAttrs(mode=ord(name)))
        database = tables_of(journal)
        database.execute("PRAGMA query_only = ON")
        attributes.set_file_attrs(NS, Key("b"), LocalAttrs(mode=1))
        attributes.drop_file_attrs(NS, Key("c"))
        found = [attributes.file_attrs(NS, Key(name)) for name in "abcd"]
        assert found == [LocalAttrs(mode=ord("a")), LocalAttrs(mode=1), None, None]
        journal.drop_namespace(NS)
        assert [attributes.file_attrs(NS, Key(name)) for name in "abcd"] == [None] * 4
        attributes.set_file_attrs(NS, Key("a"), LocalAttrs(mode=2))
        attributes.set_file_attrs(NS, Key("z"), LocalAttrs(mode=3))
        assert attributes.file_attrs(NS, Key("a")) == LocalAttrs(mode=2)
        database.execute("PRAGMA query_only = OFF")
        journal.check_invariants()


async def test_a_log_replayed_over_tables_that_have_it_changes_nothing(path):
    """Killed after the tables took everything and before the log went."""
    with open_journal(path) as journal:
        for number in range(5):
            put(journal, f"{number}", b"x" * 100)
        ack_all(journal)
        journal.settle(0, -(10**12))
        put(journal, "1", b"again")
        tables_of(journal)
        delete(journal, "1")
        tables_of(journal)
        before = list(journal.under(NS, ""))
        crashed = killed(path, journal)
    assert logs(crashed)
    with open_journal(crashed) as journal:
        journal.check_invariants()
        assert list(journal.under(NS, "")) == before


@pytest.mark.parametrize("spoil", ["identity", "version", "magic"])
def test_the_log_of_another_journal_is_refused_and_left_alone(path, spoil):
    """It may hold the only copy of what somebody wrote elsewhere."""
    crashed, _ = written(path)
    file = log.files_of(crashed)[0]
    stranger = {
        "identity": log.RedoLog(path.parent / "other", b"o" * schema.ID_BYTES, schema.VERSION),
        "version": log.RedoLog(path.parent / "other", identity(crashed), schema.VERSION + 1),
        "magic": None,
    }[spoil]
    if stranger is not None:
        stranger.append(b"record")
        stranger.close()
        shutil.copyfile(path.parent / "other-redo.1", file)
    else:
        head = log._with_sum(log._HEAD.pack(b"whatever", schema.VERSION, identity(crashed)))
        file.write_bytes(head + b"?" * 100)
    before = {
        found.name: found.read_bytes() for found in crashed.parent.glob("journal.db*") if found.is_file()
    }
    with pytest.raises(JournalUnreadableError, match=r"redo\.1.*left as it is"):
        open_journal(crashed)
    before.pop("journal.db.lock", None)
    for name, content in before.items():
        assert (crashed.parent / name).read_bytes() == content


def identity(path: Path) -> bytes:
    """A journal's id."""
    connection = sqlite3.connect(path)
    try:
        return schema.identity(connection)
    finally:
        connection.close()


def test_a_log_without_its_journal_is_not_forgotten(path):
    """Somebody moved the journal away, and not all of it: no empty one takes its place."""
    crashed, _ = written(path)
    crashed.unlink()
    with pytest.raises(JournalUnreadableError, match="gone, but journal"):
        open_journal(crashed)
    assert not crashed.exists()


def _as_version_2(database):
    database.execute("ALTER TABLE changes DROP COLUMN guarded")
    database.execute("DROP TABLE shown")
    database.execute("ALTER TABLE local_files DROP COLUMN shown")
    database.execute("PRAGMA user_version = 2")


def test_times_of_an_older_journal_are_the_same_in_nanoseconds(path):
    """It had whole seconds; what was not set stays so."""
    with open_journal(path) as journal:
        journal.attributes.set_file_attrs(NS, Key("f"), LocalAttrs(0o600, 5, None, 7))
        journal.attributes.add_dir(NS, DirRow("d/", 2, None, 3, 4))
        journal.attributes.namespace_first_seen(NS, 9)
        _as_version_2(tables_of(journal))
    with open_journal(path) as journal:
        second = 10**9
        assert journal.attributes.file_attrs(NS, Key("f")) == LocalAttrs(0o600, 5 * second, None, 7 * second)
        assert journal.attributes.dir(NS, "d/", 2) == DirRow("d/", 2, None, 3 * second, 4 * second)
        assert journal.attributes.namespace_first_seen(NS, 99) == 9


def test_a_journal_of_the_first_version_gets_an_id(path):
    """And a log, from then on."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        database = tables_of(journal)
        _as_version_2(database)
        database.execute("DELETE FROM meta WHERE name = 'id'")
        database.execute("PRAGMA user_version = 1")
    with open_journal(path, source=SOURCE) as journal:
        put(journal, "b", b"2")
        crashed = killed(path, journal)
    assert len(identity(crashed)) == schema.ID_BYTES
    with open_journal(crashed) as journal:
        assert shown(journal) == {"a": b"1", "b": b"2"}


def test_an_append_that_failed_leaves_nothing_behind(path):
    """The next one begins where it began."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        redo = journal._ledger.tables.redo
        with full_disk(journal), pytest.raises(JournalFullError):
            put(journal, "b", b"2" * 1000)
        with open(log.files_of(path)[0], "ab") as file:  # what a disk took of it before it was full
            file.write(b"half a record")
        assert redo._is_torn
        put(journal, "c", b"3")
        crashed = killed(path, journal)
    with open_journal(crashed) as journal:
        assert shown(journal) == {"a": b"1", "c": b"3"}
        journal.check_invariants()


async def test_a_log_goes_when_the_tables_have_it_on_the_disk(path, monkeypatch):
    """A full file gives way to the next; tidied, only the newest is left."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 20_000)
    monkeypatch.setattr(tables, "APPLY_COUNT", 5)
    with open_journal(path) as journal:
        for number in range(200):
            put(journal, f"{number:03}", b"x" * 500)
        assert len(logs(path)) > 3
        await journal.tidy()
        assert len(logs(path)) == 1
        crashed = killed(path, journal)
    with open_journal(crashed) as journal:
        assert len(shown(journal)) == 200
        journal.check_invariants()


async def test_a_log_that_is_partly_in_the_tables_stays(path, monkeypatch):
    """The tables hear of the oldest records first, some at a time: a file of the log waits for its last one."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 5_000)
    monkeypatch.setattr(tables, "APPLY_COUNT", 40)
    monkeypatch.setattr(tables, "SLICE_ROWS", 4)
    with open_journal(path) as journal:
        redo_log = journal._ledger.tables.redo
        seen = set()
        for number in range(150):
            put(journal, f"{number:03}", b"x" * 200)
            seen.add((len(redo_log._full), len(redo_log.retired)))
            if number % 25 == 24:
                await journal.tidy()
                with open_journal(killed(path, journal)) as other:
                    assert len(shown(other)) == number + 1
                    other.check_invariants()
        assert max(full for full, _ in seen) > 1
        assert max(retired for _, retired in seen) > 0
    assert logs(path) == []


def test_what_the_tables_lack_is_read_from_memory(path, monkeypatch):
    """A file that was written again while its first attributes were on their way: the last ones count."""
    monkeypatch.setattr("kvfs.journal.attributes.CACHED_FILES", 0)
    monkeypatch.setattr(tables, "SLICE_ROWS", 1)
    with open_journal(path) as journal:
        attributes, behind = journal.attributes, journal._ledger.tables
        first, second = LocalAttrs(mode=0o600), LocalAttrs(mode=0o644)
        for attrs in (first, second, first):
            attributes.set_file_attrs(NS, Key("a"), attrs)
            put(journal, "a", b"%o" % (attrs.mode or 0))
        attributes.set_file_attrs(NS, Key("b"), second)
        while behind.is_behind:
            assert behind.try_to_apply()
            attributes._files.clear()
            assert attributes.file_attrs(NS, Key("a")) == first
            assert attributes.file_attrs(NS, Key("b")) == second
            assert shown(journal) == {"a": b"600"}
        assert not attributes._written
        assert not journal._bodies._behind


def test_a_namespace_that_was_dropped_and_is_back_keeps_its_attributes(path, monkeypatch):
    """A second drop that fails puts the first one behind a later one: the tables have all three all the same."""
    monkeypatch.setattr("kvfs.journal.attributes.CACHED_FILES", 0)
    monkeypatch.setattr(tables, "SLICE_ROWS", 1)
    with open_journal(path) as journal:
        attributes, behind = journal.attributes, journal._ledger.tables
        put(journal, "x", attrs=ATTRS)
        journal.drop_namespace(NS)
        attributes.set_file_attrs(NS, Key("k"), ATTRS)
        journal.drop_namespace(NamespaceId("o" * 32))
        with contextlib.suppress(LookupError), journal.transaction():
            journal.drop_namespace(NS)
            raise LookupError
        while behind.is_behind:
            behind.try_to_apply()
            attributes._files.clear()
            assert attributes.file_attrs(NS, Key("k")) == ATTRS


def test_a_slice_holds_the_loop_for_a_moment(path, monkeypatch):
    """However many records are behind, SQLite is told a bounded number of rows at once."""
    with open_journal(path) as journal:
        for number in range(tables.APPLY_COUNT + 10):
            put(journal, f"{number}")
        rows, run = [], journal._ledger.tables._run

        def counted(transactions, number):
            some = list(transactions)
            rows.append(sum(map(len, some)))
            run(some, number)

        monkeypatch.setattr(journal._ledger.tables, "_run", counted)
        journal._ledger.tables.apply()
    assert len(rows) > 10
    assert max(rows) <= tables.SLICE_ROWS


async def test_a_steady_writer_does_not_fill_the_disk(path, monkeypatch):
    """`maintain` removes what the tables have."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 20_000)
    monkeypatch.setattr(tables, "APPLY_COUNT", 5)
    with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.maintain)
            for number in range(2000):
                put(journal, f"{number % 7}", b"x" * 500)
                if number % 50 == 0:
                    await journal.make_durable()
            with trio.fail_after(30):
                while len(logs(path)) > 2:
                    await journal.make_durable()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rows", [3, 1000])
@pytest.mark.parametrize("later", [0, 3])
@pytest.mark.parametrize(("room", "fails"), [("bodies", "inserted"), ("tables", "appended")])
def test_what_is_in_the_log_is_kept_whatever_becomes_of_the_rest(path, monkeypatch, room, fails, later, rows):
    """The answer is out when memory follows. Should that fail, the tables hear of the record, or never claim it."""
    monkeypatch.setattr(tables, "SLICE_ROWS", rows)
    with open_journal(path) as journal:
        put(journal, "before", attrs=ATTRS)
        with monkeypatch.context() as patch:
            patch.setattr(getattr(journal._ledger, room), fails, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                put(journal, "promised", attrs=ATTRS)
        for number in range(later):
            put(journal, f"{number}", attrs=ATTRS)
        journal._ledger.tables.try_to_apply()
        assert {"before", *map(str, range(later))} <= {
            change.key for change in journal.under(NS, "") if journal.value(change)
        }
    with open_journal(path) as journal:
        assert set(shown(journal)) == {"before", "promised", *map(str, range(later))}
        journal.check_invariants()


def test_a_journal_that_is_closed_does_what_was_left_for_later(path):
    """A close in the middle of an answer: the record is in the log, and in the tables afterwards."""
    journal = open_journal(path)
    journal.afterwards.is_open = True
    put(journal, "promised", attrs=ATTRS)
    assert journal.afterwards.late
    journal.close()
    with open_journal(path) as journal:
        assert set(shown(journal)) == {"promised"}


async def test_the_tables_hear_of_a_burst_when_it_is_over(path, monkeypatch, autojump_clock):
    """`catch_up` waits for a moment without records; then nothing is left to tell, and a full log gives way."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 20_000)
    with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.catch_up)
            for number in range(tables.WORTH_COUNT + 50):
                put(journal, f"{number}", b"x" * 500)
                await trio.sleep(QUIET / 2)
            assert told(path) == 0
            before = logs(path)
            await trio.sleep(2 * QUIET)
            assert told(path) == tables.WORTH_COUNT + 50
            put(journal, "one more")
            assert before[0] in logs(path)
            await journal.tidy()
            assert before[0] not in logs(path)
            nursery.cancel_scope.cancel()


async def test_a_burst_too_long_to_wait_for_is_told_once_a_thousand(path, monkeypatch, autojump_clock):
    """At the bound, in the midst of it; then not again before as much has come, or it is over."""
    monkeypatch.setattr(tables, "APPLY_COUNT", tables.WORTH_COUNT + 20)
    with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.catch_up)
            seen = set()
            for number in range(2 * tables.APPLY_COUNT + 5):
                put(journal, f"{number}")
                await trio.sleep(QUIET / 2)
                seen.add(told(path))
            assert seen == {0, tables.APPLY_COUNT, 2 * tables.APPLY_COUNT}
            nursery.cancel_scope.cancel()


async def test_a_few_records_wait_for_more(path, autojump_clock):
    """A transaction of SQLite for each of them would cost more than all else of it."""
    with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.catch_up)
            for number in range(tables.WORTH_COUNT - 1):
                put(journal, f"{number}")
            await trio.sleep(60)
            assert told(path) == 0
            nursery.cancel_scope.cancel()


def _act(journal: Journal, rng: random.Random) -> None:
    """One change of any kind."""
    key, other = Key(f"k{rng.randrange(12)}"), Key(f"r{rng.randrange(12)}")
    act = rng.randrange(10)
    if act < 4:
        size = rng.choice([0, 10, 3000, INLINE_BYTES])
        put(
            journal,
            key,
            rng.randbytes(size),
            base=rng.choice([None, b""]),
            attrs=LocalAttrs(mode=rng.randrange(512)),
        )
    elif act == 4:
        delete(journal, key)
    elif act == 5:
        change = journal.get(NS, key)
        if change is not None and not change.is_tombstone:
            journal.move(NS, [Move(key, other, None, None)])
    elif act == 6:
        ack_all(journal)
    elif act == 7:
        journal.settle(0, -(10**12))
    elif act == 8:
        row = DirRow(f"d{rng.randrange(4)}/", 0, 0o755, 1, 1)
        journal.attributes.add_dir(NS, row)
        journal.attributes.remove_dir(NS, f"d{rng.randrange(4)}/", 0)
    else:
        with contextlib.suppress(LookupError), journal.transaction():
            put(journal, key, b"never was")
            journal.attributes.set_file_attrs(NS, other, LocalAttrs(mode=1))
            journal.attributes.namespace_first_seen(NS, 1.0)
            raise LookupError


def _state(journal: Journal) -> tuple[object, ...]:
    attributes = journal.attributes
    files = [attributes.file_attrs(NS, Key(f"{letter}{n}")) for letter in "kr" for n in range(12)]
    return list(journal.under(NS, "")), shown(journal), files, list(attributes.dirs_under(NS, ""))


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_any_moment_it_is_as_it_was(path, monkeypatch, seed):
    """Whatever was changed, wherever the records are by then: in logs, in the tables, in both."""
    rng = random.Random(seed)
    monkeypatch.setattr(tables, "ROTATE_BYTES", rng.choice([5_000, 200_000]))
    monkeypatch.setattr(tables, "APPLY_COUNT", rng.choice([1, 7, 1000]))
    monkeypatch.setattr(tables, "SLICE_ROWS", rng.choice([1, 9, 1000]))
    monkeypatch.setattr("kvfs.journal.attributes.CACHED_FILES", 3)
    with open_journal(path) as journal:
        for step in range(150):
            _act(journal, rng)
            if step % 40 == 39:
                await journal.tidy()
            if step % 10 == 9:
                crashed = killed(path, journal)
                with open_journal(crashed) as other:
                    other.check_invariants()
                    assert _state(other) == _state(journal), step
        journal.check_invariants()


# power cuts


class Disk:
    """What of a journal's files is on the disk for certain, and all that may be.

    SQLite's side is there as of some moment since its log was last forced out; of a file of the redo log at least
    what was forced out; a file that was removed since may be there still.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[dict[Path, bytes]] = []  # of SQLite's files, since they were forced out
        self.forced: dict[Path, int] = {}
        self.seen: dict[Path, bytes] = {}

    def look(self, *, tables_forced: bool = False) -> None:
        """After a step."""
        if tables_forced:
            self.images.clear()
        names = ("journal.db", "journal.db-wal")
        self.images.append({f: f.read_bytes() for name in names if (f := self.path.with_name(name)).exists()})
        self.seen |= {file: file.read_bytes() for file in log.files_of(self.path)}

    def force(self) -> None:
        """`--durable-close` returned."""
        self.forced |= {file: file.stat().st_size for file in log.files_of(self.path)}

    def cut(self, rng: random.Random) -> Path:
        """The power fails: what may be found afterwards, in a directory of its own."""
        copy = Path(tempfile.mkdtemp(prefix="cut-", dir=self.path.parent))
        for file, content in rng.choice(self.images).items():
            (copy / file.name).write_bytes(content)
        for file, content in self.seen.items():
            if file.exists() or rng.random() < 0.3:
                least = self.forced.get(file, 0)
                whole = rng.random() < 0.3
                (copy / file.name).write_bytes(
                    content if whole else content[: rng.randint(least, len(content))]
                )
        return copy / self.path.name


@pytest.mark.parametrize("seed", range(8))
async def test_after_a_power_cut_it_is_as_it_was_at_some_moment_since_the_last_durable_close(
    path, monkeypatch, seed, expect_log
):
    """Whatever of tables and log reached the disk, in whatever order: no mixture, and nothing durable is gone."""
    rng = random.Random(seed)
    monkeypatch.setattr(tables, "ROTATE_BYTES", 6_000)
    monkeypatch.setattr(tables, "APPLY_COUNT", rng.choice([1, 7]))
    monkeypatch.setattr(tables, "SLICE_ROWS", rng.choice([1, 9, 1000]))
    states: list[tuple[int, str]] = []
    step = durable = 0
    disk = Disk(path)
    with open_journal(path) as journal:
        committed = journal._ledger.on_commit

        def note(altered: bool) -> None:
            committed(altered)
            states.append((step, repr(_state(journal)[:2])))

        journal._ledger.on_commit = note
        disk.look(tables_forced=True)
        for step in range(70):
            _act(journal, rng)
            states.append((step, repr(_state(journal)[:2])))
            tidied = rng.random() < 0.08
            if tidied:
                await journal.tidy()
            if rng.random() < 0.15:
                await journal.make_durable()
                durable = step
                disk.force()
            disk.look(tables_forced=tidied)
            if step > 5 and rng.random() < 0.4:
                with open_journal(disk.cut(rng)) as other:
                    other.check_invariants()
                    found = repr(_state(other)[:2])
                assert found in {state for at, state in states if at >= durable}, (seed, step)
    if any(path.parent.glob("cut-*/*.damaged-*")):
        expect_log("the log of the journal is damaged")
