"""The state that the log says, in memory. A transaction and a replay of the log alter it by the same operations.

Invariant: nothing but an operation that is in the log alters it, *because* a replay must come to the same.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from kvfs.journal.facts import LocalFacts
from kvfs.journal.index import Index
from kvfs.journal.records import (
    Acknowledged,
    Attempted,
    DropDirectory,
    DropNamespace,
    DropRow,
    Failed,
    LogOperation,
    SeenOp,
    SetAttrs,
    SetDirectory,
    SetRow,
    SettledOp,
)
from kvfs.journal.rules import Content, Row, acknowledged, attempted, failed, with_attrs


class Recorded:
    """Changes are in `index`, what is kept of keys without a change, directories and namespaces in `kept`.

    `on_content` is told of the contents that a row had and has, where these differ.
    """

    def __init__(self, kept: LocalFacts) -> None:
        self.index = Index()
        self.kept = kept
        self.on_content: Callable[[Content | None, Content | None], None] = lambda before, after: None

    def apply(self, operations: Iterable[LogOperation]) -> None:
        """Follow the log. KeyError for the number of a change that is not there."""
        for operation in operations:
            _APPLY[type(operation)](self, operation)

    def _set_row(self, operation: SetRow) -> None:
        row = operation.row
        old = self.index.put(row)
        if old is None:
            self.kept.has_change((row.change.namespace, row.change.key))
        self._exchange(old, row)

    def _exchange(self, old: Row | None, new: Row | None) -> None:
        before, after = old.content if old is not None else None, new.content if new is not None else None
        if before is not after:
            self.on_content(before, after)

    def _remove(self, row: Row) -> None:
        self.index.remove(row)
        self._exchange(row, None)

    def _drop_row(self, operation: DropRow) -> None:
        row = self.index.get(operation.namespace, operation.key)
        if row is not None:
            self._remove(row)
        self.kept.set_file((operation.namespace, operation.key), operation.attrs)

    def _set_attrs(self, operation: SetAttrs) -> None:
        row = self.index.get(operation.namespace, operation.key)
        if row is not None:
            self.index.put(with_attrs(row, operation.attrs))
            if operation.is_visible:
                self.kept.generation.bump()
        else:
            place = (operation.namespace, operation.key)
            self.kept.set_file(place, operation.attrs, is_visible=operation.is_visible)

    def _set_directory(self, operation: SetDirectory) -> None:
        self.kept.set_directory(operation.namespace, operation.row)

    def _drop_directory(self, operation: DropDirectory) -> None:
        self.kept.drop_directory(operation.namespace, operation.prefix, operation.start)

    def _see(self, operation: SeenOp) -> None:
        self.kept.seen[operation.namespace] = operation.at

    def _drop_namespace(self, operation: DropNamespace) -> None:
        for row in list(self.index.rows.get(operation.namespace, {}).values()):
            self._remove(row)
        self.kept.drop_namespace(operation.namespace)

    def _attempted(self, operation: Attempted) -> None:
        for seq in operation.seqs:
            row = self.index.pending[seq]
            self.index.advance(row, attempted(row.change))

    def _failed(self, operation: Failed) -> None:
        for seq in operation.seqs:
            row = self.index.pending[seq]
            self.index.advance(row, failed(row.change, operation.failure))

    def _acknowledged(self, operation: Acknowledged) -> None:
        for seq in operation.seqs:
            row = self.index.pending[seq]
            self.index.advance(row, acknowledged(row.change, operation.at))

    def _settled(self, operation: SettledOp) -> None:
        for seq in operation.seqs:
            row = self.index.settling[seq]
            self._remove(row)
            self.kept.settled((row.change.namespace, row.change.key), row.attrs)


_APPLY: Final[dict[type[LogOperation], Callable[[Recorded, Any], None]]] = {
    SetRow: Recorded._set_row,
    DropRow: Recorded._drop_row,
    SetAttrs: Recorded._set_attrs,
    SetDirectory: Recorded._set_directory,
    DropDirectory: Recorded._drop_directory,
    SeenOp: Recorded._see,
    DropNamespace: Recorded._drop_namespace,
    Attempted: Recorded._attempted,
    Failed: Recorded._failed,
    Acknowledged: Recorded._acknowledged,
    SettledOp: Recorded._settled,
}
