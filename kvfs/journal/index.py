"""The tables `changes` and `bodies` and their image in memory, kept equal: all that alters either is here.

A transaction that fails puts the image back as it was; one that is committed is in the file. No meaning: what
a change on top of another amounts to is in `merging`, who may ask for it in `recording` and `outbox`.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Final

from msgspec.structs import replace
from sortedcontainers import SortedList

from kvfs.core.afterwards import Afterwards
from kvfs.core.errors import JournalError, JournalUnreadableError
from kvfs.core.model import Change, ChangeKind, ChangeState, Key, NamespaceId, Seq
from kvfs.journal.attributes import Attributes, LocalAttrs, file_columns
from kvfs.journal.contents import Bodies
from kvfs.journal.rules import Row
from kvfs.journal.tables import Tables, Write, Writes

_COLUMNS: Final = (
    "namespace, key, seq, kind, state, changes.size, metadata, expiration, base, attempted, recorded_at,"
    " acked_at, error, body, may_exist, ancestors, waits_for, guarded"
)
LOAD: Final = f"SELECT {_COLUMNS}, digest FROM changes LEFT JOIN bodies ON bodies.id = body ORDER BY seq"
_Record = tuple[
    str, str, int, str, str, int, bytes | None, int | None, bytes | None, int, float,
    float | None, str | None, int | None, int, bytes, int | None, int, bytes | None,
]  # fmt: skip

LOST: Final = (
    "its content did not survive a power failure"  # the error of a change whose spooled file is gone
)

Place = tuple[NamespaceId, Key]
"""Where a row is: at most one for each."""


def columns(row: Row) -> tuple[object, ...]:
    """A row as the table has it."""
    change = row.change
    return (
        change.namespace, change.key, change.seq, change.kind._value_, change.state._value_, change.size,
        change.metadata, change.expiration, change.base, int(change.attempted), change.recorded_at,
        change.acked_at, change.error, row.body, int(row.may_exist), row.ancestors, row.waits_for,
        int(row.guarded),
    )  # fmt: skip


def row_of(record: _Record) -> Row:
    """The inverse of `columns`, of a record of `LOAD`. Raises ValueError for what we never wrote."""
    (namespace, key, seq, kind, state, size, metadata, expiration, base, attempted, recorded_at,
     acked_at, error, body, may_exist, ancestors, waits_for, guarded, digest) = record  # fmt: skip
    change = Change(
        Seq(seq), NamespaceId(namespace), Key(key), ChangeKind(kind), ChangeState(state), size, metadata,
        expiration, base, bool(attempted), recorded_at, acked_at, error,
    )  # fmt: skip
    put = None if waits_for is None else Seq(waits_for)
    return Row(change, body, digest or b"", bool(may_exist), ancestors, put, recorded_at, bool(guarded))


def _under(keys: "SortedList[Key] | None", prefix: str) -> Iterator[Key]:
    """Those of sorted keys that start with `prefix`; without positions in the list, which cost after every change."""
    for key in keys.irange(prefix) if keys is not None else ():
        if not key.startswith(prefix):
            return
        yield key


class Transaction:
    """What `Ledger.transaction` answers, always the same: a generator's context costs as much as a statement."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        self._ledger.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.end(error)


class Ledger:
    """Rows by place, by state and by sequence number.

    Invariants between transactions (`audit.faults` tells the broken ones):
    `rows` holds exactly the table's rows; `live` the keys of those that are puts, `dead` of the others;
    `pending`, `rejected` and `settling` together with the local rows are a partition of them, `pending` in order
    but for rollbacks;
    `waiting[seq]` are the places of the tombstones whose `waits_for` is seq.
    """

    def __init__(self, tables: Tables, path: Path, bodies: Bodies, afterwards: Afterwards) -> None:
        self.tables = tables
        self.afterwards = afterwards
        self._path = path
        self.bodies = bodies
        self.attributes = Attributes(tables, self.transaction)
        tables.on_applied = self._applied
        self.rows: dict[NamespaceId, dict[Key, Row]] = {}
        self.live: dict[NamespaceId, SortedList[Key]] = {}
        self.dead: dict[NamespaceId, SortedList[Key]] = {}
        self.pending: dict[Seq, Row] = {}
        self.rejected: dict[Seq, Row] = {}
        self.settling: dict[Seq, Row] = {}
        self.waiting: dict[Seq, set[Place]] = {}
        self.pending_bytes = 0
        self.changes = 0  # grows whenever a key may answer otherwise than before, time apart
        # told whether rows were altered
        self.on_commit: Callable[[bool], None] = lambda altered: None
        self.by_state: dict[ChangeState, dict[Seq, Row]] = {
            ChangeState.PENDING: self.pending,
            ChangeState.REJECTED: self.rejected,
            ChangeState.SETTLING: self.settling,
            ChangeState.LOCAL: {},
        }
        self.last_seq = Seq(0)
        self._undo: list[tuple[Row | None, Row | None]] = []
        self._depth = 0  # of `with transaction()` inside each other
        self._doomed = False
        self._transaction = Transaction(self)
        self._in_order = True  # False when a rollback put rows back at the end of `pending`

    def load(self) -> None:
        """Fill from the tables. Raises JournalUnreadableError when a row is not of our making."""
        try:
            self.bodies.load()
            for record in self.tables.look(LOAD):
                row = row_of(record)
                self._image(None, row)
                self.last_seq = max(self.last_seq, row.change.seq, row.waits_for or Seq(0))
            self.attributes.load()
        except (sqlite3.Error, JournalError, ValueError, KeyError) as exc:
            raise JournalUnreadableError(
                f"the journal {self._path} cannot be read ({exc}); it is left as it is"
            ) from exc

    def next_seq(self) -> Seq:
        """A number above all before it."""
        self.last_seq = Seq(self.last_seq + 1)
        return self.last_seq

    def get(self, namespace: NamespaceId, key: Key) -> Row | None:
        """The row at a place."""
        rows = self.rows.get(namespace)
        return rows.get(key) if rows is not None else None

    def under(self, namespace: NamespaceId, prefix: str) -> list[Key]:
        """The keys that start with `prefix` and have a row, in order."""
        found = list(_under(self.live.get(namespace), prefix))
        dead = list(_under(self.dead.get(namespace), prefix))
        return sorted(found + dead) if found and dead else found or dead

    def any_under(self, namespace: NamespaceId, prefix: str) -> bool:
        """Whether a put of a key that starts with `prefix` is here; tombstones cost nothing."""
        live = self.live.get(namespace)
        if not live or live[-1] < prefix:  # most often, while names are made in order
            return False
        return next(_under(live, prefix), None) is not None

    def count(self, state: ChangeState) -> int:
        """How many rows are in a state."""
        return len(self.by_state[state])

    def ordered_pending(self) -> Iterable[Row]:
        """The pending rows by sequence number."""
        if not self._in_order:
            rows = sorted(self.pending.items(), key=itemgetter(0))
            self.pending.clear()
            self.pending.update(rows)
            self._in_order = True
        return self.pending.values()

    # transactions

    def transaction(self) -> "Transaction":
        """All or nothing, in the log and in memory; inside another it is part of that one.

        Raises JournalFullError or JournalError when the disk does not take it.
        """
        return self._transaction

    def begin(self) -> None:
        """`with transaction()` begins."""
        if self.afterwards.late:  # what is left of the one before comes first
            self.afterwards.run()
        self._depth += 1

    def end(self, error: BaseException | None) -> None:
        """`with transaction()` ends, with an error or without."""
        if self._depth > 1:
            self._depth -= 1
            if error is not None:
                self._doomed = True  # half of it may be done: the outermost must not commit
            return
        if error is not None:
            self._roll_back()
            return
        try:
            if self._doomed:
                raise JournalError("a part of the transaction failed")
            unused = self.bodies.sweep()
            self.tables.commit()
        except BaseException:
            self._roll_back()
            raise
        self._depth = 0
        altered = bool(self._undo)
        self._undo.clear()
        self.bodies.forget(unused)
        self.attributes.committed()
        self.on_commit(altered)

    def _roll_back(self) -> None:
        self._depth, self._doomed = 0, False
        self.tables.rollback()
        for old, new in reversed(self._undo):
            self._image(new, old)
        self._in_order = self._in_order and not self._undo
        self._undo.clear()
        self.bodies.rolled_back()
        self.attributes.rolled_back()

    def _applied(self, number: int) -> None:
        self.bodies.applied(number)
        self.attributes.applied(number)

    def is_new(self, namespace: NamespaceId, key: Key) -> bool:
        """Whether `insert` will do: no transaction is under way, and the key has no row."""
        return not self._depth and not self.afterwards.late and self.get(namespace, key) is None

    def insert(self, row: Row, value: bytes, attrs: LocalAttrs) -> None:
        """A whole transaction: the put of a small content, of the row's number, under a key that `is_new`.

        Memory follows the log, so there is nothing to undo, and it may follow after the answer. Raises as
        `transaction` does.
        """
        change = row.change
        writes = (
            (Write.PUT_BODY, (row.body, change.size, row.digest, value, None)),
            (Write.PUT_CHANGE, columns(row)),
            (Write.PUT_FILE, file_columns(change.namespace, change.key, attrs)),
        )
        size = self.tables.append(writes)
        self.afterwards(self._inserted, row, value, attrs, writes, size)

    def _inserted(self, row: Row, value: bytes, attrs: LocalAttrs, writes: Writes, size: int) -> None:
        change = row.change
        assert row.body is not None
        self.tables.appended(writes, size)  # first: whatever became of the rest, the tables hear of it
        self.bodies.inserted(row.body, value)
        self._image_new(row)
        self.attributes.inserted(change.namespace, change.key, attrs)
        self.on_commit(True)

    # rows, inside a transaction

    def put(self, row: Row, old: Row | None) -> None:
        """Insert the row or replace `old`, the one at its place.

        What waited for a put there waits for the new one, unless that had landed: then the wait was over.
        """
        change = row.change
        self.tables.add(Write.PUT_CHANGE, columns(row))
        self._apply(old, row)
        if old is not None and not change.is_tombstone and old.change.seq != change.seq and old.awaited:
            self.repoint(old.change.seq, change.seq)

    def update(self, old: Row, change: Change) -> None:
        """What became of a row's change: it is this now, of the same number."""
        new = Row(
            change, old.body, old.digest, old.may_exist, old.ancestors, old.waits_for, old.since, old.guarded
        )
        self.tables.add(Write.PUT_CHANGE, columns(new))
        self._undo.append((old, new))
        if change.state is old.change.state:
            self.by_state[change.state][change.seq] = new
        else:
            self._image_state(old, new)
        self.rows[change.namespace][change.key] = new

    def remove(self, row: Row) -> None:
        """Delete the row."""
        change = row.change
        self.tables.add(Write.DROP_CHANGE, (change.namespace, change.key))
        self._apply(row, None)

    def repoint(self, old: Seq, new: Seq) -> None:
        """Tombstones that wait for the put `old` wait for `new`, which carries its content on."""
        for namespace, key in list(self.waiting.get(old, ())):
            row = self.get(namespace, key)
            if row is not None and row.waits_for == old:
                self._wait_for(row, new)

    def _wait_for(self, row: Row, seq: Seq) -> None:
        new = replace(row, waits_for=seq)
        self.tables.add(Write.PUT_CHANGE, columns(new))
        self._apply(row, new)

    def _apply(self, old: Row | None, new: Row | None) -> None:
        self._undo.append((old, new))
        self._image(old, new)

    def _image(self, old: Row | None, new: Row | None) -> None:
        """Make memory hold `new` where it held `old`. Its own inverse with the two exchanged."""
        if old is None and new is not None:
            self._image_new(new)
            if new.waits_for is not None:
                self._image_waiting(None, new)
            return
        if old is None or new is None or old.change.seq != new.change.seq:
            self.changes += 1  # else only what became of the same change: it answers as before
        self._image_state(old, new)
        self._image_place(old, new)
        body_was = old.body if old is not None else None
        body_is = new.body if new is not None else None
        if body_was != body_is:
            if body_is is not None:
                self.bodies.acquire(body_is)
            if body_was is not None:
                self.bodies.release(body_was)
        if (old and old.waits_for) != (new and new.waits_for):
            self._image_waiting(old, new)

    def _image_new(self, row: Row) -> None:
        """What the rest of `_image` comes to for most, but for waiting: a key that was not here."""
        change = row.change
        self.changes += 1
        if change.state is ChangeState.PENDING:
            self.pending_bytes += change.size
        self.by_state[change.state][change.seq] = row
        rows = self.rows.get(change.namespace)
        if rows is None:
            rows = self._begin(change.namespace)
        rows[change.key] = row
        if row.body is not None:
            self.live[change.namespace].add(change.key)
            self.bodies.acquire(row.body)
        else:
            self.dead[change.namespace].add(change.key)

    def _begin(self, namespace: NamespaceId) -> dict[Key, Row]:
        rows = self.rows[namespace] = {}
        self.live[namespace], self.dead[namespace] = SortedList(), SortedList()
        return rows

    def _keys(self, change: Change) -> "SortedList[Key]":
        """Those that are what a change is: puts or tombstones."""
        return (self.dead if change.is_tombstone else self.live)[change.namespace]

    def _image_state(self, old: Row | None, new: Row | None) -> None:
        if old is not None:
            change = old.change
            if change.state is ChangeState.PENDING:
                self.pending_bytes -= change.size
            if new is None or new.change.state is not change.state or new.change.seq != change.seq:
                del self.by_state[change.state][change.seq]
        if new is not None:
            change = new.change
            if change.state is ChangeState.PENDING:
                self.pending_bytes += change.size
            self.by_state[change.state][change.seq] = new  # in place when it was there: the order stays

    def _image_place(self, old: Row | None, new: Row | None) -> None:
        is_same_kind = old is not None and new is not None and old.change.kind is new.change.kind
        if old is not None and not is_same_kind:
            self._keys(old.change).remove(old.change.key)
        if new is None:
            if old is not None:
                del self.rows[old.change.namespace][old.change.key]
            return
        change = new.change
        rows = self.rows.get(change.namespace)
        if rows is None:
            rows = self._begin(change.namespace)
        rows[change.key] = new
        if not is_same_kind:
            self._keys(change).add(change.key)

    def _image_waiting(self, old: Row | None, new: Row | None) -> None:
        if old is not None and old.waits_for is not None:
            places = self.waiting[old.waits_for]
            places.discard((old.change.namespace, old.change.key))
            if not places:
                del self.waiting[old.waits_for]
        if new is not None and new.waits_for is not None:
            self.waiting.setdefault(new.waits_for, set()).add((new.change.namespace, new.change.key))
