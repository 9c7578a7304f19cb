"""The model of a mount of one namespace: dictionaries, from which everything is computed anew each time.

`server` is the store's content, `changes` are this mount's changes that the store's answers do not show yet (None: a
deletion), `dirs` the directories kept here. Names come from `core.names`, which has tests of its own.
"""

from dataclasses import dataclass, field

from kvfs.core.errors import (
    InvalidError,
    IsADirectoryError_,
    NotADirectoryError_,
    NotFoundError,
)
from kvfs.core.expiry import is_expired
from kvfs.core.model import Entry
from kvfs.core.names import SELF, DirRef, Naming
from kvfs.core.patterns import LocalNames

Path = tuple[str, ...]
REFUSED = b"the server refuses this content"


@dataclass(eq=False)
class Open:
    """The content that all handles of an open file share; `key` None: deleted.

    `closed`: the content as of the last close, None for one that was emptied unseen. `writers` of `handles`.
    """

    key: str | None
    entry: Entry
    closed: bytes | None
    lost: str | None = None  # the key that another client has written since
    dirty: bool = False
    created: bool = False
    mtime: int | None = None
    handles: int = 0


@dataclass
class Shown:
    """The state, and the views computed from it. `top` is where the mount begins in the namespace: a key prefix."""

    naming: Naming
    first_seen: int
    window: float
    top: str = ""
    server: dict[str, Entry] = field(default_factory=dict)
    changes: dict[str, Entry | None] = field(default_factory=dict)
    acked: dict[str, float] = field(default_factory=dict)
    local: set[str] = field(default_factory=set)  # changes that stay on this machine
    rejected: set[str] = field(default_factory=set)  # changes the server will not have
    waits: dict[str, str] = field(default_factory=dict)  # an old name, and the new one that must land first
    dirs: set[Path] = field(default_factory=set)
    opens: dict[str, Open] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[Entry, float]] = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)  # made here where nothing was, and never sent
    loose: set[str] = field(default_factory=set)  # changed elsewhere: the mtime is when the mount saw it
    now: float = 0
    local_names: LocalNames = field(default_factory=LocalNames)
    refused: bytes | None = REFUSED

    def visible(self) -> dict[str, Entry]:
        """Return every key that a listing should show now."""
        merged = {**self.server, **self.changes}
        live = {key: e for key, e in merged.items() if e and not is_expired(e.expiration, self.now)}
        live |= {key: file.entry for key, file in self.opens.items() if file.created}
        own = self.top[:-1]
        return {key: e for key, e in live.items() if key.startswith(self.top) or (self.top and key == own)}

    def tree(self) -> tuple[dict[Path, str], set[Path]]:
        """Return files by path, and every directory but the root."""
        visible = self.visible()
        below = {key for key in visible if key.startswith(self.top)}
        paths = {key: self.naming.path_of(key[len(self.top) :]) for key in below}
        leaves = [path[:-1] for path in paths.values()] + list(self.dirs)
        dirs = {path[:end] for path in leaves for end in range(1, len(path) + 1)}
        files = {(*path, SELF) if path in dirs else path: key for key, path in paths.items()}
        if len(visible) > len(below):  # the key of the mount's own prefix, as in any directory
            files[SELF,] = self.top[:-1]
        return files, dirs

    def shown(self, path: Path) -> tuple[bytes, bytes | None, int]:
        """Return content, metadata and mtime of a file."""
        key = self.file(path)
        file = self.opens.get(key)
        entry = file.entry if file else self.visible()[key]
        mtime = self.times.get(key, self.first_seen)
        mtime = file.mtime if file and file.mtime is not None else mtime
        return entry.value, entry.metadata, mtime if entry.expiration is None else entry.expiration

    def at(self, path: Path) -> str | Path | None:
        """Return the key of a file, the path of a directory, or None; raise when the way there is no directory."""
        files, dirs = self.tree()
        for end in range(1, len(path)):
            if path[:end] in files:
                raise NotADirectoryError_(path)
            if path[:end] not in dirs:
                raise NotFoundError(path)
        return path if path in dirs or not path else files.get(path)

    def there(self, path: Path) -> str | Path:
        """Return what `at` does, for something that must be there."""
        if (found := self.at(path)) is None:
            raise NotFoundError(path)
        return found

    def file(self, path: Path) -> str:
        """Return the key of a file that must be there."""
        if isinstance(found := self.there(path), tuple):
            raise IsADirectoryError_(path)
        return found

    def is_directory(self, path: Path) -> bool:
        """Return True if there is a directory."""
        return not path or path in self.tree()[1]

    def child(self, path: Path):
        """Return what a name would be; raise the error that creating it should."""
        ref = DirRef(self.top, len(self.top))
        for name in path[:-1]:
            found = self.naming.child(ref, name.encode()).directory
            if found is None:
                raise InvalidError(path)
            ref = found
        return self.naming.child(ref, path[-1].encode())

    def children(self, path: Path) -> set[str]:
        """Return the names in a directory."""
        if not isinstance(self.there(path), tuple):
            raise NotADirectoryError_(path)
        files, dirs = self.tree()
        return {p[-1] for p in [*files, *dirs] if p[:-1] == path}

    def holds(self, key: str) -> bool:
        """Return True if the server has a key, as far as is known."""
        return key in self.server and not is_expired(self.server[key].expiration, self.now)
