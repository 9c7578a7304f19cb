"""The cut: the state of the log up to a record, and the records of a snapshot, which say the same in fewer bytes."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from kvfs.changes.records import DropNamespace, End, LogOperation, SeenOp, SetAttrs, SetDirectory, SetRow
from kvfs.changes.rules import Row
from kvfs.core.model import KeyRef, NamespaceId, Seq
from kvfs.kept.local import DirRow, LocalAttrs

_GROUP: Final = 64  # rows a record

T = TypeVar("T")


class Cut(Struct):
    """The state up to the record `last`: taken by the loop, written by a thread. Its rows never change.

    `number` is that of the snapshot's segment.
    """

    number: int
    last: int
    last_seq: Seq
    rows: list[Row]
    directories: list[tuple[NamespaceId, DirRow]]
    seen: list[tuple[NamespaceId, int]]
    files: list[tuple[KeyRef, LocalAttrs | None]] = []
    dropped: list[NamespaceId] = []

    def records(self) -> Iterator[list[LogOperation]]:
        """Yield the operations of each record; `End` is the last of all."""
        if self.dropped:
            yield [DropNamespace(namespace) for namespace in self.dropped]
        for rows in _groups(self.rows):
            yield [SetRow(row) for row in rows]
        for directories in _groups(self.directories):
            yield [SetDirectory(*one) for one in directories]
        for files in _groups(self.files):
            yield [SetAttrs(*place, attrs) for place, attrs in files]
        yield [*(SeenOp(*one) for one in self.seen), End(self.last_seq)]


def _groups(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _GROUP] for start in range(0, len(items), _GROUP))
