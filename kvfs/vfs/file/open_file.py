"""An open file: the one content that all its handles share. It does not know which file it is."""

from msgspec import Struct

from kvfs.core.digest import digest
from kvfs.core.freshness import NEVER
from kvfs.core.model import Metadata
from kvfs.vfs.file.rope import Rope


class OpenFile(Struct, eq=False):
    """The content of a file while it is open, and the attributes that will be recorded with it.

    `version` counts changes of the content, `saved` is the version the journal has: the file is dirty while
    they differ; `forced`, with --durable-close, the version known to be on the disk. `closed` is the content as
    of the last record, or as it was read: what stands while somebody is in the midst of writing (None: never
    known). `base` is what `Change.base` will be; None while `closed` is what was read and nobody asked. `created`
    until the first record of a file that was made by this open. `identity` tells the content, as it was read,
    from others. `seen`: some handle may have read the content, or keeps it and appends.
    `known_at`: when (epoch seconds) the store last answered this content, or it was recorded or made. `superseded`:
    another client has written the name since, and this file has lost it.
    """

    buffer: Rope
    metadata: Metadata | None = None
    expiration: int | None = None
    closed: bytes | None = None
    base: bytes | None = None
    version: int = 0
    saved: int = 0
    forced: int = 0
    created: bool = False
    handles: int = 0
    shown: bool = False  # some open told the kernel whether its pages are of this content
    mtime_ns: int | None = None  # epoch nanoseconds of the last change; None: not changed by this open
    written_last: bool = False  # that change was a write, and no attribute was set since: ctime is mtime
    mode: int | None = None  # permission bits of a file that is being created
    identity: int | bytes | None = None
    seen: bool = False
    known_at: float = NEVER
    superseded: bool = False

    @property
    def dirty(self) -> bool:
        """True if the journal lacks something of it."""
        return self.version != self.saved

    @property
    def written(self) -> bool:
        """True if somebody is in the midst of writing it."""
        return self.dirty and self.buffer.changed

    def digest_at_hand(self) -> bytes | None:
        """Return the digest of what was read, while nothing else is recorded; None if it is not made yet."""
        return self.identity if isinstance(self.identity, bytes) and not self.saved else None

    def known_base(self) -> bytes | None:
        """Return the base, made when it is wanted: most opens only read."""
        if self.base is None and self.closed is not None:
            self.base = self.digest_at_hand() or digest(self.closed)
        return self.base
