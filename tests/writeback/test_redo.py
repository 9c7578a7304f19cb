"""The redo log: cut, garbled or replayed, everything a commit promised is there, once."""

import contextlib
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
import trio
from support.journals import NS, SOURCE, ack_all, delete, full_disk, open_journal, put, shown, tables_of

from kvfs.core.errors import JournalFullError, JournalUnreadableError
from kvfs.core.model import Key
from kvfs.writeback import redo, schema, tables
from kvfs.writeback.attributes import DirRow, LocalAttrs
from kvfs.writeback.journal import INLINE_BYTES, Journal, Move

RECORDS = 40


@pytest.fixture
def path(tmp_path) -> Path:
    """Where the journal is to be."""
    return tmp_path / "journal.db"


def killed(path: Path, journal: Journal) -> Path:
    """The files of a journal as a kill would leave them now, in a directory of their own."""
    copy = Path(tempfile.mkdtemp(prefix="killed-", dir=path.parent))
    for file in path.parent.glob("journal.db*"):
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, copy / file.name)
    assert journal.path == path
    return copy / path.name


def logs(path: Path) -> list[str]:
    """The names of the files of its log."""
    return [file.name for file in redo.files_of(path)]


def kept(path: Path) -> list[bytes]:
    """What was kept of damaged files."""
    return [file.read_bytes() for file in path.parent.glob("*.damaged-*")]


def written(path: Path) -> tuple[Path, list[int]]:
    """The log of a journal whose owner was killed, and how long it was after each record."""
    with open_journal(path) as journal:
        sizes = []
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
            sizes.append(journal._ledger._tables.redo.size)
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


def test_what_follows_a_damaged_file_is_not_replayed_without_it(path, monkeypatch, expect_log):
    """Later files are kept as well: their records stand on those that are missing."""
    monkeypatch.setattr(tables, "ROTATE_BYTES", 3000)
    monkeypatch.setattr(tables, "APPLY_COUNT", 1)
    with open_journal(path) as journal:
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
        assert len(logs(path)) > 2
        crashed = killed(path, journal)
    files = redo.files_of(crashed)
    files[0].write_bytes(files[0].read_bytes()[:-10])
    expect_log("the log of the journal is damaged")
    with open_journal(crashed) as journal:
        journal.check_invariants()
        assert shown(journal) == expected(RECORDS), "the tables had it all"
    assert len(kept(crashed)) == len(files)


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
    file = redo.files_of(crashed)[0]
    log = {
        "identity": redo.RedoLog(path.parent / "other", b"o" * schema.ID_BYTES, schema.VERSION),
        "version": redo.RedoLog(path.parent / "other", identity(crashed), schema.VERSION + 1),
        "magic": None,
    }[spoil]
    if log is not None:
        log.append(b"record")
        log.close()
        shutil.copyfile(path.parent / "other-redo.1", file)
    else:
        head = redo._with_sum(redo._HEAD.pack(b"whatever", schema.VERSION, identity(crashed)))
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


def test_a_journal_of_the_version_before_gets_an_id(path):
    """And a log, from then on."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        database = tables_of(journal)
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
        log = journal._ledger._tables.redo
        with full_disk(journal), pytest.raises(JournalFullError):
            put(journal, "b", b"2" * 1000)
        with open(redo.files_of(path)[0], "ab") as file:  # what a disk took of it before it was full
            file.write(b"half a record")
        assert log._is_torn
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
    monkeypatch.setattr("kvfs.writeback.attributes.CACHED_FILES", 3)
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
