"""A journal whose tables have a write-ahead log that is cut or garbled somewhere: what is before is there, nothing
is thrown away. (The journal's own log: test_log.py.)"""

import random
from pathlib import Path

from support.journals import open_journal, put, shown, tables_of

from kvfs.core.errors import JournalUnreadableError

RECORDS = 40


def written(path: Path) -> tuple[bytes, bytes, list[int]]:
    """File and log of a journal whose owner was killed, and how long the log was after each record."""
    log = path.with_name("journal.db-wal")
    sizes = []
    journal = open_journal(path)
    for number in range(RECORDS):
        put(journal, f"{number:02}", b"%d" % number * 50)
        tables_of(journal)
        sizes.append(log.stat().st_size)
    content, logged = path.read_bytes(), log.read_bytes()
    journal.close()
    return content, logged, sizes


def reopened(path: Path, content: bytes, logged: bytes) -> tuple[dict[str, bytes | None] | None, list[bytes]]:
    """What a journal of these files shows (None: refused), and the logs that were kept aside."""
    for other in path.parent.glob("journal.db*"):
        if other.is_file():
            other.unlink()
    path.write_bytes(content)
    path.with_name("journal.db-wal").write_bytes(logged)
    found = None
    try:
        with open_journal(path) as journal:
            journal.check_invariants()
            found = shown(journal)
            put(journal, "new", b"new")
            tables_of(journal)  # writes over the log
    except JournalUnreadableError:
        assert path.with_name("journal.db-wal").read_bytes() == logged
    return found, [kept.read_bytes() for kept in path.parent.glob("journal.db-wal.damaged-*")]


def expected(count: int) -> dict[str, bytes]:
    """The first records."""
    return {f"{number:02}": b"%d" % number * 50 for number in range(count)}


def test_a_log_cut_anywhere_gives_every_record_before_the_cut(tmp_path, expect_log):
    """At the ends of records, in the middle of frames, in the head."""
    path = tmp_path / "journal.db"
    content, logged, sizes = written(path)
    rng = random.Random(1)
    cuts = [0, 1, 31, 32, 33, *sizes[::7], *(rng.randrange(len(logged)) for _ in range(40))]
    for cut in cuts:
        found, kept = reopened(path, content, logged[:cut])
        assert found == expected(sum(size <= cut for size in sizes)), cut
        assert kept in ([], [logged[:cut]])
        expect_log("the log of the journal is damaged") if kept else None


def test_a_log_garbled_anywhere_gives_every_record_before_and_keeps_the_rest(tmp_path, expect_log):
    """Or the journal is refused; a log with more in it than can be read is kept whole, and that is said."""
    path = tmp_path / "journal.db"
    content, logged, sizes = written(path)
    rng = random.Random(2)
    expect_log("the log of the journal is damaged")
    for place in [0, 5, 17, 25, 31, *(rng.randrange(len(logged)) for _ in range(60))]:
        spoilt = bytearray(logged)
        spoilt[place] ^= 0x55
        found, kept = reopened(path, content, bytes(spoilt))
        before = sum(size <= place for size in sizes)
        if found is None:
            continue
        assert found.items() >= expected(before).items(), place
        assert found.items() <= expected(RECORDS).items(), place
        if len(found) < RECORDS:
            assert kept == [bytes(spoilt)], place


def test_a_sound_log_leaves_nothing_beside_it(tmp_path):
    """Killed, or closed and written over: no file is kept for nothing."""
    path = tmp_path / "journal.db"
    content, logged, _ = written(path)
    assert reopened(path, content, logged) == (expected(RECORDS), [])
    with open_journal(path) as journal:
        assert shown(journal).keys() == {*expected(RECORDS), "new"}
    assert list(tmp_path.glob("*damaged*")) == []


def test_a_transaction_under_way_at_the_kill_is_no_damage(tmp_path):
    """Frames without their commit are what a crash leaves; nobody was promised them."""
    path = tmp_path / "journal.db"
    content, logged, sizes = written(path)
    assert reopened(path, content, logged[: sizes[-1] - 4096]) in (
        (expected(RECORDS - 1), []),
        (expected(RECORDS), []),
    )


def test_nothing_of_a_refused_journal_is_removed(tmp_path):
    """However the pages are garbled: opened, or refused with every byte where it was."""
    path = tmp_path / "journal.db"
    with open_journal(path) as journal:
        for number in range(200):
            put(journal, f"{number:03}", b"x" * 500)
    content = path.read_bytes()
    rng = random.Random(3)
    for round_ in range(60):
        spoilt = bytearray(content)
        for _ in range(1 + round_ % 20):
            spoilt[rng.randrange(len(spoilt))] ^= rng.randrange(1, 256)
        for other in tmp_path.glob("journal.db*"):
            if other.is_file():
                other.unlink()
        path.write_bytes(spoilt)
        try:
            open_journal(path).close()
        except JournalUnreadableError:
            assert path.read_bytes() == spoilt
