"""Random operations with crashes between them: the view is right, and the store ends up with it.

The store here is a dict. A request may be lost before it arrives, or arrive while its answer is lost; the journal is
closed and opened again at any time. What the user sees (journal over store) must always be what the user did, and
after everything is sent, the store must hold exactly that.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from support.journal_check import check_journal
from support.journals import NS, START, open_journal

from kvfs.core.digest import digest
from kvfs.core.model import ChangeState, Key
from kvfs.journal.writer import Move
from kvfs.kept.local import LocalAttrs

KEYS = st.sampled_from([Key(name) for name in ("a", "b", "d/\0")])
VALUES = st.binary(max_size=3)


class JournalMachine(RuleBasedStateMachine):
    """The machine. `truth` is what the user did; `local` are the keys that are to stay here."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.journal = open_journal(self.directory / "journal.db")
        self.store: dict[Key, bytes] = {}
        self.truth: dict[Key, bytes] = {}
        self.attrs: dict[Key, LocalAttrs] = {}
        self.now = START

    def teardown(self):
        self._drain()
        local = {c.key for c in self.journal.under(NS, "") if c.state is ChangeState.LOCAL}
        assert self.store == {key: value for key, value in self.truth.items() if key not in local}
        assert not local & self.store.keys()
        self.journal.close()
        shutil.rmtree(self.directory)

    def _drain(self):
        for change in self.journal.rejected():
            self.journal.retry(NS, change.key)
        while pending := self.journal.pending():
            puts = [change for change in pending if not change.is_tombstone]
            sendable = puts or [change for change in pending if not self.journal.blocker(change)]
            assert sendable, "a deletion waits for ever"
            for change in sendable:
                self._apply(change)
            self.journal.mark_attempted([change.seq for change in sendable])
            self.journal.ack([change.seq for change in sendable], self.now)

    def _apply(self, change):
        if change.is_tombstone:
            self.store.pop(change.key, None)
        else:
            self.store[change.key] = self.journal.value(change)

    def _base(self, key, known):
        """Return what a caller may know of the store's value: the truth, or nothing."""
        if not known:
            return None
        return digest(self.store[key]) if key in self.store else b""

    @initialize(there=st.dictionaries(KEYS, VALUES))
    def somebody_wrote_before(self, there):
        self.store = dict(there)
        self.truth = dict(there)

    @rule(key=KEYS, value=VALUES, known=st.booleans())
    def put(self, key, value, known):
        body = self.journal.stage(value)
        attrs = LocalAttrs(len(value), 1, 2, 3)
        self.journal.record_put(
            NS, key, body, metadata=None, expiration=None, base=self._base(key, known), attrs=attrs
        )
        self.truth[key], self.attrs[key] = value, attrs

    @rule(key=KEYS, value=VALUES)
    def put_local(self, key, value):
        if key in self.truth:
            return
        body = self.journal.stage(value)
        base = self._base(key, True) if self.journal.get(NS, key) is None else None
        self.journal.record_put(NS, key, body, metadata=None, expiration=None, base=base, local=True)
        self.truth[key] = value

    @rule(key=KEYS, known=st.booleans())
    def delete(self, key, known):
        self.journal.record_delete(NS, key, base=self._base(key, known))
        self.truth.pop(key, None)
        self.attrs.pop(key, None)

    @rule(old=KEYS, new=KEYS, known=st.booleans())
    def move(self, old, new, known):
        if old not in self.truth or old == new:
            return
        change = self.journal.get(NS, old)
        body = None if change else self.journal.stage(self.store[old])
        self.journal.move(
            NS,
            [
                Move(
                    old,
                    new,
                    None,
                    None,
                    body=body,
                    base_old=self._base(old, known),
                    base_new=self._base(new, known),
                )
            ],
        )
        self.truth[new] = self.truth.pop(old)
        self.attrs.pop(new, None)
        if old in self.attrs:
            self.attrs[new] = self.attrs.pop(old)

    @rule(key=KEYS)
    def amend(self, key):
        change = self.journal.get(NS, key)
        if change and not change.is_tombstone:
            self.journal.amend(NS, key, metadata=b"1")
            if key in self.attrs:
                self.attrs[key] = replace(self.attrs[key], ctime_ns=int(START * 10**9))

    @rule(arrives=st.booleans(), acknowledged=st.booleans(), count=st.integers(1, 4))
    def send(self, arrives, acknowledged, count):
        puts = [c for c in self.journal.pending() if not c.is_tombstone]
        changes = puts or [c for c in self.journal.pending() if not self.journal.blocker(c)]
        self.journal.mark_attempted([change.seq for change in changes[:count]])
        for change in changes[:count]:
            if arrives:
                self._apply(change)
                if acknowledged:
                    self.journal.ack([change.seq], self.now)

    @precondition(lambda self: self.journal.pending())
    @rule()
    def reject(self):
        puts = [c for c in self.journal.pending() if not c.is_tombstone]
        if puts:
            self.journal.mark_attempted([puts[0].seq])
            self.journal.reject(puts[0].seq, "no")

    @rule()
    def retry(self):
        for change in self.journal.rejected():
            self.journal.retry(NS, change.key)

    @rule()
    def time_passes(self):
        self.now += 60
        self.journal.settle(self.now, 90)

    @rule(key=KEYS)
    def a_transaction_fails(self, key):
        try:
            with self.journal.transaction():
                self.journal.record_delete(NS, key, base=None)
                self.journal.discard(NS, key)
                self.journal.drop_namespace(NS)
                raise LookupError
        except LookupError:
            pass

    @rule()
    def reopen(self):
        self.journal.close()
        self.journal = open_journal(self.directory / "journal.db")

    @invariant()
    def the_view_is_what_the_user_did(self):
        check_journal(self.journal)
        view = dict(self.store)
        for change in self.journal.under(NS, ""):
            if change.is_tombstone:
                view.pop(change.key, None)
            else:
                view[change.key] = self.journal.value(change)
        assert view == self.truth

    @invariant()
    def attributes_follow_their_keys(self):
        for key, attrs in self.attrs.items():
            assert self.journal.attributes.file_attrs(NS, key) == attrs

    @invariant()
    def the_content_of_a_rename_is_never_nowhere(self):
        for change in self.journal.pending():
            blocker = self.journal.blocker(change)
            if blocker is not None:
                assert not blocker.is_tombstone


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
