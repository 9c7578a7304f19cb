"""The nouns of a data move: an entry without its value, an entry with it, and an entry that cannot move."""

from enum import StrEnum

from msgspec import Struct

from kvfs.core.model import Entry, Key, Metadata


class Item(Struct, frozen=True, gc=False):
    """One key of a place, without its value.

    `origin` is how the reader of the place finds it: the key in a store, the path in a directory, the number
    of the record in a file. `size` is the value's length where the place knows it, `modified` epoch seconds
    where it keeps them. `seq` orders the items of one move; it is 0 until the job has numbered them.
    """

    key: Key
    origin: str
    metadata: Metadata | None = None
    expiration: int | None = None
    size: int | None = None
    modified: float | None = None
    seq: int = 0


class Loaded(Struct, frozen=True, gc=False):
    """An item with its value, ready to be written."""

    item: Item
    entry: Entry


class ProblemKind(StrEnum):
    """The reasons why an entry cannot move."""

    MALFORMED = "malformed"
    DUPLICATE = "duplicate key"
    KEY = "key"
    VALUE = "value too large"
    METADATA = "metadata"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    GONE = "gone meanwhile"


HARMLESS = frozenset({ProblemKind.EXPIRED, ProblemKind.GONE})
"""What happens to entries by themselves: it is counted, and is no failure."""


class Problem(Struct, frozen=True, gc=False):
    """An entry that does not move. `where` names the line, the record or the path; `key` is "" if unknown."""

    kind: ProblemKind
    key: str
    where: str
    message: str

    def __str__(self) -> str:
        named = f"key {self.key!r}: " if self.key else ""
        return f"{self.where}: {named}{self.message}" if self.where else f"{named}{self.message}"
