"""The log: after a cut, garbling, a rewrite or a replay, everything a commit promised is there, once."""

import contextlib
import errno
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from support.journal_check import check_journal
from support.journals import (
    NS,
    START,
    ack_all,
    delete,
    failing_disk,
    full_disk,
    keys,
    logged,
    open_journal,
    put,
    segments,
    shown,
    snapshot,
)

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import JournalError, JournalFullError, JournalUnreadableError
from kvfs.core.model import Change, Key
from kvfs.journal import snapshot as snapshots
from kvfs.journal.journal import Journal
from kvfs.journal.writer import Move
from kvfs.kept import side
from kvfs.kept.local import DirRow, LocalAttrs
from kvfs.log import log
from kvfs.log.segment import ID_BYTES, SEGMENT_HEAD, VERSION, Head, SegmentReading, segments_of

RECORDS = 40
ATTRS = LocalAttrs(0o600, 1, 2)


@pytest.fixture
def path(tmp_path) -> Path:
    """Return the place of the journal."""
    return tmp_path / "journal.db"


def killed(path: Path, journal: Journal) -> Path:
    """Return the files of a journal as a kill would leave them now, in a directory of their own."""
    copy = Path(tempfile.mkdtemp(prefix="killed-", dir=path.parent))
    for file in path.parent.glob("journal.db*"):
        (shutil.copytree if file.is_dir() else shutil.copyfile)(file, copy / file.name)
    assert journal.path == path
    return copy / path.name


def kept(path: Path) -> list[bytes]:
    """Return the kept copies of damaged files."""
    return [file.read_bytes() for file in path.parent.glob("*.damaged-*")]


def written(path: Path) -> tuple[Path, list[int]]:
    """Return the log of a journal whose owner was killed, and its length after each record."""
    with open_journal(path) as journal:
        sizes = []
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
            sizes.append(journal._transactions.log.size)
        return killed(path, journal), sizes


def in_segments(path: Path, each: int = 10) -> Path:
    """Return a log as `written` does, in several segments."""
    with open_journal(path) as journal:
        for number in range(RECORDS):
            put(journal, f"{number:02}", b"%d" % number * 50)
            if number % each == each - 1:
                journal._transactions.log.roll()
        return killed(path, journal)


def expected(count: int) -> dict[str, bytes]:
    """Return the state after the first records."""
    return {f"{number:02}": b"%d" % number * 50 for number in range(count)}


def reopened(path: Path, content: bytes) -> dict[str, bytes | None]:
    """Return what a journal with this log shows; check that it can be written and opened again, and shows the same."""
    copy = path.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    shutil.copyfile(path, copy / path.name)
    (copy / "journal.db-log.1").write_bytes(content)
    with open_journal(copy / path.name) as journal:
        check_journal(journal)
        found = shown(journal)
        put(journal, "new", b"new")
        check_journal(journal)
    with open_journal(copy / path.name) as journal:
        assert shown(journal) == found | {"new": b"new"}
    return found


def test_a_journal_makes_no_segment_before_there_is_something_for_it(path):
    """A journal makes no segment before there is something for it, however often it is opened."""
    for _ in range(3):
        open_journal(path).close()
    assert segments(path) == []
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        assert segments(path) == ["journal.db-log.1"]


def test_a_log_cut_anywhere_gives_every_record_before_the_cut(path):
    """A log cut anywhere gives every record before the cut, and half a record, promised to nobody, is no damage."""
    crashed, sizes = written(path)
    content = (crashed.parent / "journal.db-log.1").read_bytes()
    rng = random.Random(1)
    cuts = [
        0,
        1,
        SEGMENT_HEAD - 1,
        SEGMENT_HEAD,
        *sizes[::7],
        *(rng.randrange(len(content)) for _ in range(60)),
    ]
    for cut in cuts:
        assert reopened(crashed, content[:cut]) == expected(sum(size <= cut for size in sizes)), cut
        assert kept(crashed.parent / "copy" / "journal.db") == []


def test_zeros_at_the_end_are_no_damage(path):
    """Zeros at the end are no damage: a power cut leaves them where a record was never forced out."""
    crashed, sizes = written(path)
    content = (crashed.parent / "journal.db-log.1").read_bytes()
    for count in (0, 7, RECORDS):
        assert reopened(crashed, content[: ([SEGMENT_HEAD, *sizes])[count]] + bytes(5000)) == expected(count)
        assert kept(crashed.parent / "copy" / "journal.db") == []


def test_a_log_garbled_anywhere_gives_every_record_before_and_keeps_the_rest(path, expect_log):
    """A garbled log gives every record before the damage.

    The rest, which may have been promised, is kept under another name and reported.
    """
    crashed, sizes = written(path)
    content = (crashed.parent / "journal.db-log.1").read_bytes()
    expect_log("the log of the journal is damaged")
    rng = random.Random(2)
    for place in [0, 9, 20, 31, SEGMENT_HEAD, *(rng.randrange(len(content)) for _ in range(80))]:
        spoilt = bytearray(content)
        spoilt[place] ^= 0x55
        before = sum(size <= place for size in sizes)
        if is_content(content, place) and before < RECORDS - 1:
            continue  # see the next test
        assert reopened(crashed, bytes(spoilt)) == expected(before), place
        assert kept(crashed.parent / "copy" / "journal.db") == [bytes(spoilt)], place


def is_content(content: bytes, place: int) -> bool:
    """Return True if that byte of a log is one of a value, which are digits."""
    return all(48 <= byte < 58 for byte in content[max(0, place - 10) : place + 1]) or (
        content[place : place + 20].isdigit()
    )


def test_a_value_that_is_garbled_costs_nothing_but_itself(path):
    """A garbled value costs only itself: later records are read, and it is neither shown nor sent nor replaced."""
    crashed, sizes = written(path)
    content = (crashed.parent / "journal.db-log.1").read_bytes()
    for number in (0, 20, RECORDS - 2):
        spoilt = bytearray(content)
        spoilt[sizes[number] - 3] ^= 0x55
        (crashed.parent / "journal.db-log.1").write_bytes(spoilt)
        with open_journal(crashed) as journal:
            assert keys(journal.pending()) == [*expected(RECORDS)]
            for change in journal.pending():
                if change.key == f"{number:02}":
                    with pytest.raises(JournalError, match="damaged"):
                        journal.value(change)
                else:
                    assert journal.value(change) == expected(RECORDS)[change.key]
        assert kept(crashed) == []


def test_records_that_are_missing_end_the_replay(path, expect_log):
    """Missing records end the replay, and the records after them, which build on them, are kept aside."""
    crashed = in_segments(path)
    files = segments_of(crashed)
    assert len(files) == 4
    files[1].unlink()
    expect_log("the log of the journal is damaged")
    for _ in range(2):
        with open_journal(crashed) as journal:
            check_journal(journal)
            assert shown(journal) == expected(10)
    assert len(kept(crashed)) == 2


def test_what_cannot_be_cut_off_does_not_hide_the_next_segment(path, monkeypatch):
    """Half a record that cannot be cut off does not hide the records of the next segment."""
    with open_journal(path) as journal:
        put(journal, "00", b"0" * 50)
        with full_disk(journal), pytest.raises(JournalFullError):
            put(journal, "lost", b"1" * 50)
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
            put(journal, "01", b"1" * 50)
        assert len(segments(path)) == 2
        check_journal(journal)
        crashed = killed(path, journal)
    with open_journal(crashed) as journal:
        assert shown(journal) == expected(2)
    assert kept(crashed) == []


def test_a_replay_counts_to_its_last_record(path):
    """A replay counts to its last record, however often the log is opened, so the next record follows without a gap."""
    for number in range(RECORDS):
        with open_journal(path) as journal:
            assert shown(journal) == expected(number)
            put(journal, f"{number:02}", b"%d" % number * 50)
            check_journal(journal)
    with open_journal(path) as journal:
        assert shown(journal) == expected(RECORDS)


async def test_a_segment_that_comes_back_changes_nothing(path):
    """A segment that a snapshot replaced and a power cut brought back changes nothing."""
    with open_journal(path) as journal:
        put(journal, "k", b"first", base=None)
        ack_all(journal)
        journal.settle(0, -(10**12))
        content = segments_of(path)[0].read_bytes()
        await snapshot(journal)
        put(journal, "new", b"1")
    assert "journal.db-log.1" not in segments(path)
    path.with_name("journal.db-log.1").write_bytes(content)
    with open_journal(path) as journal:
        assert shown(journal) == {"new": b"1"}, "what was sent long ago is not sent again"
    assert "journal.db-log.1" not in segments(path)


def test_large_values_named_behind_the_damage_are_kept(path, expect_log):
    """Large values named behind the damage are kept until the rest of the log is taken away."""

    async def record() -> None:
        body = await journal.spool(b"x" * 1_000_000)
        journal.record_put(NS, Key("large"), body, metadata=None, expiration=None, base=None)

    with open_journal(path) as journal:
        put(journal, "small", b"1")
        before = journal._transactions.log.size
        trio.run(record)
        crashed = killed(path, journal)
    spool = crashed.with_name("journal.db.spool")
    file = segments_of(crashed)[0]
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


@pytest.mark.parametrize("fails", ["copy", "cut"])
def test_a_damaged_log_that_cannot_be_put_away_stays(path, monkeypatch, expect_log, fails):
    """A damaged log that a full disk keeps from being put away is refused and stays complete for the next try."""
    crashed, sizes = written(path)
    file = segments_of(crashed)[0]
    spoilt = bytearray(file.read_bytes())
    spoilt[sizes[20] + 30] ^= 1
    file.write_bytes(spoilt)

    def failing(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(*{"copy": (shutil, "copyfile"), "cut": (os, "truncate")}[fails], failing)
        with pytest.raises(JournalError, match=r"cannot be read: .*no room"):
            open_journal(crashed)
    assert file.read_bytes() == spoilt
    expect_log("the log of the journal is damaged")
    with open_journal(crashed) as journal:
        assert shown(journal) == expected(21)
    assert bytes(spoilt) in kept(crashed)


@pytest.mark.parametrize("spoil", ["identity", "version", "magic"])
@pytest.mark.parametrize("seconds", [3.0, 0.0])
def test_the_log_of_another_journal_is_refused_and_left_alone(path, spoil, seconds, monkeypatch):
    """The log of another journal is refused and left alone, also by a quick check, because it may be an only copy."""
    monkeypatch.setattr("kvfs.kept.sidefile.CHECK_SECONDS", seconds)
    crashed, _ = written(path)
    file = segments_of(crashed)[0]
    head = {
        "identity": Head(b"o" * ID_BYTES, 0, is_snapshot=False),
        "version": Head(identity(crashed), 0, is_snapshot=False, version=VERSION + 1),
        "magic": Head(identity(crashed), 0, is_snapshot=False),
    }[spoil]
    with monkeypatch.context() as patch:
        if spoil == "magic":
            patch.setattr("kvfs.log.segment._MAGIC", b"whatever")
        file.write_bytes(head.encode() + b"?" * 100)
    before = {
        found.name: found.read_bytes() for found in crashed.parent.glob("journal.db*") if found.is_file()
    }
    with pytest.raises(JournalUnreadableError, match=r"log\.1.*left as it is"):
        open_journal(crashed)
    before.pop("journal.db.lock", None)
    for name, content in before.items():
        assert (crashed.parent / name).read_bytes() == content


def identity(path: Path) -> bytes:
    """Return a journal's id."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return side.identity(connection)


def test_a_log_without_its_journal_is_not_forgotten(path):
    """A log without its journal, which somebody moved away in part, is refused and not replaced by an empty one."""
    crashed, _ = written(path)
    crashed.unlink()
    with pytest.raises(JournalUnreadableError, match="gone, but journal"):
        open_journal(crashed)
    assert not crashed.exists()


def test_an_append_that_failed_leaves_nothing_behind(path):
    """After an append that failed the next one begins at the same place, and memory never heard of the failed one."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        with full_disk(journal):
            with pytest.raises(JournalFullError):
                put(journal, "b", b"2" * 1000)
            with pytest.raises(JournalFullError):
                delete(journal, "a")
        assert journal._transactions.log._is_torn
        assert shown(journal) == {"a": b"1"}
        put(journal, "c", b"3")
        check_journal(journal)
        crashed = killed(path, journal)
    assert len(segments(crashed)) == 1
    with open_journal(crashed) as journal:
        assert shown(journal) == {"a": b"1", "c": b"3"}
        check_journal(journal)


def test_a_log_that_cannot_be_begun_leaves_no_file(path):
    """A log that cannot be begun on a full disk leaves no file, and begins when there is room."""
    with open_journal(path) as journal:
        for _ in range(3):
            with full_disk(journal), pytest.raises(JournalFullError):
                put(journal, "a", b"1")
        assert segments(path) == []
        put(journal, "a", b"2")
        assert shown(journal) == {"a": b"2"}


@pytest.mark.parametrize("later", [0, 3])
@pytest.mark.parametrize(("part", "fails"), [("index", "put"), ("kept", "has_change")])
def test_what_is_in_the_log_is_kept_whatever_becomes_of_the_rest(path, monkeypatch, part, fails, later):
    """A record in the log is kept even if memory fails to follow, because its answer is out."""
    with open_journal(path) as journal:
        put(journal, "before", attrs=ATTRS)
        with monkeypatch.context() as patch:
            patch.setattr(getattr(journal._transactions, part), fails, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                put(journal, "promised", attrs=ATTRS)
        for number in range(later):
            put(journal, f"{number}", attrs=ATTRS)
        assert {"before", *map(str, range(later))} <= {
            change.key for change in journal.under(NS, "") if journal.value(change)
        }
    with open_journal(path) as journal:
        assert set(shown(journal)) == {"before", "promised", *map(str, range(later))}
        check_journal(journal)


# snapshots


async def test_a_snapshot_says_what_the_log_said(path):
    """A snapshot says what the log said: changes in every state, all contents, attributes, directories, namespaces."""
    with open_journal(path) as journal:
        body = await journal.spool(b"large" * 100_000)
        journal.record_put(NS, Key("large"), body, metadata=b"1", expiration=None, base=b"", attrs=ATTRS)
        put(journal, "sent", b"sent", attrs=ATTRS)
        ack_all(journal)
        journal.reject(put(journal, "rejected", b"refused"), "no")
        put(journal, "old", b"moved", base=None)
        journal.mark_attempted([change.seq for change in journal.pending()])
        journal.move(NS, [Move(Key("old"), Key("new"), None, None)])
        journal.attributes.add_dir(NS, DirRow("d/", 0, 0o755, 1, 1))
        journal.attributes.set_file_attrs(NS, Key("clean"), ATTRS)
        journal.attributes.namespace_first_seen(NS, 5.0)
        before, rows = _state(journal), sorted(_changes(journal), key=lambda change: change.seq)
        await snapshot(journal)
        check_journal(journal)
        assert (_state(journal), sorted(_changes(journal), key=lambda c: c.seq)) == (before, rows)
        assert len(segments(path)) == 1
        assert logged(path).recorded.kept.unsaved == {}, (
            "the side table has what is kept of keys without a change"
        )
        crashed = killed(path, journal)
    with open_journal(crashed) as journal:
        check_journal(journal)
        assert _state(journal) == before
        assert journal.attributes.namespace_first_seen(NS, 99.0) == 5
        assert journal.attributes.file_attrs(NS, Key("clean")) == ATTRS
        assert put(journal, "later") > max(change.seq for change in rows)


async def test_changes_go_on_while_a_snapshot_is_written(path, monkeypatch):
    """While a snapshot is written, changes, renames and acknowledgements go on into the segment after it."""
    held, write = threading.Event(), snapshots.write

    def slow(*arguments):
        assert held.wait(30)
        return write(*arguments)

    monkeypatch.setattr(snapshots, "write", slow)
    with open_journal(path) as journal:
        for number in range(20):
            put(journal, f"{number}", b"%d" % number * 50)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(snapshot, journal)
            await trio.testing.wait_all_tasks_blocked()
            put(journal, "during", b"during")
            journal.move(NS, [Move(Key("0"), Key("moved"), None, None)])
            ack_all(journal)
            journal.settle(START + 100, 50, limit=5)
            put(journal, "1", b"again")
            check_journal(journal)
            held.set()
        check_journal(journal)
        assert len(segments(path)) == 2
        before = _state(journal)
        with open_journal(killed(path, journal)) as other:
            check_journal(other)
            assert _state(other) == before


async def test_a_log_of_long_rows_is_not_written_anew_again_and_again(path, monkeypatch):
    """A log of rows with long names and metadata is not rewritten again and again, with room on the disk or not."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 1000)
    with open_journal(path) as journal:
        for number in range(200):
            put(journal, f"{number}".ljust(500, "x"), b"", metadata=b'"%s"' % (b"x" * 1000))
        await snapshot(journal)
        assert not journal._upkeep._wants_snapshot()
        journal._transactions.log.reserve.is_short = True
        assert not journal._upkeep._wants_snapshot()
        for number in range(200):
            journal.discard(NS, Key(f"{number}".ljust(500, "x")))
        assert journal._upkeep._wants_snapshot()


async def test_a_snapshot_that_fails_leaves_the_log_as_it_was(path, monkeypatch, expect_log):
    """A snapshot that fails leaves the log as it was, and is tried again when the log has grown."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 1000)
    tries = []

    def failing(*_: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "no room")

    expect_log("log stays as long as it is for now")
    with open_journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(snapshots.os, "fsync", failing)
            for number in range(60):
                put(journal, "k", b"%d" % number * 50)
                await journal.tidy()
        assert 2 < len(tries) < 30
        assert not list(path.parent.glob("*.new"))
        check_journal(journal)
        crashed = killed(path, journal)
        for number in range(60):
            put(journal, "k", b"%d" % number * 50)
            await journal.tidy()
        assert journal._transactions.log.size < 5000
    with open_journal(crashed) as journal:
        assert shown(journal) == {"k": b"59" * 50}


async def test_what_a_snapshot_left_half_written_goes(path):
    """Half a snapshot that a kill left is removed, and the segments before it count."""
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        crashed = killed(path, journal)
    crashed.with_name("journal.db-log.2.new").write_bytes(b"half")
    with open_journal(crashed) as journal:
        assert shown(journal) == {"a": b"1"}
    assert not list(crashed.parent.glob("*.new"))


async def test_a_snapshot_that_is_cancelled_loses_nothing(path):
    """A snapshot that is cancelled when it begins, or before it replaces the segments, loses nothing."""
    with open_journal(path) as journal:
        for number in range(3000):
            put(journal, f"{number}", b"x")
        for checkpoints in range(5):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(snapshot, journal)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            check_journal(journal)
        await snapshot(journal)
        check_journal(journal)
        assert len(segments(path)) == 1


async def test_a_log_is_written_anew_when_most_of_it_says_nothing(path, monkeypatch):
    """The log is rewritten when most of it is dead: above twice the pending bytes, and above the least worth it."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 20_000)
    with open_journal(path) as journal:
        for number in range(500):
            put(journal, f"{number % 10}", b"x" * 1000)
            await journal.tidy()
            assert journal._transactions.log.size < 2 * 10 * 1300 + 20_000 + 2000
        check_journal(journal)


def test_a_journal_that_sent_all_keeps_little(path):
    """A journal that sent everything is rewritten at the end of a mount, and keeps little."""
    with open_journal(path) as journal:
        for number in range(200):
            put(journal, f"{number}", b"x" * 1000, attrs=ATTRS)
        ack_all(journal)
        journal.settle(0, -(10**12))
    assert sum(file.stat().st_size for file in segments_of(path)) < 1000
    with open_journal(path) as journal:
        assert shown(journal) == {}
        assert journal.attributes.file_attrs(NS, Key("77")) == ATTRS


@pytest.mark.parametrize("at", [0, 10, 20, 40, SEGMENT_HEAD + 5, SEGMENT_HEAD + 60])
async def test_a_snapshot_that_cannot_be_read_is_refused_and_left_alone(path, at):
    """A damaged snapshot, its head included, is refused and left alone, because a mount must not come up empty."""
    with open_journal(path) as journal:
        for number in range(5):
            put(journal, f"{number}", b"1")
        await snapshot(journal)
        put(journal, "later", b"2")
        crashed = killed(path, journal)
    first = segments_of(crashed)[0]
    garbled = bytearray(first.read_bytes())
    garbled[at] ^= 1
    first.write_bytes(garbled)
    crashed.with_name("journal.db-log.9.new").write_bytes(b"half")
    before = {file.name: file.read_bytes() for file in crashed.parent.glob("*-log.*")}
    with pytest.raises(JournalUnreadableError, match=r"it is damaged|cannot be read|of another journal"):
        open_journal(crashed)
    assert {file.name: file.read_bytes() for file in crashed.parent.glob("*-log.*")} == before
    assert not kept(crashed)


# to the disk


def test_a_sync_does_not_rely_on_one_that_is_under_way(path, monkeypatch):
    """A sync does not rely on one that is under way: the second returns when the new file's name is on the disk."""
    forced, may_end = [], threading.Event()

    def sync_directory(directory):
        assert may_end.wait(30)
        forced.append(directory)

    monkeypatch.setattr(log, "sync_directory", sync_directory)
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        its_log = journal._transactions.log
        threads = [threading.Thread(target=its_log.sync) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[1].join(0.05)
        assert all(thread.is_alive() for thread in threads)
        may_end.set()
        for thread in threads:
            thread.join()
        assert forced
        count = len(forced)
        its_log.sync()
        assert len(forced) == count


async def test_a_sync_trusts_no_segment_that_is_still_written_to(path):
    """A segment begun while a sync looks around is not trusted as forced out, and is forced out later."""

    class Crowded(dict):
        def values(self):
            if begin:
                put(journal, begin.pop(), b"2")
            return super().values()

    begin = []
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        its_log = journal._transactions.log
        its_log.roll()
        its_log._segments = Crowded(its_log._segments)
        begin.append("b")
        its_log.sync()
        assert its_log._segments[3].is_synced is False
        its_log.roll()
        its_log.sync()
        assert all(segment.is_synced for segment in its_log._segments.values())


async def test_a_segment_that_fails_to_be_forced_out_while_it_is_new_stays_doubtful(path, monkeypatch):
    """A new segment that fails to be forced out stays doubtful, and no snapshot of earlier records replaces it."""

    def lost(_) -> None:
        its_log.roll()
        put(journal, "b", b"2")
        raise OSError(errno.EIO, "lost")

    with open_journal(path) as journal:
        put(journal, "a", b"1")
        its_log = journal._transactions.log
        cut = snapshots.cut(journal._transactions)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lost)
            with pytest.raises(OSError, match="lost"):
                its_log.sync()
        with pytest.raises(OSError, match="a sync of the log failed before"):
            its_log.sync()
        its_log.replace(snapshots.write(cut, its_log)[0])
        assert its_log.is_doubtful
        await journal.make_durable()
        assert shown(journal) == {"a": b"1", "b": b"2"}


async def test_a_close_relies_on_no_sync_over_a_hole(path, monkeypatch):
    """A close after a failed sync rewrites the log, because a large content goes only after its removal is on disk."""
    with open_journal(path) as journal:
        body = await journal.spool(b"x" * 1_000_000)
        journal.record_put(NS, Key("large"), body, metadata=None, expiration=None, base=b"")
        put(journal, "small", b"1")
        journal.discard(NS, Key("large"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
            with pytest.raises(JournalError, match="lost"):
                await journal.make_durable()
    assert "journal.db-log.1" not in segments(path)
    assert not list(path.with_name("journal.db.spool").iterdir())
    with open_journal(path) as journal:
        assert shown(journal) == {"small": b"1"}


@pytest.mark.parametrize(("error", "kind"), [(errno.ENOSPC, JournalFullError), (errno.EIO, JournalError)])
async def test_a_sync_without_room_is_told_as_no_room(path, monkeypatch, error, kind):
    """A sync that finds no room raises the error for no room, as some file systems look for it only then.

    Other errors stay errors.
    """
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(error, "refused")))
            with pytest.raises(JournalError, match=r"cannot be forced to the disk.*refused") as found:
                await journal.make_durable()
        assert type(found.value) is kind


async def test_a_sync_that_failed_is_not_made_up_for_by_another(path, monkeypatch):
    """After a failed sync only a full copy, forced out, is durable.

    A second sync is not: the kernel reports a lost write once.
    """
    with open_journal(path) as journal:
        put(journal, "a", b"1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
            with pytest.raises(JournalError, match=r"cannot be forced to the disk.*lost"):
                await journal.make_durable()
        put(journal, "b", b"2")
        with monkeypatch.context() as patch:
            patch.setattr(
                snapshots.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
            )
            with pytest.raises(JournalError, match="full"):
                await journal.make_durable()
        assert segments(path) == ["journal.db-log.1"]
        await journal.make_durable()
        assert "journal.db-log.1" not in segments(path), "the segment with the hole is not relied on"
        assert shown(journal) == {"a": b"1", "b": b"2"}
        check_journal(journal)
        put(journal, "c", b"3")
        await journal.make_durable()
        assert len(segments(path)) == 2, "a copy is made once"


async def test_a_large_content_whose_sync_failed_is_written_anew(path, monkeypatch):
    """A large content whose sync failed is written anew, because a later sync of its file may succeed over a hole."""
    spool = path.with_name("journal.db.spool")
    with open_journal(path) as journal:
        body = await journal.spool(b"x" * 1_000_000)
        journal.record_put(NS, Key("k"), body, metadata=None, expiration=None, base=None)
        change = journal.get(NS, Key("k"))
        assert change is not None
        (before,) = spool.iterdir()
        inode = before.stat().st_ino
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
            for _ in range(2):
                with pytest.raises(JournalError, match="lost"):
                    await journal.make_durable(change)
        await journal.make_durable(change)
        (after,) = [file for file in spool.iterdir() if not file.name.endswith(".tmp")]
        assert after.name == before.name
        assert after.stat().st_ino != inode
        assert after.stat().st_mode & 0o777 == 0o600
        assert journal.value(change) == b"x" * 1_000_000


@pytest.mark.parametrize("size", [50, 1_000_000])
async def test_a_content_that_the_disk_answers_otherwise_is_not_given_out(path, size):
    """A flipped bit in a content is found by the digest and raises an error, and other bytes are never given out."""
    with open_journal(path) as journal:
        value = b"x" * size
        body = await journal.spool(value) if size > INLINE_BYTES else journal.stage(value)
        journal.record_put(NS, Key("k"), body, metadata=None, expiration=None, base=None)
        change = journal.get(NS, Key("k"))
        assert change is not None
        file = (
            next(path.with_name("journal.db.spool").iterdir())
            if size > INLINE_BYTES
            else segments_of(path)[0]
        )
        with file.open("r+b") as opened:
            opened.seek(-7, os.SEEK_END)
            opened.write(b"?")
        with pytest.raises(JournalError, match="'k' is damaged"):
            journal.value(change)
        with pytest.raises(JournalError, match="'k' is damaged"):
            await journal.read_value(change)


def _act(journal: Journal, rng: random.Random) -> None:
    """Do one change of any kind."""
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


def _changes(journal: Journal) -> list[Change]:
    """Return the changes without the places of their contents: these differ after a snapshot."""
    return [replace(change, content=None) for change in journal.under(NS, "")]


def _state(journal: Journal) -> tuple[object, ...]:
    attributes = journal.attributes
    files = [attributes.file_attrs(NS, Key(f"{letter}{n}")) for letter in "kr" for n in range(12)]
    return _changes(journal), shown(journal), files, list(attributes.dirs_under(NS, ""))


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_any_moment_it_is_as_it_was(path, monkeypatch, seed):
    """A kill at any moment leaves the same state, with the records in one segment, in many, or in a snapshot."""
    rng = random.Random(seed)
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", rng.choice([0, 5_000, 200_000]))
    monkeypatch.setattr("kvfs.kept.facts.CACHED_FILES", 3)
    monkeypatch.setattr("kvfs.kept.facts.SAVE_COUNT", rng.choice([1, 9, 1000]))
    with open_journal(path) as journal:
        for step in range(150):
            _act(journal, rng)
            if step % 20 == 19:
                await journal.tidy()
            if step % 10 == 9:
                crashed = killed(path, journal)
                with open_journal(crashed) as other:
                    check_journal(other)
                    assert _state(other) == _state(journal), step
        check_journal(journal)


@pytest.mark.parametrize("seed", range(4))
def test_a_transaction_that_the_disk_refuses_never_was(path, seed):
    """A transaction on a disk that is full now and then leaves memory and log as before, or with all of it."""
    rng = random.Random(seed)
    with open_journal(path) as journal:
        for step in range(200):
            before = _state(journal)
            if rng.random() < 0.3:
                with failing_disk(errno.ENOSPC):
                    try:
                        _act(journal, rng)
                    except JournalFullError:
                        assert _state(journal) == before, step
            else:
                _act(journal, rng)
            if step % 10 == 0:
                check_journal(journal)


# power cuts


class Disk:
    """The disk after a power cut: the parts of a journal's files that are there for certain, and all that may be there.

    SQLite's side is there as of some moment since it was last forced out; of a segment at least the bytes forced out,
    of a snapshot all; a segment that was removed since may be there still.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[dict[Path, bytes]] = []  # of SQLite's files, since they were forced out
        self.forced: dict[Path, int] = {}
        self.seen: dict[Path, bytes] = {}

    def look(self, *, side_forced: bool = False) -> None:
        """Take in the files after a step."""
        if side_forced:
            self.images.clear()
        names = ("journal.db", "journal.db-wal")
        self.images.append({f: f.read_bytes() for name in names if (f := self.path.with_name(name)).exists()})
        for file in segments_of(self.path):
            self.seen[file] = file.read_bytes()
            head = SegmentReading(file).head
            if head is not None and head.is_snapshot:
                self.forced[file] = len(self.seen[file])

    def force(self) -> None:
        """Note that `--durable-close` returned."""
        self.forced |= {file: file.stat().st_size for file in segments_of(self.path)}

    def cut(self, rng: random.Random) -> Path:
        """Cut the power: return files that may be found afterwards, in a directory of its own."""
        copy = Path(tempfile.mkdtemp(prefix="cut-", dir=self.path.parent))
        for file, content in rng.choice(self.images).items():
            (copy / file.name).write_bytes(content)
        for file, content in self.seen.items():
            least = self.forced.get(file, 0)
            if file.exists() or rng.random() < 0.3:
                length = len(content) if rng.random() < 0.3 else rng.randint(least, len(content))
                zeros = rng.choice([0, 0, len(content) - length])
                if least or length or rng.random() < 0.5:
                    (copy / file.name).write_bytes(content[:length] + bytes(zeros))
        return copy / self.path.name


@pytest.mark.parametrize("seed", range(8))
async def test_after_a_power_cut_it_is_as_it_was_at_some_moment_since_the_last_durable_close(
    path, monkeypatch, seed, expect_log
):
    """After a power cut the journal is that of one moment since the last durable close, whatever reached the disk."""
    rng = random.Random(seed)
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", rng.choice([0, 3_000]))
    monkeypatch.setattr("kvfs.kept.facts.SAVE_COUNT", rng.choice([1, 7]))
    states: list[tuple[int, object]] = []
    step = durable = 0
    disk = Disk(path)
    with open_journal(path) as journal:
        committed = journal._transactions.on_commit

        def note(operations) -> None:
            committed(operations)
            states.append((step, _state(journal)[:2]))

        journal._transactions.on_commit = note
        states.append((step, _state(journal)[:2]))
        disk.look(side_forced=True)
        for step in range(70):
            _act(journal, rng)
            states.append((step, _state(journal)[:2]))
            count = len([file for file in disk.forced if not file.exists()])
            if rng.random() < 0.15:
                await journal.tidy()
            tidied = len([file for file in disk.seen if not file.exists()]) > count
            if rng.random() < 0.15:
                await journal.make_durable()
                durable = step
                disk.force()
            disk.look(side_forced=tidied)
            if step > 5 and rng.random() < 0.4:
                with open_journal(disk.cut(rng)) as other:
                    check_journal(other)
                    found = _state(other)[:2]
                assert found in [state for at, state in states if at >= durable], (seed, step)
    if any(path.parent.glob("cut-*/*.damaged-*")):
        expect_log("the log of the journal is damaged")
