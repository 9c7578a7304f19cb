"""The records of the log: lists of operations, and the state in memory that they alter.

Each operation states a result, never an intent. A transaction and a replay of the log apply it alike, so that the
rules of `rules.py` may change without making an old log say something else. Nothing but an operation that is in the
log alters the state, *because* a replay must come to the same.

Contents are not in the operations: a `SetRow` whose content is neither in the spool nor known from an earlier
operation has its bytes behind the operations of its record, in their order.

The numbers of the kinds and the order of the fields are the format: a change of either takes a new
`VERSION` (`log/segment`); a new field at the end with a default does not.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kvfs.changes.index import Index
from kvfs.changes.rules import Content, Row, acknowledged
from kvfs.core.model import Failure, Key, NamespaceId, Seq
from kvfs.kept.facts import LocalFacts
from kvfs.kept.local import DirRow, LocalAttrs


class Recorded:
    """Changes are in `index`, what is kept of keys without a change, directories and namespaces in `kept`.

    `on_content` is told of the contents that a row had and has, where these differ.
    """

    def __init__(
        self, kept: LocalFacts, on_content: Callable[[Content | None, Content | None], None] | None = None
    ) -> None:
        self.index = Index(kept.generation)
        self.kept = kept
        self._on_content = on_content

    def exchange(self, old: Row | None, new: Row | None) -> None:
        """Tell of the contents of a row that took another's place."""
        before, after = old.content if old is not None else None, new.content if new is not None else None
        if before is not after and self._on_content is not None:
            self._on_content(before, after)

    def remove(self, row: Row) -> None:
        """Remove the change of a key."""
        self.index.remove(row)
        self.exchange(row, None)


class SetRow(Struct, tag=0, array_like=True, frozen=True, gc=False):
    """The key has this change now, in place of the one it had."""

    row: Row

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        row = self.row
        old = state.index.put(row)
        if old is None:
            state.kept.has_change(row.place)
        if old is not None or (row.content is not None and row.content.spool is not None):
            state.exchange(old, row)


class DropRow(Struct, tag=1, array_like=True, frozen=True, gc=False):
    """The key has no change any more; `attrs` are its attributes without one."""

    namespace: NamespaceId
    key: Key
    attrs: LocalAttrs | None = None

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        if (row := state.index.get(self.namespace, self.key)) is not None:
            state.remove(row)
        state.kept.set_file((self.namespace, self.key), self.attrs)


class SetAttrs(Struct, tag=2, array_like=True, frozen=True, gc=False):
    """These attributes are kept of the key, with its change or without; None: nothing."""

    namespace: NamespaceId
    key: Key
    attrs: LocalAttrs | None
    is_visible: bool = True  # stat(2) shows something else than before

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        row = state.index.get(self.namespace, self.key)
        if row is None:
            state.kept.set_file((self.namespace, self.key), self.attrs, is_visible=self.is_visible)
            return
        state.index.put(replace(row, attrs=self.attrs))
        if self.is_visible:
            state.kept.generation.bump()


class SetDirectory(Struct, tag=3, array_like=True, frozen=True, gc=False):
    """The directory is made, or has these attributes."""

    namespace: NamespaceId
    row: DirRow

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        state.kept.set_directory(self.namespace, self.row)


class DropDirectory(Struct, tag=4, array_like=True, frozen=True, gc=False):
    """The directory is no longer one that mkdir made."""

    namespace: NamespaceId
    prefix: str
    start: int

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        state.kept.drop_directory(self.namespace, self.prefix, self.start)


class SeenOp(Struct, tag=5, array_like=True, frozen=True, gc=False):
    """This machine saw the namespace first then (epoch seconds)."""

    namespace: NamespaceId
    at: int

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        state.kept.seen[self.namespace] = self.at


class DropNamespace(Struct, tag=6, array_like=True, frozen=True, gc=False):
    """Nothing is kept of the namespace: changes, attributes, directories."""

    namespace: NamespaceId

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        for row in list(state.index.rows.get(self.namespace, {}).values()):
            state.remove(row)
        state.kept.drop_namespace(self.namespace)


class Attempted(Struct, tag=7, array_like=True, frozen=True, gc=False):
    """A request that may carry these pending changes is about to leave."""

    seqs: list[Seq]

    def apply(self, state: Recorded) -> None:
        """Alter the state. KeyError for the number of a change that is not there."""
        for seq in self.seqs:
            state.index.put(replace(state.index.pending[seq], attempted=True))


class Acknowledged(Struct, tag=8, array_like=True, frozen=True, gc=False):
    """The store took these pending changes, at epoch seconds."""

    seqs: list[Seq]
    at: float

    def apply(self, state: Recorded) -> None:
        """Alter the state. KeyError for the number of a change that is not there."""
        for seq in self.seqs:
            state.index.put(acknowledged(state.index.pending[seq], self.at))


class SettledOp(Struct, tag=9, array_like=True, frozen=True, gc=False):
    """The store answers for the keys of these; their attributes are in the side table."""

    seqs: list[Seq]

    def apply(self, state: Recorded) -> None:
        """Alter the state. KeyError for the number of a change that is not there."""
        for seq in self.seqs:
            row = state.index.settling[seq]
            state.remove(row)
            state.kept.settled(row.place, row.attrs)


class End(Struct, tag=10, array_like=True, frozen=True, gc=False):
    """The last record of a snapshot: all of it is there. `last_seq` is the newest change's number so far."""

    last_seq: Seq

    def apply(self, state: Recorded) -> None:
        """Alter the state."""
        state.index.last_seq = Seq(max(state.index.last_seq, self.last_seq))


class Failed(Struct, tag=11, array_like=True, frozen=True, gc=False):
    """A try to send these pending changes failed."""

    seqs: list[Seq]
    failure: Failure

    def apply(self, state: Recorded) -> None:
        """Alter the state. KeyError for the number of a change that is not there."""
        for seq in self.seqs:
            state.index.put(replace(state.index.pending[seq], failed=self.failure))


LogOperation = (
    SetRow
    | DropRow
    | SetAttrs
    | SetDirectory
    | DropDirectory
    | SeenOp
    | DropNamespace
    | Attempted
    | Acknowledged
    | SettledOp
    | End
    | Failed
)

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(list[LogOperation]).decode
DecodeError = msgspec.DecodeError
