"""The reserve, the room set aside for sending: the records that a full disk still takes, and those it does not."""

import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.journal_check import check_journal
from support.journals import NS, START, keys, open_journal, put, segments, shown, small_disk

from kvfs.changes.records import Acknowledged, Attempted, SettledOp, encode
from kvfs.core.errors import JournalFullError
from kvfs.core.model import Key, Seq
from kvfs.journal.journal import Journal
from kvfs.journal.writer import Move
from kvfs.kept import facts as keeping
from kvfs.kept.local import LocalAttrs
from kvfs.log.reserve import BASE, CHANGE_BYTES, OPENING, STARTING, Reserve, make_way
from kvfs.log.segment import record_head

DISK = BASE + 1024 * 1024
VALUE = b"x" * 20_000


@pytest.fixture
def path(tmp_path) -> Path:
    """Return the place of the journal."""
    return tmp_path / "journal.db"


def fill(journal: Journal, sizes: list[int]) -> dict[str, bytes]:
    """Put values of these sizes until not even an empty one is taken; return those that were."""
    taken: dict[str, bytes] = {}
    for number in range(10_000):
        value = b"x" * sizes[number % len(sizes)]
        try:
            put(journal, f"{number}", value)
        except JournalFullError:
            if not value:
                return taken
            sizes = [0]
            continue
        taken[f"{number}"] = value
    raise AssertionError("the disk was not full")


def send(journal: Journal, *, singly: bool) -> None:
    """Record what the sender records of all pending changes, each by itself or all together, until they settled."""
    seqs = [change.seq for change in journal.pending()]
    for some in [[seq] for seq in seqs] if singly else [seqs]:
        journal.mark_attempted(some)
        journal.ack(some, START)
        journal.set_error(some, "no room for this")
    while journal.settle(START + 90, 90, 1 if singly else None):
        pass


@given(st.integers(1, 2**63 - 1), st.floats(0, 1e12))
def test_what_is_set_aside_for_a_change_is_enough_for_its_way_to_the_store(seq, at):
    """The room set aside for a change is enough for its three records on the way to the store, whatever its number."""
    records = [Attempted([Seq(seq)]), Acknowledged([Seq(seq)], at), SettledOp([Seq(seq)])]
    encoded = [encode([record]) for record in records]
    assert sum(len(record_head(seq, one, [])) + len(one) for one in encoded) <= CHANGE_BYTES


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=5), st.booleans())
def test_all_that_was_taken_can_be_sent_from_a_full_disk(sizes, singly):
    """All changes can be sent from a disk filled in any way, singly or together, and the journal is never full."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        with small_disk(path, BASE + 128 * 1024), open_journal(path) as journal:
            taken = fill(journal, sizes)
            assert shown(journal) == taken
            send(journal, singly=singly)
            assert keys(journal.under(NS, "")) == []
            check_journal(journal)


def test_a_change_never_takes_what_is_set_aside(path):
    """A change never takes the room set aside: without room for its own way to the store it is refused."""
    with small_disk(path, DISK), open_journal(path) as journal:
        reserve = journal._transactions.log.reserve
        taken = fill(journal, [100])
        assert reserve.size >= BASE + CHANGE_BYTES * len(taken)
        for change in (
            lambda: put(journal, "0", VALUE),
            lambda: journal.attributes.set_file_attrs(NS, Key("other"), LocalAttrs(mode=0o600)),
            lambda: journal.record_delete(NS, Key("at the server"), base=None),
        ):
            with pytest.raises(JournalFullError, match="make room"):
                change()
        assert shown(journal) == taken
        assert reserve.size >= BASE + CHANGE_BYTES * len(taken)
        check_journal(journal)


def test_a_full_disk_takes_what_makes_room_or_is_worth_no_error(path):
    """A full disk takes records that make room, as for a file that was never sent.

    The first sight of a namespace is then not kept, without an error.
    """
    with small_disk(path, DISK), open_journal(path) as journal:
        taken = fill(journal, [5_000])
        assert journal.record_delete(NS, Key("0"), base=b"") is None
        assert journal.attributes.namespace_first_seen(NS, START) == START
        journal.reject(journal.pending()[0].seq, "never")
        assert journal.discard(NS, Key("1"))
        assert set(shown(journal)) == taken.keys() - {"0", "1"}
        journal.drop_namespace(NS)
        assert keys(journal.under(NS, "")) == []
        check_journal(journal)


async def test_what_has_settled_makes_room_on_a_full_disk(path):
    """The log is rewritten into the room set aside, which is set aside again before anything new is taken."""
    with small_disk(path, DISK) as left, open_journal(path) as journal:
        reserve = journal._transactions.log.reserve
        fill(journal, [20_000])
        before = reserve.size
        send(journal, singly=True)
        assert reserve.size < before
        await journal.tidy()
        assert len(segments(path)) == 1
        assert reserve.size >= BASE
        assert not reserve.is_short
        assert left() > DISK - BASE - 100_000
        put(journal, "next", VALUE)
        check_journal(journal)


async def test_a_snapshot_that_has_no_room_is_tried_again_when_less_is_alive(path, expect_log):
    """While the live records do not fit, the log stays and sending goes on.

    The snapshot is tried again when fewer are alive.
    """
    expect_log("stays as long as it is for now")
    with small_disk(path, 4 * DISK), open_journal(path) as journal:
        taken = fill(journal, [20_000])
        put_off = len(taken) * 2 // 3
        seqs = [change.seq for change in journal.pending()]
        journal.mark_attempted(seqs)
        journal.ack(seqs[put_off:], START)
        journal.settle(START + 90, 90)
        await journal.tidy()
        assert not journal._upkeep._wants_snapshot()  # not again while as much is alive
        with pytest.raises(JournalFullError):
            put(journal, "next", VALUE)
        journal.ack(seqs[:put_off], START)
        journal.settle(START + 90, 90)
        await journal.tidy()
        put(journal, "next", VALUE)
        check_journal(journal)


async def test_a_snapshot_says_what_the_side_table_has_no_room_for(path, monkeypatch, expect_log):
    """A snapshot keeps modes of files at the server when the side table has no room, also over a remount."""
    expect_log("attributes stay in the journal's log for now")
    monkeypatch.setattr(keeping, "SAVE_COUNT", 10)
    with open_journal(path) as journal:
        journal._transactions.kept._side._db.execute("PRAGMA max_page_count = 1")
        for number in range(500):
            put(journal, f"{number}", attrs=LocalAttrs(mode=number))
        send(journal, singly=False)
        journal.attributes.set_file_attrs(NS, Key("0"), LocalAttrs(mode=0o777))
        await journal._upkeep.snapshot()
        check_journal(journal)
        assert journal.attributes.file_attrs(NS, Key("499")) == LocalAttrs(mode=499)
        expect_log("attributes stay in the journal's log for now")
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, Key("0")) == LocalAttrs(mode=0o777)
        assert journal.attributes.file_attrs(NS, Key("499")) == LocalAttrs(mode=499)


def test_the_reserve_is_private_and_stays_between_mounts(path):
    """The reserve is private and stays between mounts, so a disk that fills up meanwhile does not stop the sending."""
    with open_journal(path) as journal:
        put(journal, "a", VALUE)
    file = path.with_name("journal.db-reserve")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_blocks * 512 >= BASE
    with small_disk(path, sum(one.stat().st_size for one in path.parent.glob("journal.db-*[e0-9]"))) as left:
        assert left() == 0
        with open_journal(path) as journal:
            send(journal, singly=True)
            assert keys(journal.under(NS, "")) == []


@pytest.mark.parametrize(
    ("free", "size", "left"), [(0, 1, BASE - 4096), (0, 5000, BASE - 8192), (OPENING, 1, BASE)]
)
def test_way_is_made_by_what_is_lacking_only(path, free, size, left):
    """Room is made in blocks of the disk, only as much as is lacking, and not at all where there is enough."""
    with small_disk(path, BASE + free):
        reserve = Reserve(path)
        reserve.refill(0)
        reserve.make_way(size)
        assert reserve.size == left
        reserve.close()


def test_a_disk_with_little_room_sets_aside_what_there_is(path):
    """A disk with little room sets aside what there is, and takes nothing new until it has all."""
    with small_disk(path, BASE // 2):
        reserve = Reserve(path)
        reserve.refill(0)
        assert BASE // 2 - 4096 < reserve.size <= BASE // 2
        assert reserve.is_short
        with pytest.raises(OSError, match="No space") as caught:
            reserve.ensure(0)
        assert caught.value.errno == errno.ENOSPC
    reserve.ensure(0)
    assert reserve.size >= BASE
    assert not reserve.is_short
    reserve.close()


def test_a_reserve_that_is_too_large_shrinks(path):
    """A reserve for many changes shrinks when they are at the store."""
    reserve = Reserve(path)
    reserve.ensure(100_000)
    reserve.refill(0)
    assert reserve.size == BASE
    reserve.close()


def test_a_rename_of_many_names_has_room_for_all_of_them(path):
    """A rename of many names is one record, and each of its changes has room for its way to the store before it."""
    with open_journal(path) as journal:
        moves = [
            Move(Key(f"a{number}"), Key(f"b{number}"), None, None, journal.stage(b"x"), b"b" * 16, b"")
            for number in range(500)
        ]
        journal.move(NS, moves)
        assert journal._transactions.index.count == 1000
        assert journal._transactions.log.reserve.enough_for >= 1000


def test_room_that_a_mount_took_which_was_refused_is_set_aside_again(path):
    """Room that a refused mount took is set aside again, because the daemon does not count a hole as room."""
    reserve = Reserve(path)
    reserve.ensure(0)
    with small_disk(path, reserve.size):
        make_way(path, STARTING)
    reserve.ensure(reserve.enough_for + 1)
    assert reserve.path.stat().st_blocks * 512 >= reserve.size == reserve.path.stat().st_size
    reserve.close()


def test_way_is_made_though_the_directory_went_this_very_moment(path):
    """If a sweep removes the directory at that very moment, the mount that starts makes a new one."""
    make_way(path.parent / "gone" / "journal.db", STARTING)
