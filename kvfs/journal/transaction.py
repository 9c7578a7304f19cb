"""The one door to the log and to memory: a transaction is appended as one record, and then memory follows.

Invariants:
- Nothing in memory is altered before the record is in the log, *because* then a transaction that fails leaves nothing
  to undo. Inside a transaction its own changes are seen by `get` and `attrs_of` alone.
- Memory follows by applying the operations that the record says (`records`), as a replay of the log does.
- No await between the begin of a transaction and its end.
"""

from collections.abc import Callable, Sequence
from types import TracebackType

from msgspec.structs import replace

from kvfs.changes.records import (
    DropDirectory,
    DropRow,
    LogOperation,
    Recorded,
    SetAttrs,
    SetDirectory,
    SetRow,
    encode,
)
from kvfs.changes.rules import Row
from kvfs.core.errors import JournalError
from kvfs.core.model import Key, KeyRef, NamespaceId, Seq
from kvfs.journal.contents import Contents
from kvfs.kept.local import DirRow, LocalAttrs
from kvfs.log.log import Log


class Transactions:
    """Collects operations, appends them, and has memory follow.

    Itself the context that `with` wants, always the same: a generator's costs as much as an append.
    """

    def __init__(self, log: Log, recorded: Recorded, contents: Contents) -> None:
        self.log = log
        self.index = recorded.index
        self.kept = recorded.kept
        self.contents = contents
        self.recorded = recorded
        self.on_commit: Callable[[Sequence[LogOperation]], None] = lambda operations: None
        self.depth = 0  # of `with` inside each other
        self._is_doomed = False
        self._may_use_reserve = False
        self._operations: list[LogOperation] = []  # of the transaction under way
        self._new: list[tuple[Row, bytes]] = []  # and its content
        self._rows: dict[KeyRef, Row | None] = {}  # the rows as they will be after it
        self._attrs: dict[KeyRef, LocalAttrs | None] = {}
        self._waiting: dict[Seq, set[KeyRef]] = {}
        self.then: list[
            Callable[[], None]
        ] = []  # called once all of the transaction is in the log; must not raise
        self.directories: dict[tuple[NamespaceId, str, int], DirRow | None] = {}

    def of_sending(self) -> "Transactions":
        """Return the context of a transaction that sending needs, or that makes room: a full disk does not stop it."""
        if not self.depth:  # else it is a part of the one around it
            self._may_use_reserve = True
        return self

    def __enter__(self) -> None:
        """Begin a transaction, all or nothing; inside another it is part of that one.

        Raises JournalFullError or JournalError at the end when the disk does not take it.
        """
        self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1
        if error is not None:
            self._is_doomed = True  # half of it may be there: the outermost must not commit
        if self.depth:
            return
        is_doomed, self._is_doomed = self._is_doomed, False
        may_use_reserve, self._may_use_reserve = self._may_use_reserve, False
        operations, new, then = self._operations, self._new, self.then
        self._operations, self._new, self.then = [], [], []
        if self._rows or self._attrs or self.directories:
            self._rows, self._attrs, self._waiting, self.directories = {}, {}, {}, {}
        if error is not None:
            return
        if is_doomed:
            raise JournalError("a part of the transaction failed")
        if operations:
            self._append(operations, new, may_use_reserve=may_use_reserve)
            for operation in operations:
                operation.apply(self.recorded)
            self.kept.save_if_due()
            self.on_commit(operations)
        for act in then:
            act()

    # inside a transaction

    def get(self, namespace: NamespaceId, key: Key) -> Row | None:
        """Return the row at a place, as this transaction leaves it."""
        if self._rows:
            place = (namespace, key)
            if place in self._rows:
                return self._rows[place]
        return self.index.get(namespace, key)

    def attrs_of(self, namespace: NamespaceId, key: Key) -> LocalAttrs | None:
        """Return the local attributes of a key, as this transaction leaves them."""
        row = self.get(namespace, key)
        if row is not None:
            return row.attrs
        place = (namespace, key)
        return self._attrs[place] if place in self._attrs else self.kept.file(place)

    def put(self, row: Row, old: Row | None, value: bytes | None = None) -> None:
        """Put the row in place of `old`; `value` is its content if that is new and not in the spool.

        A tombstone that waited for a put there waits for the new one, unless the old one had landed.
        """
        self._operations.append(SetRow(row))
        if value is not None:
            self._new.append((row, value))
        place = row.place
        self._rows[place] = row
        if row.waits_for is not None:
            self._waiting.setdefault(row.waits_for, set()).add(place)
        if old is not None and row.content is not None and old.seq != row.seq and old.awaited:
            self.repoint(old.seq, row.seq)

    def remove(self, row: Row, attrs: LocalAttrs | None = None) -> None:
        """Remove the change of a key; `attrs` are its attributes without one."""
        place = row.place
        self._operations.append(DropRow(*place, attrs))
        self._rows[place] = None
        self._attrs[place] = attrs

    def set_attrs(
        self, namespace: NamespaceId, key: Key, attrs: LocalAttrs | None, *, is_visible: bool = True
    ) -> None:
        """Keep these attributes of a key, with its change or without.

        If not `is_visible`, stat(2) shows the same as before.
        """
        self._operations.append(SetAttrs(namespace, key, attrs, is_visible))
        row, place = self.get(namespace, key), (namespace, key)
        if row is None:
            self._attrs[place] = attrs
        else:
            self._rows[place] = replace(row, attrs=attrs)

    def repoint(self, old: Seq, new: Seq) -> None:
        """Let tombstones that wait for the put `old` wait for `new`, which carries its content on."""
        for place in (*self.index.waiting.get(old, ()), *self._waiting.get(old, ())):
            row = self.get(*place)
            if row is not None and row.waits_for == old:
                self.put(replace(row, waits_for=new), row)

    def set_directory(self, namespace: NamespaceId, prefix: str, start: int, row: DirRow | None) -> None:
        """Make the directory, or give it these attributes; with None it is not made any more."""
        if row is None:
            self._operations.append(DropDirectory(namespace, prefix, start))
        else:
            self._operations.append(SetDirectory(namespace, row))
        self.directories[namespace, prefix, start] = row

    def say(self, operation: LogOperation) -> None:
        """Add an operation that no other of the transaction has to see."""
        self._operations.append(operation)

    # the log

    def _append(
        self, operations: Sequence[LogOperation], new: Sequence[tuple[Row, bytes]], *, may_use_reserve: bool
    ) -> None:
        segment, offset = self.log.append(
            encode(operations),
            [value for _, value in new],
            changes=self.index.count + (1 if len(operations) == 1 else self._new_rows(operations)),
            may_use_reserve=may_use_reserve,
        )
        for row, value in new:
            assert row.content is not None
            row.content.segment, row.content.offset = segment, offset
            offset += len(value)

    def _new_rows(self, operations: Sequence[LogOperation]) -> int:
        """Return how many changes more there are at most after these operations: a rename brings thousands at once."""
        rows = [operation.row for operation in operations if isinstance(operation, SetRow)]
        return max(1, sum(self.index.get(*row.place) is None for row in rows))
