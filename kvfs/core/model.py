"""The nouns: frozen data that every room may hold. No behaviour beyond what the fields imply."""

from enum import StrEnum
from typing import NewType

from msgspec import Struct

NamespaceId = NewType("NamespaceId", str)
Key = NewType("Key", str)
Seq = NewType("Seq", int)

KeyRef = tuple[NamespaceId, Key]

Metadata = bytes
"""Metadata of a key: the JSON text, UTF-8, as the server sent it or compact when made here.

JSON `null` and "no metadata" are the same to KV and are `None` here.
"""


class Namespace(Struct, frozen=True, gc=False):
    """A namespace of the account. `mode` is "" or what the API says ("instant")."""

    id: NamespaceId
    title: str
    mode: str = ""


class Entry(Struct, frozen=True, gc=False):
    """The entry of a key; a PUT replaces all three fields. `expiration` is epoch seconds, None for never."""

    value: bytes
    metadata: Metadata | None = None
    expiration: int | None = None


class BareEntry(Entry, frozen=True, gc=False):
    """An entry of which only the value is known: the key may have metadata and an expiration all the same."""


class KeyInfo(Struct, frozen=True, gc=False):
    """A line of a listing: no value, no size."""

    key: Key
    metadata: Metadata | None = None
    expiration: int | None = None


class KeyPage(Struct, frozen=True, gc=False):
    """A page of a listing in UTF-8 order; it may be short or empty, only `cursor is None` ends the listing.

    `is_whole` is false when a row of it could not be read: then it proves no absence.
    """

    keys: tuple[KeyInfo, ...]
    cursor: str | None
    is_whole: bool = True


class ValueRead(Struct, frozen=True, gc=False):
    """A value read singly: the API does not answer its metadata with it.

    `tells_expiration` is false when the answer was of a kind that may leave an expiration out. `declared_as` is the
    media type of the answer where that is none of a value, so that it may be something else; "" otherwise.
    """

    value: bytes
    expiration: int | None = None
    tells_expiration: bool = True
    declared_as: str = ""


class ChangeKind(StrEnum):
    """A put or a tombstone."""

    PUT = "put"
    DELETE = "delete"


class ChangeState(StrEnum):
    """Life of a change: pending → (in flight, known to the sender only) → settling → gone; or set aside."""

    PENDING = "pending"
    SETTLING = "settling"
    REJECTED = "rejected"
    LOCAL = "local"


class How(StrEnum):
    """The ways in which a value is superseded: a write, a deletion, a rename of or over it, other attributes.

    `DISCARD`: the user gave up a change that the server had refused.
    """

    WRITE = "write"
    DELETE = "delete"
    RENAME = "rename"
    REPLACE = "replace"
    ATTRIBUTES = "attributes"
    DISCARD = "discard"


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """The error of a try to send, and when it was (epoch seconds). All changes of the try share one."""

    text: str
    at: float


class Change(Struct, frozen=True, array_like=True, gc=False):
    """The newest change of one key, without its value (`Journal.value` reads that).

    `seq` is the number by which it is acknowledged: a newer change of the key has another.
    `size` is the value's length in bytes, 0 for a tombstone.
    `base` is the digest of the server's value this mount had read before changing it: `None` when it never
    read one, `b""` when it knew the key to be absent.
    `attempted` is true once a request that may have carried it has left.
    Times are epoch seconds; `acked_at` is set when the server took it.
    `by_command`: a command of this machine wrote it at the store, and no program of this mount has read or written it.
    `error` is about this change alone; `failed` is the last try of a request with it that failed, whatever the reason.

    The journal's log has the fields by position, and those of `rules.Row` behind them: a new one goes to the end of
    that class, and a new one here needs a new version of the journal.
    """

    seq: Seq
    namespace: NamespaceId
    key: Key
    kind: ChangeKind
    state: ChangeState
    size: int
    metadata: Metadata | None
    expiration: int | None
    base: bytes | None
    attempted: bool
    recorded_at: float
    acked_at: float | None
    error: str | None
    by_command: bool = False
    failed: Failure | None = None

    @property
    def place(self) -> KeyRef:
        """Return the namespace and the key."""
        return self.namespace, self.key

    @property
    def last_error(self) -> str:
        """Why it is not at the store, as far as it was tried; "" otherwise."""
        return self.error or (self.failed.text if self.failed is not None else "")

    @property
    def is_tombstone(self) -> bool:
        """Return True if the key is to be absent."""
        return self.kind is ChangeKind.DELETE
