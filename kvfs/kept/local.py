"""Records of local facts beside the changes: attributes of keys, directories that mkdir made.

The log has their fields by position: a new one goes to the end and has a default.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

SHOWN_BYTES: Final = 8  # of a digest are kept of a key without a change


class LocalAttrs(Struct, frozen=True, array_like=True, gc=False):
    """Permission bits and times (epoch nanoseconds) of a key; None: not set on this machine.

    `shown` is the digest of the content that the mtime was last shown with, or its beginning; empty: never known.
    `is_gone`: the key was deleted here, and nothing else is kept of it: only of the latest such keys.
    """

    mode: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_ns: int | None = None
    shown: bytes = b""
    is_gone: bool = False

    @property
    def is_short(self) -> bool:
        """True if it holds only the content shown and its time, which make a short row."""
        return (
            bool(self.shown)
            and self.mode is None
            and self.atime_ns is None
            and self.mtime_ns == self.ctime_ns
        )


class DirRow(Struct, frozen=True, array_like=True, gc=False):
    """A directory that exists because mkdir made it; `prefix` and `start` as in core.names.

    Times are epoch nanoseconds.
    """

    prefix: str
    start: int
    mode: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


def alive(attrs: LocalAttrs | None) -> LocalAttrs | None:
    """The attributes of a key that is there (again)."""
    return replace(attrs, is_gone=False) if attrs is not None and attrs.is_gone else attrs


def content_shown(attrs: LocalAttrs | None) -> LocalAttrs | None:
    """Return what is kept of a deleted key: the content that it was last shown with."""
    return LocalAttrs(shown=attrs.shown, is_gone=True) if attrs is not None and attrs.shown else None
