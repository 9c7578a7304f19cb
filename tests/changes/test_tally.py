"""Counts that the journal keeps while changes come and go. `check_journal` recomputes them from all changes."""

from hypothesis import given
from hypothesis import strategies as st
from support.journal_check import check_journal, tally_faults
from support.journals import NS, open_journal

from kvfs.changes import authors as authors_module
from kvfs.changes.authors import Authors
from kvfs.core.callers import Caller, done_for
from kvfs.core.model import Key, Seq

WHAT = ["put", "send", "delete", "reject", "retry", "fail", "fail to send"]
STEPS = st.lists(
    st.tuples(st.sampled_from(WHAT), st.sampled_from("abcd"), st.integers(-5, 5)),
    max_size=40,
)


@given(STEPS)
def test_the_oldest_change_is_found_whatever_came_in_between(tmp_path_factory, steps) -> None:
    """Files are written anew before they were sent, the clock is set back, and changes leave in any order."""
    now = [1000.0]
    path = tmp_path_factory.mktemp("tally") / "journal.db"
    with open_journal(path, now=lambda: now[0]) as journal:
        for what, name, seconds in steps:
            now[0] += seconds
            key = Key(name)
            change = journal.get(NS, key)
            if what == "put":
                body = journal.stage(name.encode())
                journal.record_put(NS, key, body, metadata=None, expiration=None, base=None)
            elif change is None:
                continue
            elif what == "send":
                journal.mark_attempted([change.seq])
                journal.ack([change.seq], now[0])
            elif what == "delete":
                journal.record_delete(NS, key, base=None)
            elif what == "reject":
                journal.reject(change.seq, name)
            elif what == "retry":
                journal.retry(NS, key)
            elif what == "fail to send":
                journal.note_failure([change.seq], str(seconds), now[0])
            else:
                journal.set_error([change.seq], str(seconds))
            assert not list(tally_faults(journal._transactions.index))
            waiting = [journal.outbox.row(one.seq).since for one in journal.pending()]
            assert journal.totals.oldest_pending_at == min(waiting, default=None)
        check_journal(journal)


def test_who_made_a_change_is_known_by_runs_of_numbers(monkeypatch) -> None:
    """Each number has its caller; of more runs than are kept the oldest are nobody's."""
    monkeypatch.setattr(authors_module, "MOST", 4)
    one, other, authors = Caller(1, 0, "one"), Caller(2, 0, "other"), Authors()
    made = [one, one, None, other, one, one]
    for number, caller in enumerate(made, start=1):
        with done_for(caller):
            authors.note(Seq(number))
        with done_for(other):
            authors.note(Seq(1))  # an earlier one is not its making
    assert [authors.of(Seq(number)) for number in range(8)] == [None, *made, None]
    for number in range(7, 9):
        with done_for((one, other)[number % 2]):
            authors.note(Seq(number))
    assert [authors.of(Seq(number)) for number in (1, 8)] == [None, one]
