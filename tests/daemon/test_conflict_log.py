"""Open conflicts: kept beside the journal over crashes, and settled when the copy leaves its name."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import NS, START, open_journal

from kvfs.core.model import Key
from kvfs.daemon.conflict_report import ConflictLog
from kvfs.host.open_conflicts import NAME, Conflict, ConflictFile
from kvfs.host.replies import Conflicts
from kvfs.journal.journal import Journal
from kvfs.journal.writer import Move
from kvfs.sender.copynames import copy_key, original_of
from kvfs.sender.events import Event, EventKind

PAGE = Key("a/page")
COPY = copy_key(PAGE, "host", START, lambda key: False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path) as journal:
        yield journal


def put(journal: Journal, key: Key) -> None:
    body = journal.stage(b"mine")
    journal.record_put(NS, key, body, metadata=None, expiration=None, base=b"")


def log_of(journal: Journal) -> ConflictLog:
    return ConflictLog(lambda namespace, key: key, lambda: START, journal)


def met(log: ConflictLog, key: Key = PAGE, copy: Key = COPY) -> None:
    log.note(Event(EventKind.CONFLICT, "changed elsewhere", NS, key, copy))


def test_a_conflict_outlives_the_mount_and_names_both_sides(journal: Journal) -> None:
    """A conflict outlives the mount and names both sides until the copy is deleted; then its file goes too."""
    log = log_of(journal)
    put(journal, COPY)
    met(log)
    again = log_of(journal)
    assert [(one.key, one.copy) for one in again.open()] == [(PAGE, COPY)]
    assert (again.others_of(NS, PAGE), again.others_of(NS, COPY)) == ([COPY], [PAGE])
    assert again.status() == Conflicts(open=1)
    journal.record_delete(NS, COPY, base=None)
    assert again.open() == []
    assert not (journal.path.parent / NAME).exists()


WAYS = {
    "a deletion that is sent": lambda journal: journal.record_delete(NS, COPY, base=None),
    "a deletion before it was sent": lambda journal: journal.record_delete(NS, COPY, base=b""),
    "a rename": lambda journal: journal.move(NS, [Move(COPY, Key("b"), None, None)]),
    "its namespace is deleted": lambda journal: journal.drop_namespace(NS),
    "what was refused is discarded": lambda journal: journal.discard(NS, COPY),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_taking_the_copy_away_settles_it(journal: Journal, way: str) -> None:
    """The mount settles a conflict when its copy is deleted or moved in any way, and leaves another conflict open."""
    log = log_of(journal)
    other = copy_key(Key("other"), "host", START, lambda key: False)
    for key, copy in ((PAGE, COPY), (Key("other"), other)):
        put(journal, copy)
        met(log, key, copy)
    WAYS[way](journal)
    assert [one.copy for one in log.open()] == ([] if "namespace" in way else [other])
    assert [one.copy for one in log_of(journal).open()] == [one.copy for one in log.open()]


def test_a_crash_between_journal_and_file_is_made_up_for(journal: Journal) -> None:
    """A pending copy that the file does not name is open all the same, and so is a copy whose line was cut off."""
    put(journal, COPY)
    assert [(one.key, one.copy) for one in log_of(journal).open()] == [(PAGE, COPY)]
    file = journal.path.parent / NAME
    file.write_text(file.read_text()[:20] + "\n[]\n{}\n\x00\n")
    assert ConflictFile(journal.path).read() == []
    assert [one.copy for one in log_of(journal).open()] == [COPY]


def test_a_copy_that_meets_others_too_is_a_version_of_the_same_name(journal: Journal) -> None:
    """The copy of a copy is listed under the name that both were written to."""
    log = log_of(journal)
    second = copy_key(COPY, "host", START, lambda key: False)
    met(log, COPY, second)
    assert [(one.key, one.copy) for one in log.open()] == [(PAGE, second)]


@pytest.mark.parametrize("key", ["plain", "x.kvfs-conflict-", "x.kvfs-conflict-h-20261129", "é" * 250])
def test_other_names_are_no_copies(key: str) -> None:
    """Only a whole suffix makes a copy, with any host and number; from a name that was cut nothing is concluded."""
    assert original_of(Key(key)) is None
    if len(key.encode()) < 400:
        for taken in (set(), {copy_key(Key(key), "h-1.b", START, lambda copy: False)}):
            assert original_of(copy_key(Key(key), "h-1.b", START, taken.__contains__)) == key
    else:
        assert original_of(copy_key(Key(key), "host", START, lambda copy: False)) is None


def test_half_a_line_never_stays(path: Path, monkeypatch) -> None:
    """A full disk takes nothing of a line, and after a crash the next one begins a line of its own."""
    file = ConflictFile(path)
    first, second = Conflict(NS, PAGE, COPY, START), Conflict(NS, PAGE, Key("other"), START)
    file.append(first)
    write, room = os.write, [5]

    def fill(descriptor, data):
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr("os.write", fill)
        with pytest.raises(OSError, match="No space left"):
            file.append(second)
    assert file.read() == [first]
    with open(path.parent / NAME, "a") as half:
        half.write('{"namespace"')
    file.append(second)
    assert file.read() == [first, second]
