"""Conversion of a journal of the format before (tables in SQLite and a redo log of what they lack), once, as a whole.

`fixtures/format4.tar.xz` is one that the version before wrote, as a kill left it: some changes in the tables, others
in the redo log alone, a large content in the spool.
"""

import contextlib
import errno
import shutil
import sqlite3
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from support.journal_check import check_journal
from support.journals import NS, SOURCE, START, keys, open_journal, put, segments, shown, side_of

from kvfs.core.digest import digest
from kvfs.core.errors import JournalError, JournalUnreadableError
from kvfs.core.model import ChangeState, Key
from kvfs.journal import legacy, side
from kvfs.journal.journal import Journal
from kvfs.journal.local_attributes import DirRow, LocalAttrs
from kvfs.journal.segment import VERSION

FIXTURES = Path(__file__).parent / "fixtures"
SHOWN = {
    "gone": None,
    "large": b"large" * 40_000,
    "local": b"stays here",
    "new": b"renamed",
    "old": None,
    "rejected": b"refused",
    "settling": b"written again",
}


@pytest.fixture
def path(tmp_path) -> Path:
    """The journal of that version, in a directory of its own."""
    place = tmp_path / "old"
    with tarfile.open(FIXTURES / f"format{legacy.BEFORE}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place / "journal.db"


def everything(path: Path) -> dict[str, bytes]:
    """Return every file of a journal but its lock and the files that SQLite makes for readers."""
    files = (file for file in path.parent.rglob("*") if file.is_file())
    return {file.name: file.read_bytes() for file in files if not file.name.endswith((".lock", "-shm"))}


def check(journal: Journal) -> None:
    """Check that everything the version before had promised is there."""
    check_journal(journal)
    assert shown(journal) == SHOWN
    large, new, old = (journal.get(NS, Key(key)) for key in ("large", "new", "old"))
    assert large is not None
    assert new is not None
    assert old is not None
    assert (large.metadata, large.expiration, large.base, large.error) == (
        b'{"m":1}',
        1_900_000_000,
        None,
        "try later",
    )
    assert keys(journal.pending()) == ["large", "new", "old", "gone", "settling"]
    assert journal.blocker(old) == new, "the deletion of the old name waits for the new one"
    (refused,) = journal.rejected()
    assert (refused.key, refused.error) == ("rejected", "too odd")
    local = journal.get(NS, Key("local"))
    assert local is not None
    assert local.state is ChangeState.LOCAL
    again = journal.row(journal.pending()[-1].seq)
    assert again is not None
    assert again.may_exist
    assert again.change.base == digest(b"sent")
    attributes = journal.attributes
    assert attributes.file_attrs(NS, Key("settling")) == LocalAttrs(0o644, 21, 22, 23)
    assert attributes.file_attrs(NS, Key("clean")) == LocalAttrs(mode=0o444)
    assert attributes.file_attrs(NS, Key("only attributes")) == LocalAttrs(0o755, 77)
    assert list(attributes.dirs_under(NS, "")) == [
        DirRow("d/", 0, 0o700, 5, 6),
        DirRow("d/e/", 2, None, 7, 8),
    ]
    assert attributes.namespace_first_seen(NS, START) == START - 1000


def test_nothing_that_was_pending_is_lost(path):
    """A conversion keeps changes in every state, with contents, numbers and reasons.

    Attributes, directories, first sight.
    """
    for _ in range(2):
        with open_journal(path) as journal:
            check(journal)
    with open_journal(path) as journal:
        assert put(journal, "later") > 10
        tables = side_of(journal).execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert {name for (name,) in tables} - {"sqlite_sequence"} == {"meta", "files", "shown", "gone"}
        assert side_of(journal).execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert segments(path)
    assert not list(path.parent.glob("*-redo.*"))


@pytest.mark.parametrize("where", ["_replay", "write_file", "_alter"])
def test_a_conversion_that_fails_leaves_the_journal_as_it_was(path, monkeypatch, where):
    """After a failed conversion, on a full disk for instance, the next one converts all, and leftovers are ignored."""
    before = everything(path)
    real = getattr(legacy, where)

    def failing(*arguments):
        real(*arguments)
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(legacy, where, failing)
        with pytest.raises(JournalError, match=r"cannot be converted.*no room"):
            open_journal(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (legacy.BEFORE,)
        assert database.execute("SELECT count(*) FROM changes").fetchone() == (6,)
    assert everything(path).keys() >= before.keys() - {"journal.db-wal"}
    with open_journal(path) as journal:
        check(journal)


def test_a_kill_before_the_redo_log_went_loses_nothing(path, monkeypatch):
    """A kill after the file was converted and before the old log went loses nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(legacy, "clean", lambda *_: None)
        open_journal(path).close()
    assert list(path.parent.glob("*-redo.*"))
    with open_journal(path) as journal:
        check(journal)
    assert not list(path.parent.glob("*-redo.*"))


def without_redo_log(path: Path) -> None:
    """Apply the redo log to the tables, as the version before did at a quiet end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        legacy._replay(database, path)
    for file in legacy.logs_of(path):
        file.unlink()


async def test_a_power_cut_does_not_undo_a_conversion_that_changes_stand_on(path, monkeypatch):
    """A conversion is forced out before changes stand on it, or a power cut would make the new log a leftover."""
    without_redo_log(path)
    with monkeypatch.context() as patch:
        patch.setattr(side, "force", lambda _: (_ for _ in ()).throw(JournalError("hung")))
        with pytest.raises(JournalError, match="hung"):
            open_journal(path)  # a disk that does not force it out gets no changes to lose
    with open_journal(path) as journal:
        put(journal, "later", b"promised")
        await journal.make_durable()
        shutil.copytree(path.parent, cut := path.parent.with_name("cut"))
        (cut / "journal.db-wal").unlink(missing_ok=True)
    with open_journal(cut / path.name) as journal:
        assert shown(journal) == SHOWN | {"later": b"promised"}


def test_a_redo_log_cut_anywhere_gives_every_record_before_the_cut(path, tmp_path):
    """A redo log cut anywhere gives every record before the cut; half a record was promised to nobody."""
    content = path.with_name("journal.db-redo.1").read_bytes()
    counts = []
    for cut in range(0, len(content) + 1, 97):
        copy = tmp_path / f"cut-{cut}"
        shutil.copytree(path.parent, copy)
        (copy / "journal.db-redo.1").write_bytes(content[:cut])
        with open_journal(copy / "journal.db") as journal:
            check_journal(journal)
            counts.append(journal.totals.last_seq)
        assert not list(copy.glob("*.damaged-*"))
    assert counts == sorted(counts)
    assert (counts[0], len(set(counts))) == (6, 4)


def test_a_garbled_redo_log_is_kept(path, expect_log):
    """Records before the damage of a redo log are converted, and the rest is kept in case somebody can read it."""
    file = path.with_name("journal.db-redo.1")
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    file.write_bytes(spoilt)
    expect_log("the log of the journal is damaged")
    with open_journal(path) as journal:
        check_journal(journal)
        assert "large" in shown(journal)
    assert [kept.read_bytes() for kept in path.parent.glob("*.damaged-*")] == [bytes(spoilt)]


def test_a_strange_redo_log_is_refused_and_left_alone(path):
    """A redo log that belongs to another journal of that version is refused and left alone."""
    file = path.with_name("journal.db-redo.1")
    other = bytearray(file.read_bytes())
    head = legacy._HEAD.unpack_from(other)
    body = legacy._HEAD.pack(head[0], head[1], b"o" * 16, 0)[:-4]
    other[: legacy._HEAD.size] = body + legacy.crc32(body).to_bytes(4, "little")
    file.write_bytes(other)
    before = everything(path)
    with pytest.raises(JournalUnreadableError, match=r"redo\.1.*another journal.*left as it is"):
        open_journal(path)
    assert everything(path) == before


def test_the_journal_of_another_source_is_not_converted(path):
    """The journal of another source is refused, and not a byte of it is altered."""
    before = everything(path)
    with pytest.raises(JournalUnreadableError, match=SOURCE):
        open_journal(path, source="cloudflare:other")
    assert everything(path) == before


def test_a_content_that_was_shown_is_known_still(path):
    """After a conversion another content than was shown gets a new date, and an equal one does not."""
    with open_journal(path) as journal:
        for digest_, expected in ((b"d" * 16, None), (b"e" * 16, 123)):
            journal.attributes.found(NS, [(Key("shown"), digest_)], now_ns=123)
            attrs = journal.attributes.file_attrs(NS, Key("shown"))
            assert attrs is not None
            assert attrs.mtime_ns == expected


def test_a_conversion_keeps_no_table_in_memory(path):
    """A conversion keeps no table in memory, because a journal may know of millions of keys that were shown."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        rows = ((number.to_bytes(12), b"12345678", number) for number in range(50_000))
        database.execute("BEGIN")
        database.executemany("INSERT INTO shown VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
    tracemalloc.start()
    try:
        open_journal(path).close()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", range(1, legacy.BEFORE))
def test_a_format_before_that_is_refused_with_the_way_out(path, version):
    """A format that no released kvfs wrote is refused unchanged, and the message says what still reads it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    before = everything(path)
    with pytest.raises(JournalUnreadableError, match=f"older kvfs.*version {version}.*use the kvfs version"):
        open_journal(path)
    assert everything(path).items() >= before.items()
