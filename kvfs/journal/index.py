"""The index: the newest change of each key, in memory, by place, by state and by number.

Invariants (a check of the tests recomputes them from the log):
- `rows` has every change that the log says is there, and nothing else. It is altered only after the log was.
- `live` has the keys of those that are puts, `dead` of the others, sorted.
- `by_state` is a partition of the rows; `pending` is in the order of the numbers, *because* every change that comes to
  be pending takes a number above all before.
- `waiting[seq]` are the places of the tombstones whose `waits_for` is seq.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sortedcontainers import SortedDict, SortedList

from kvfs.core.callers import current
from kvfs.core.generation import Generation
from kvfs.core.model import Change, ChangeState, Key, KeyRef, NamespaceId, Seq
from kvfs.journal.authors import Authors
from kvfs.journal.rules import Row, with_change
from kvfs.journal.tally import ChangeTally

__all__ = ["Index", "KeyRef"]


def _under(keys: "SortedList[Key] | None", prefix: str, start: str) -> Iterator[Key]:
    """Yield the sorted keys that start with `prefix`, from `start` on, without positions: these cost after a change."""
    for key in keys.irange(start) if keys is not None else ():
        if not key.startswith(prefix):
            return
        yield key


class Index:
    """Rows by place, by state and by number. No rules: what a change on top of another amounts to is in `rules`.

    It is asked only after `sort`.
    """

    def __init__(self) -> None:
        self.rows: dict[NamespaceId, dict[Key, Row]] = {}
        self.live: dict[NamespaceId, SortedList[Key]] = {}
        self.dead: dict[NamespaceId, SortedList[Key]] = {}
        self._new_keys: Callable[[], Any] = (
            set  # while the log is read: sorting each costs as much as all the rest
        )
        self.pending: dict[Seq, Row] = {}
        self.rejected: SortedDict[Seq, Row] = SortedDict()
        self.settling: dict[Seq, Row] = {}
        self.by_state: dict[ChangeState, dict[Seq, Row]] = {
            ChangeState.PENDING: self.pending,
            ChangeState.REJECTED: self.rejected,
            ChangeState.SETTLING: self.settling,
            ChangeState.LOCAL: {},
        }
        self.waiting: dict[Seq, set[KeyRef]] = {}
        self.authors = Authors()
        self.tally = ChangeTally()
        self.pending_bytes = 0
        self.inline_bytes = 0  # bytes of the contents in the log that a row has
        self.count = 0
        self.generation = Generation()  # of what a key answers
        self.last_seq = Seq(0)

    def sort(self) -> None:
        """Bring keys and numbers into their order, because all of the log was read."""
        self._new_keys = SortedList
        for by_namespace in (self.live, self.dead):
            for namespace, keys in by_namespace.items():
                by_namespace[namespace] = SortedList(keys)
        for by_seq in self.by_state.values():
            rows = sorted(by_seq.items())
            by_seq.clear()
            by_seq.update(rows)
        self.tally = ChangeTally()
        for row in self.pending.values():
            self.tally.enter(row)
        for row in (*self.pending.values(), *self.rejected.values()):
            if row.change.error:
                self.tally.fail(row)

    def next_seq(self) -> Seq:
        """Return a number above all before it."""
        self.last_seq = Seq(self.last_seq + 1)
        return self.last_seq

    def get(self, namespace: NamespaceId, key: Key) -> Row | None:
        """Return the row at a place."""
        rows = self.rows.get(namespace)
        return rows.get(key) if rows is not None else None

    def all(self) -> list[Row]:
        """Yield every row."""
        return [row for rows in self.rows.values() for row in rows.values()]

    def under(
        self, namespace: NamespaceId, prefix: str, start: str = "", most: int | None = None
    ) -> list[Key]:
        """Return the keys that start with `prefix` and have a row, in order; from `start` on, and `most` at most."""
        start = max(start, prefix)
        found = list(islice(_under(self.live.get(namespace), prefix, start), most))
        dead = list(islice(_under(self.dead.get(namespace), prefix, start), most))
        return sorted(found + dead)[:most] if found and dead else found or dead

    def any_under(self, namespace: NamespaceId, prefix: str) -> bool:
        """Return whether a put of a key that starts with `prefix` is here; tombstones cost nothing."""
        live = self.live.get(namespace)
        if not live or live[-1] < prefix:  # most often, while names are made in order
            return False
        return next(_under(live, prefix, prefix), None) is not None

    # operations of the log

    def put(self, row: Row) -> Row | None:
        """Put a row in its place; return the one that was there."""
        change = row.change
        rows = self.rows.get(change.namespace)
        if rows is None:
            rows = self._begin(change.namespace)
        old = rows.get(change.key)
        is_kept = False
        if old is None:
            (self.dead if row.content is None else self.live)[change.namespace].add(change.key)
            self.generation.bump()
        else:
            is_kept = old.change.seq == change.seq and old.change.state is change.state
            self._leave(old, is_kept=is_kept)
            if (old.content is None) is not (row.content is None):
                self._keys(old).remove(change.key)
                self._keys(row).add(change.key)
            if old.change.seq != change.seq:  # else only what became of the same change: it answers as before
                self.generation.bump()
        rows[change.key] = row
        self._enter(row, is_kept=is_kept)
        return old

    def advance(self, old: Row, change: Change) -> Row:
        """Replace a row's change by its next state. The number and the place in an order stay."""
        row = with_change(old, change)
        before, state = old.change.state, change.state
        if state is not before:
            del self.by_state[before][change.seq]
            if before is ChangeState.PENDING:
                self.pending_bytes -= change.size
                self.tally.leave(old)
            if old.change.error:
                self.tally.mend(old)
        self.by_state[state][change.seq] = row
        self.rows[change.namespace][change.key] = row
        return row

    def remove(self, row: Row) -> None:
        """Remove the row of a key."""
        change = row.change
        del self.rows[change.namespace][change.key]
        self._keys(row).remove(change.key)
        self._leave(row)
        self.generation.bump()

    def _keys(self, row: Row) -> "SortedList[Key]":
        return (self.dead if row.content is None else self.live)[row.change.namespace]

    def _begin(self, namespace: NamespaceId) -> dict[Key, Row]:
        rows = self.rows[namespace] = {}
        self.live[namespace], self.dead[namespace] = self._new_keys(), self._new_keys()
        return rows

    def _enter(self, row: Row, *, is_kept: bool = False) -> None:
        """Put a row into its order.

        With `is_kept` its number was there before in the same state, and has its place already.
        """
        change, state = row.change, row.change.state
        self.count += 1
        if state is ChangeState.PENDING:
            self.pending_bytes += change.size
            if not is_kept:
                self.tally.enter(row)
        if row.content is not None and row.content.spool is None:
            self.inline_bytes += change.size
        self.by_state[state][change.seq] = row
        if change.seq > self.last_seq:
            self.last_seq = change.seq
        caller = current()
        self.authors.note(change.seq, caller if caller is not None and caller.pid else None)
        if change.error:
            self.tally.fail(row)
        if row.waits_for is not None:
            self.waiting.setdefault(row.waits_for, set()).add((change.namespace, change.key))

    def _leave(self, row: Row, *, is_kept: bool = False) -> None:
        """Take a row out of its order.

        With `is_kept` its number is entered again in the same state, at its place in the order.
        """
        change, state = row.change, row.change.state
        self.count -= 1
        if state is ChangeState.PENDING:
            self.pending_bytes -= change.size
            if not is_kept:
                self.tally.leave(row)
        if row.content is not None and row.content.spool is None:
            self.inline_bytes -= change.size
        if not is_kept:
            del self.by_state[state][change.seq]
        if change.error:
            self.tally.mend(row)
        if row.waits_for is not None:
            places = self.waiting[row.waits_for]
            places.discard((change.namespace, change.key))
            if not places:
                del self.waiting[row.waits_for]
