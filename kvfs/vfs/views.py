"""What can be said of a key: the overlay's answers, and what it asks of a file that is being made."""

from collections.abc import Sized
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol

from kvfs.core.model import Change, Metadata


class Knowledge(Enum):
    """What can be said without asking the store."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Knowledge.UNKNOWN
Unknown = Literal[Knowledge.UNKNOWN]


@dataclass(frozen=True, slots=True)
class View:
    """A key that exists. `size` None: not known yet. `fresh_until`: epoch seconds this may be repeated."""

    metadata: Metadata | None
    expiration: int | None
    size: int | None
    fresh_until: float
    change: Change | None
    ours: bool = False  # written here: the store need not be asked about it


class Creating(Protocol):
    """A file that was created and is not in the journal yet."""

    metadata: Metadata | None
    expiration: int | None

    @property
    def buffer(self) -> Sized:
        """Its content."""
        ...
