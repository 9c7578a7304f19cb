"""Random operations of all kinds: what a replay of the log comes to is what memory had, with every count of it."""

import shutil
import tempfile
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.journal_check import check_journal
from support.journals import NS, START, open_journal, snapshot

from kvfs.core.model import Key, NamespaceId
from kvfs.journal.writer import Move
from kvfs.kept.local import DirRow, LocalAttrs

OTHER = NamespaceId("o" * 32)
SPACES = st.sampled_from([NS, OTHER])
NAMES = [Key(name) for name in ("a", "b", "c", "d/e", "d/f")]
KEYS = st.sampled_from(NAMES)
MODES = st.sampled_from([None, 1])
VALUES = st.binary(max_size=3)
BASES = st.sampled_from([None, b"", b"b" * 16])
TEXTS = st.sampled_from(["no", "busy"])


def spooled(journal, value):
    """Return a content in a file of the spool."""
    return trio.run(journal.spool, value)


class ReplayMachine(RuleBasedStateMachine):
    """The machine."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.now = START
        self.journal = self.opened()

    def opened(self):
        return open_journal(self.directory / "journal.db", now=lambda: self.now)

    def teardown(self):
        self.journal.close()
        shutil.rmtree(self.directory)

    def _some(self, number, changes=None):
        changes = self.journal.pending() if changes is None else changes
        return changes[number % len(changes)] if changes else None

    @rule(
        space=SPACES,
        key=KEYS,
        value=VALUES,
        base=BASES,
        local=st.booleans(),
        large=st.booleans(),
        mode=MODES,
    )
    def put(self, space, key, value, base, local, large, mode):
        body = spooled(self.journal, value) if large else self.journal.stage(value)
        attrs = LocalAttrs(mode, 1, 2, 3) if mode else None
        self.journal.record_put(
            space, key, body, metadata=None, expiration=None, base=base, local=local, attrs=attrs
        )

    @rule(space=SPACES, key=KEYS, base=BASES, guarded=st.booleans(), keeps=st.booleans())
    def delete(self, space, key, base, guarded, keeps):
        row = DirRow("d/", 2, mode=len(key)) if keeps else None
        self.journal.record_delete(space, key, base=base, guarded=guarded, keeps=row)

    @rule(space=SPACES, old=KEYS, new=KEYS, base=BASES, large=st.booleans(), value=VALUES)
    def move(self, space, old, new, base, large, value):
        if old == new:
            return
        change = self.journal.get(space, old)
        body = None
        if change is None or change.is_tombstone:
            body = spooled(self.journal, value) if large else self.journal.stage(value)
        self.journal.move(space, [Move(old, new, None, None, body=body, base_old=base, base_new=base)])

    @rule(space=SPACES, value=VALUES)
    def move_all(self, space, value):
        moves = [
            Move(Key(o), Key(n), None, None, body=self.journal.stage(value))
            for o, n in (("d/e", "a"), ("d/f", "b"))
        ]
        self.journal.move(space, moves)

    @rule(space=SPACES, key=KEYS)
    def amend(self, space, key):
        change = self.journal.get(space, key)
        if change and not change.is_tombstone:
            self.journal.amend(space, key, metadata=b"1")

    @rule(number=st.integers(0, 9), count=st.integers(1, 3))
    def attempt(self, number, count):
        seqs = [c.seq for c in self.journal.pending()[number % 3 :][:count]]
        self.journal.mark_attempted([*seqs, 99_999])

    @rule(number=st.integers(0, 9), count=st.integers(1, 3))
    def ack(self, number, count):
        seqs = [c.seq for c in self.journal.pending()[number % 3 :][:count]]
        self.journal.ack([*seqs, 99_999], self.now)

    @rule(number=st.integers(0, 9), text=st.sampled_from([None, "no", "busy", ""]))
    def error(self, number, text):
        if one := self._some(number):
            self.journal.set_error([one.seq], text)

    @rule(number=st.integers(0, 9), text=TEXTS)
    def failure(self, number, text):
        if one := self._some(number):
            self.journal.note_failure([*(c.seq for c in self.journal.pending()[:2]), one.seq], text, self.now)

    @rule(number=st.integers(0, 9), text=TEXTS)
    def reject(self, number, text):
        if one := self._some(number):
            self.journal.reject(one.seq, text)

    @rule(space=SPACES)
    def reject_space(self, space):
        self.journal.reject_namespace(space, "gone")

    @rule(number=st.integers(0, 9))
    def retry(self, number):
        if one := self._some(number, self.journal.rejected()):
            self.journal.retry(*one.place)

    @rule(space=SPACES, key=KEYS)
    def discard(self, space, key):
        self.journal.discard(space, key)

    @rule(number=st.integers(0, 9))
    def expire(self, number):
        one = self._some(number)
        if one and not one.is_tombstone:
            self.journal.expire(one)

    @rule(number=st.integers(0, 9), key=KEYS)
    def beside(self, number, key):
        one = self._some(number)
        if one and not one.is_tombstone and one.key != key:
            self.journal.set_beside(one, Key(key + "-copy"))

    @rule(number=st.integers(0, 9))
    def spare(self, number):
        if one := self._some(number):
            self.journal.spare(one)

    @rule(number=st.integers(0, 9))
    def release(self, number):
        if one := self._some(number):
            self.journal.release([one.seq])

    @rule(space=SPACES, key=KEYS, value=st.none() | VALUES, before=st.integers(-100, 100))
    def adopt(self, space, key, value, before):
        body = None if value is None else self.journal.stage(value)
        attrs = None if value is None else LocalAttrs(None, 1, 1, 1, b"12345678")
        self.journal.writer.adopt(
            space, key, body, metadata=None, expiration=None, attrs=attrs, before=self.now + before
        )

    @rule(space=SPACES, key=KEYS, mode=st.integers(0, 7))
    def attributes(self, space, key, mode):
        with self.journal.transaction():
            self.journal._transactions.set_attrs(space, key, LocalAttrs(mode, 1, 2, None))

    @rule(space=SPACES, made=st.booleans())
    def directory_made(self, space, made):
        with self.journal.transaction():
            self.journal._transactions.set_directory(space, "d/", 0, DirRow("d/", 0, 5) if made else None)

    @rule(space=SPACES)
    def drop(self, space):
        self.journal.drop_namespace(space)

    @rule(seconds=st.sampled_from([1, 60, 200, -100]))
    def time_passes(self, seconds):
        self.now += seconds
        self.journal.settle(self.now, 90)

    @rule()
    def rewrite(self):
        trio.run(snapshot, self.journal)

    @rule()
    def tidy(self):
        trio.run(self.journal.tidy)

    @rule()
    def reopen(self):
        before = self.picture()
        self.journal.close()
        self.journal = self.opened()
        assert self.picture() == before

    def picture(self):
        """Return all that a reopened journal has to have as the one before had it."""
        parts = self.journal._transactions
        index, kept, tally = parts.index, parts.kept, parts.index.tally
        without = [(s, k) for s in (NS, OTHER) for k in NAMES if index.get(s, k) is None]
        contents = {row.place: parts.contents.read(row) for row in index.all() if row.content is not None}
        return (
            *([[row.seq for row in rows.values()] for rows in index.by_state.values()], index.waiting),
            *(
                index.pending_bytes,
                index.inline_bytes,
                index.count,
                tally.spaces,
                tally.oldest(index.pending),
            ),
            *({text: sorted(seqs) for text, seqs in by.items()} for by in (tally.errors, tally.failures)),
            *(self.journal.totals.oldest_acked_at, parts.contents.files.needed, contents),
            {place: kept.file(place) for place in without},
            {space: dict(rows) for space, rows in kept.directories.items() if rows},
            kept.seen,
        )

    @invariant()
    def a_replay_comes_to_the_same(self):
        check_journal(self.journal)


TestReplayMachine = ReplayMachine.TestCase
TestReplayMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
