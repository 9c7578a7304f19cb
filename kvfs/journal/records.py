"""The records of the log: lists of operations, each of which states a result, never an intent.

Replaying a record is therefore mechanical: the rules of `rules.py` may change without making an old log say
something else. Contents are not in the operations: a `SetRow` whose content is neither in the spool nor known
from an earlier operation has its bytes behind the operations of its record, in their order.

The numbers of the kinds and the order of the fields are the format: a change of either takes a new
`opening.VERSION`; a new field at the end with a default does not.
"""

from typing import Final

import msgspec
from msgspec import Struct

from kvfs.core.model import Failure, Key, NamespaceId, Seq
from kvfs.journal.local import DirRow, LocalAttrs
from kvfs.journal.rules import Row


class SetRow(Struct, tag=0, array_like=True, frozen=True, gc=False):
    """The key has this change now, in place of the one it had."""

    row: Row


class DropRow(Struct, tag=1, array_like=True, frozen=True, gc=False):
    """The key has no change any more; `attrs` are its attributes without one."""

    namespace: NamespaceId
    key: Key
    attrs: LocalAttrs | None = None


class SetAttrs(Struct, tag=2, array_like=True, frozen=True, gc=False):
    """These attributes are kept of the key, with its change or without; None: nothing."""

    namespace: NamespaceId
    key: Key
    attrs: LocalAttrs | None
    is_visible: bool = True  # stat(2) shows something else than before


class SetDirectory(Struct, tag=3, array_like=True, frozen=True, gc=False):
    """The directory is made, or has these attributes."""

    namespace: NamespaceId
    row: DirRow


class DropDirectory(Struct, tag=4, array_like=True, frozen=True, gc=False):
    """The directory is no longer one that mkdir made."""

    namespace: NamespaceId
    prefix: str
    start: int


class SeenOp(Struct, tag=5, array_like=True, frozen=True, gc=False):
    """This machine saw the namespace first then (epoch seconds)."""

    namespace: NamespaceId
    at: int


class DropNamespace(Struct, tag=6, array_like=True, frozen=True, gc=False):
    """Nothing is kept of the namespace: changes, attributes, directories."""

    namespace: NamespaceId


class Attempted(Struct, tag=7, array_like=True, frozen=True, gc=False):
    """A request that may carry these pending changes is about to leave."""

    seqs: list[Seq]


class Acknowledged(Struct, tag=8, array_like=True, frozen=True, gc=False):
    """The store took these pending changes, at epoch seconds."""

    seqs: list[Seq]
    at: float


class SettledOp(Struct, tag=9, array_like=True, frozen=True, gc=False):
    """The store answers for the keys of these; their attributes are in the side table."""

    seqs: list[Seq]


class End(Struct, tag=10, array_like=True, frozen=True, gc=False):
    """The last record of a snapshot: all of it is there. `last_seq` is the newest change's number so far."""

    last_seq: Seq


class Failed(Struct, tag=11, array_like=True, frozen=True, gc=False):
    """A try to send these pending changes failed."""

    seqs: list[Seq]
    failure: Failure


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
