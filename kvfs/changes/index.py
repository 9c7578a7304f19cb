"""The index: the newest change of each key, in memory, by place, by state and by number.

Invariants (a check of the tests recomputes them from the log):
- `rows` has every change that the log says is there, and nothing else. It is altered only after the log was.
- `live` has the keys of those that are puts, `dead` of the others, sorted.
- `by_state` is a partition of the rows.
- `waiting[seq]` are the places of the tombstones whose `waits_for` is seq.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sortedcontainers import SortedList

from kvfs.changes.authors import Authors
from kvfs.changes.rules import Row
from kvfs.changes.tally import ChangeTally
from kvfs.core.generation import Generation
from kvfs.core.model import ChangeState, Key, KeyRef, NamespaceId, Seq
from kvfs.core.numbered import Numbered

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

    def __init__(self, generation: Generation) -> None:
        """`generation` is bumped when a key may answer otherwise than before."""
        self.rows: dict[NamespaceId, dict[Key, Row]] = {}
        self.live: dict[NamespaceId, SortedList[Key]] = {}
        self.dead: dict[NamespaceId, SortedList[Key]] = {}
        self._new_keys: Callable[[], Any] = (
            set  # while the log is read: sorting each costs as much as all the rest
        )
        self.by_state: dict[ChangeState, Numbered[Row]] = {state: Numbered() for state in ChangeState}
        self.pending = self.by_state[ChangeState.PENDING]
        self.rejected = self.by_state[ChangeState.REJECTED]
        self.settling = self.by_state[ChangeState.SETTLING]
        self.waiting: dict[Seq, set[KeyRef]] = {}
        self.authors = Authors()
        self.tally = ChangeTally()
        self.pending_bytes = 0
        self.inline_bytes = 0  # bytes of the contents in the log that a row has
        self.count = 0
        self.generation = generation
        self.last_seq = Seq(0)

    def sort(self) -> None:
        """Bring the keys into their order, because all of the log was read."""
        self._new_keys = SortedList
        for by_namespace in (self.live, self.dead):
            for namespace, keys in by_namespace.items():
                by_namespace[namespace] = SortedList(keys)
        self.tally = ChangeTally()
        for row in self.pending.values():
            self.tally.enter(row)
        for row in (*self.pending.values(), *self.rejected.values()):
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
        """Return every row."""
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
        rows = self.rows.get(namespace)
        if not rows:
            return False
        row = rows.get(Key(prefix))
        if row is not None and row.content is not None:  # most often, while files are found or removed
            return True
        live = self.live[namespace]
        if not live or live[-1] < prefix:  # most often, while names are made in order
            return False
        first = next(live.irange(prefix), None)  # no position is asked for: these cost after a change
        return first is not None and first.startswith(prefix)

    def puts_under(self, namespace: NamespaceId, prefix: str) -> Iterator[Row]:
        """Yield the puts of keys that start with `prefix`, in key order. The index must not change meanwhile.

        Tombstones cost nothing, nor does what is not taken.
        """
        rows = self.rows.get(namespace, {})
        for key in _under(self.live.get(namespace), prefix, prefix):
            yield rows[key]

    # operations of the log

    def put(self, row: Row) -> Row | None:
        """Put the row in its place; return the one that was there."""
        rows = self.rows.get(row.namespace)
        if rows is None:
            rows = self._begin(row.namespace)
        old = rows.get(row.key)
        rows[row.key] = row
        is_kept = is_same = False
        if old is None:
            self._keys(row).add(row.key)
            self.count += 1
        else:
            if (old.content is None) is not (row.content is None):
                self._keys(old).remove(row.key)
                self._keys(row).add(row.key)
            is_same = old.seq == row.seq
            is_kept = is_same and old.state is row.state
            self._leave(old, is_kept=is_kept)
        if not is_same:
            self.generation.bump()  # else it is the state of a change, which answers as before
        self._enter(row, is_kept=is_kept)
        return old

    def remove(self, row: Row) -> None:
        """Remove the row of a key."""
        del self.rows[row.namespace][row.key]
        self._keys(row).remove(row.key)
        self.count -= 1
        self._leave(row)
        self.generation.bump()

    def _keys(self, row: Row) -> "SortedList[Key]":
        return (self.dead if row.content is None else self.live)[row.namespace]

    def _begin(self, namespace: NamespaceId) -> dict[Key, Row]:
        rows = self.rows[namespace] = {}
        self.live[namespace], self.dead[namespace] = self._new_keys(), self._new_keys()
        return rows

    def _enter(self, row: Row, *, is_kept: bool = False) -> None:
        """Put a row into its order.

        With `is_kept` its number was there before in the same state, and has its place already.
        """
        self.by_state[row.state][row.seq] = row
        if row.error or row.failed is not None:
            self.tally.fail(row)
        if row.waits_for is not None:
            self.waiting.setdefault(row.waits_for, set()).add(row.place)
        if is_kept:
            return
        if row.state is ChangeState.PENDING:
            self.pending_bytes += row.size
            self.tally.enter(row)
        if row.content is not None and row.content.spool is None:
            self.inline_bytes += row.size
        if row.seq > self.last_seq:
            self.last_seq = row.seq
        self.authors.note(row.seq)

    def _leave(self, row: Row, *, is_kept: bool = False) -> None:
        """Take a row out of its order.

        With `is_kept` its number is entered again in the same state, at its place in the order.
        """
        if row.error or row.failed is not None:
            self.tally.mend(row)
        if row.waits_for is not None:
            places = self.waiting[row.waits_for]
            places.discard(row.place)
            if not places:
                del self.waiting[row.waits_for]
        if is_kept:
            return
        del self.by_state[row.state][row.seq]
        if row.state is ChangeState.PENDING:
            self.pending_bytes -= row.size
            self.tally.leave(row)
        if row.content is not None and row.content.spool is None:
            self.inline_bytes -= row.size
