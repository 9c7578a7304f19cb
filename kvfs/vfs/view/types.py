"""Types shared by the overlay and fuse: the view of a key, a file being made, stat(2) in numbers."""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol

from msgspec import Struct

from kvfs.core.freshness import seconds_left
from kvfs.core.model import Change, Metadata
from kvfs.core.times import SECOND


class Knowledge(Enum):
    """The kinds of knowledge without a request."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Knowledge.UNKNOWN
Unknown = Literal[Knowledge.UNKNOWN]


class View(Struct, frozen=True, gc=False):
    """A key that exists. `size` None: not known yet. `fresh_until`: epoch seconds this may be repeated."""

    metadata: Metadata | None
    expiration: int | None
    size: int | None
    fresh_until: float
    change: Change | None
    ours: bool = False  # written here: the store need not be asked about it


SeenView = View | Unknown | None
"""What is at a key, as far as known; None: nothing."""


def told_size(view: View, now: float, ttl: float) -> tuple[int, float, float]:
    """Return the size to show of a file nobody has open, and the time-outs (seconds) of attributes and name.

    A size that is not known shows as 0, to be asked for: its time-out is 0.
    """
    left = seconds_left(view.fresh_until, ttl, now, view.expiration)
    return (0, 0.0, left) if view.size is None else (view.size, left, left)


class Creating(Protocol):
    """A file that was created and is not in the journal yet."""

    metadata: Metadata | None
    expiration: int | None
    known_at: float  # epoch seconds: when it was created

    @property
    def buffer(self) -> Sized:
        """Its content."""


class Attr(Struct, eq=False, gc=False):
    """stat(2) of a node. Sizes in bytes, times in epoch nanoseconds, time-outs in seconds from now."""

    ino: int
    is_directory: bool
    mode: int
    links: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    entry_timeout: float
    attr_timeout: float
    told: object = (
        None  # the answer that `fuse` made of it for the kernel, kept because it is told again and again
    )

    @property
    def mtime(self) -> int:
        """Epoch seconds, as `st_mtime` is beside `st_mtime_ns`."""
        return self.mtime_ns // SECOND

    @property
    def ctime(self) -> int:
        """Epoch seconds."""
        return self.ctime_ns // SECOND


Tell = Callable[[bytes, Attr, int, bool], bool]
"""Tells the kernel of an entry: name, attributes, the offset after it, and whether these attributes may differ from
when the same `Attr` was told last. False: there was no room, and nothing was told. It must not keep the `Attr`."""


@dataclass(slots=True, eq=False)
class Face:
    """The attributes that the kernel was told of a file: its name, with their time-outs.

    `until`: epoch seconds at which they stop to hold, None: never, as long as the stream is current. `sizes`:
    the generation of sizes when it was looked up, `size` what `Sizes.known` answered then.
    """

    name: bytes
    attr: Attr
    until: float | None
    sizes: int
    size: object = None


class Changes(Struct, frozen=True, gc=False):
    """The fields that setattr is to set; None: leave it. Times in epoch nanoseconds."""

    size: int | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
