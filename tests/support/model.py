"""What a mount of one namespace should show, in the plainest way: dictionaries, and all of it anew each time.

`server` is what the store has, `changes` what this mount did and the store's answers do not show yet (None: a
deletion), `dirs` the directories kept here. Names come from `core.names`, which has tests of its own. It
stands for a mount whose cached knowledge is not stale, and whose own changes win.
"""

from dataclasses import dataclass, field, replace

from kvfs.core import xattrs
from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
)
from kvfs.core.expiry import EXPIRED, expiration_for_mtime, expiration_to_send, is_expired
from kvfs.core.model import Entry
from kvfs.core.names import SELF, DirRef, Naming

Path = tuple[str, ...]
INHERIT_SECONDS = 60


@dataclass(eq=False)
class Open:
    """The content that all handles of an open file share; `key` None: deleted."""

    key: str | None
    entry: Entry
    dirty: bool = False
    created: bool = False
    mtime: int | None = None
    handles: int = 0

    def set(self, entry: Entry) -> None:
        """Change something."""
        self.dirty = self.dirty or entry != self.entry
        self.entry = entry


@dataclass
class Model:
    """Every operation either raises what the system call should answer, or changes the dictionaries."""

    naming: Naming
    first_seen: int
    window: float
    server: dict[str, Entry] = field(default_factory=dict)
    changes: dict[str, Entry | None] = field(default_factory=dict)
    acked: dict[str, float] = field(default_factory=dict)
    dirs: set[Path] = field(default_factory=set)
    opens: dict[str, Open] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[Entry, float]] = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)  # made here where nothing was, and never sent
    loose: set[str] = field(default_factory=set)  # changed elsewhere: the mtime is when the mount saw it
    now: float = 0

    # what there is

    def visible(self) -> dict[str, Entry]:
        """Every key that a listing should show now."""
        merged = {**self.server, **self.changes}
        live = {key: e for key, e in merged.items() if e and not is_expired(e.expiration, self.now)}
        return live | {key: file.entry for key, file in self.opens.items() if file.created}

    def tree(self) -> tuple[dict[Path, str], set[Path]]:
        """Files by path, and every directory but the root."""
        paths = {key: self.naming.path_of(key) for key in self.visible()}
        leaves = [path[:-1] for path in paths.values()] + list(self.dirs)
        dirs = {path[:end] for path in leaves for end in range(1, len(path) + 1)}
        return {(*path, SELF) if path in dirs else path: key for key, path in paths.items()}, dirs

    def shown(self, path: Path) -> tuple[bytes, bytes | None, int]:
        """Content, metadata and mtime of a file."""
        key = self.file(path)
        file = self.opens.get(key)
        entry = file.entry if file else self.visible()[key]
        mtime = self.times.get(key, self.first_seen)
        mtime = file.mtime if file and file.mtime is not None else mtime
        return entry.value, entry.metadata, mtime if entry.expiration is None else entry.expiration

    def at(self, path: Path) -> str | Path | None:
        """The key of a file, the path of a directory, or None; raises when the way there is no directory."""
        files, dirs = self.tree()
        for end in range(1, len(path)):
            if path[:end] in files:
                raise NotADirectoryError_(path)
            if path[:end] not in dirs:
                raise NotFoundError(path)
        return path if path in dirs or not path else files.get(path)

    def there(self, path: Path) -> str | Path:
        """The same, of something that must be there."""
        if (found := self.at(path)) is None:
            raise NotFoundError(path)
        return found

    def file(self, path: Path) -> str:
        """The key of a file that must be there."""
        if isinstance(found := self.there(path), tuple):
            raise IsADirectoryError_(path)
        return found

    def child(self, path: Path):
        """What a name would be; raises what creating it should."""
        ref = DirRef.ROOT
        for name in path[:-1]:
            ref = self.naming.child(ref, name.encode()).directory
        return self.naming.child(ref, path[-1].encode())

    def children(self, path: Path) -> set[str]:
        """The names in a directory."""
        if not isinstance(self.there(path), tuple):
            raise NotADirectoryError_(path)
        files, dirs = self.tree()
        return {p[-1] for p in [*files, *dirs] if p[:-1] == path}

    # open files

    def open(self, path: Path, *, create=False, exclusive=False, truncate=False) -> Open:
        """open(2)."""
        found = self.at(path)
        if found is None:
            if not create:
                raise NotFoundError(path)
            child = self.child(path)
            if child.key is None:
                raise InvalidError(path)
            entry = replace(self.inherited(child.key) or Entry(b""), value=b"")
            self.detach(child.key)
            file = self.opens[child.key] = Open(child.key, entry, True, True, int(self.now))
        else:
            if create and exclusive:
                raise ExistsError(path)
            key = self.file(path)
            file = self.opens.setdefault(key, Open(key, self.visible()[key]))
            if truncate:
                self.resize(file, 0)
        file.handles += 1
        return file

    def inherited(self, key: str) -> Entry | None:
        """What was renamed away from a name a moment ago; once."""
        entry, at = self.left.pop(key, (None, 0))
        if entry is None or self.now - at > INHERIT_SECONDS:
            return None
        return replace(entry, expiration=None) if is_expired(entry.expiration, self.now) else entry

    def detach(self, key: str) -> None:
        """The name is gone; whoever has it open keeps the content."""
        if key in self.opens:
            self.opens.pop(key).key = None

    def write(self, file: Open, offset: int, data: bytes) -> None:
        """pwrite(2)."""
        value = file.entry.value.ljust(offset, b"\0")
        file.entry = replace(file.entry, value=value[:offset] + data + value[offset + len(data) :])
        file.dirty, file.mtime = True, int(self.now)

    def resize(self, file: Open, size: int) -> None:
        """ftruncate(2)."""
        file.entry = replace(file.entry, value=file.entry.value[:size].ljust(size, b"\0"))
        file.dirty, file.mtime = True, int(self.now)

    def flush(self, file: Open) -> None:
        """close(2) of one descriptor."""
        if file.dirty and file.key is not None:
            self.change(file.key, file.entry)
            if file.mtime is not None:
                self.times[file.key] = file.mtime
                self.loose.discard(file.key)
            file.dirty = file.created = False

    def close(self, file: Open) -> None:
        """close(2) of the last one."""
        self.flush(file)
        file.handles -= 1
        if not file.handles and file.key is not None:
            del self.opens[file.key]

    def change(self, key: str, entry: Entry | None) -> None:
        """This mount's newest word on a key."""
        if entry and key not in self.changes and not self.holds(key):
            self.unsent.add(key)
        self.changes[key] = entry
        self.acked.pop(key, None)

    # attributes

    def truncate(self, path: Path, size: int) -> None:
        """truncate(2)."""
        key = self.file(path)
        if key in self.opens:
            self.resize(self.opens[key], size)
        else:
            file = Open(key, self.visible()[key])
            self.resize(file, size)
            self.flush(file)

    def amend(self, path: Path, edit) -> None:
        """Metadata or expiration change: recorded at once, unless the file is not there yet."""
        key = self.file(path)
        file = self.opens.get(key) or Open(key, self.visible()[key])
        file.set(edit(file.entry))
        if not file.created:
            self.flush(file)

    def utimens(self, path: Path, mtime: int) -> None:
        """utimensat(2)."""
        if isinstance(self.there(path), tuple):
            return
        expiration = expiration_for_mtime(mtime, self.now)
        self.amend(path, lambda entry: replace(entry, expiration=expiration))
        key = self.file(path)
        file = self.opens.get(key)
        if file:
            file.mtime = mtime if expiration is None else int(self.now)
        if expiration is None and not (file and file.created):
            self.times[key] = mtime
            self.loose.discard(key)

    def setxattr(self, path: Path, name: str, value: bytes) -> None:
        """setxattr(2)."""
        self.amend(path, lambda e: replace(e, metadata=xattrs.set(e.metadata, name, value)))

    def removexattr(self, path: Path, name: str) -> None:
        """removexattr(2)."""
        self.amend(path, lambda e: replace(e, metadata=xattrs.remove(e.metadata, name)))

    # names

    def keep(self, path: Path) -> None:
        """A directory whose last entry left through this mount stays; one made of a name's piece does not."""
        while path and self.naming_is_chunk(path):
            path = path[:-1]
        if path and path not in self.tree()[1]:
            self.dirs.add(path)

    def naming_is_chunk(self, path: Path) -> bool:
        """Whether a directory only holds the rest of a long name."""
        return self.child(path).directory.is_chunk

    def unlink(self, path: Path) -> None:
        """unlink(2)."""
        key = self.file(path)
        self.remove(key)
        self.keep(path[:-1])

    def remove(self, key: str) -> None:
        """The key is to be absent."""
        self.detach(key)
        self.times.pop(key, None)
        self.loose.discard(key)
        if key in self.unsent or (key not in self.changes and not self.holds(key)):
            self.changes.pop(key, None)  # the server need not hear of it
            self.unsent.discard(key)
        else:
            self.change(key, None)

    def holds(self, key: str) -> bool:
        """Whether the server has a key, as far as is known."""
        return key in self.server and not is_expired(self.server[key].expiration, self.now)

    def mkdir(self, path: Path) -> None:
        """mkdir(2)."""
        if self.at(path) is not None:
            raise ExistsError(path)
        if self.child(path).directory is None:
            raise InvalidError(path)
        self.dirs.add(path)

    def rmdir(self, path: Path) -> None:
        """rmdir(2)."""
        if self.children(path):
            raise NotEmptyError(path)
        self.dirs.discard(path)
        self.keep(path[:-1])

    def rename(self, old: Path, new: Path, *, no_replace=False) -> None:
        """rename(2)."""
        source, goal = self.at(old), self.at(new)
        if source is None:
            raise NotFoundError(old)
        if goal is not None and no_replace:
            raise ExistsError(new)
        if new[: len(old)] == old and len(new) > len(old):
            raise InvalidError(new)
        if goal is not None and len(new) < len(old) and old[: len(new)] == new:
            raise NotEmptyError(new)
        if source == goal:
            return
        if isinstance(goal, tuple) != isinstance(source, tuple) and goal is not None:
            raise (IsADirectoryError_ if isinstance(goal, tuple) else NotADirectoryError_)(new)
        if isinstance(source, tuple):
            self.rename_directory(old, new)
        else:
            child = self.child(new)
            if child.key is None:
                raise InvalidError(new)
            kept = self.visible().get(child.key) if goal is not None else None
            self.settle_open(source)
            if kept is None and self.changes.get(source):
                kept = self.inherited(child.key)
            self.left[source] = (self.visible()[source], self.now)
            self.move(source, child.key, kept)
        self.keep(old[:-1])

    def settle_open(self, key: str) -> None:
        """What is open and dirty is recorded before it moves."""
        if key in self.opens:
            self.flush(self.opens[key])

    def move(self, key: str, goal: str, kept: Entry | None) -> None:
        """One key's part in a rename: what the new file was not given, it takes from the one it replaces."""
        entry = self.visible()[key]
        if kept:
            metadata = kept.metadata if entry.metadata is None else entry.metadata
            expiration = kept.expiration if entry.expiration is None else entry.expiration
            entry = replace(entry, metadata=metadata, expiration=expiration)
        file, mtime, is_loose = self.opens.pop(key, None), self.times.get(key), key in self.loose
        self.remove(goal)
        self.remove(key)
        self.change(goal, entry)
        if mtime is not None:
            self.times[goal] = mtime
        if is_loose:
            self.loose.add(goal)
        if file:
            file.key, self.opens[goal] = goal, file
            file.entry = replace(entry, value=file.entry.value)

    def rename_directory(self, old: Path, new: Path) -> None:
        """A directory moves with its own key and all that is below."""
        source, goal = self.child(old).directory, self.child(new).directory
        if goal is None or source.is_chunk or goal.is_chunk:
            raise InvalidError(new)
        if self.at(new) is not None and self.children(new):
            raise NotEmptyError(new)
        pairs = {
            k: goal.prefix + k[len(source.prefix) :] for k in self.visible() if k.startswith(source.prefix)
        }
        own, own_goal = self.naming.self_key(source), self.naming.self_key(goal)
        if own in self.visible():
            if own_goal is None:
                raise InvalidError(new)
            pairs[own] = own_goal
        for key in pairs:
            self.settle_open(key)
        for key, moved in pairs.items():
            self.move(key, moved, None)
        inside = {path for path in self.dirs if path[: len(old)] == old}
        self.dirs = (self.dirs - inside) | {new + path[len(old) :] for path in inside} | {new}

    # the world

    def drain(self) -> None:
        """Everything pending reaches the server, as far as its time has not come."""
        for key, entry in self.changes.items():
            if key in self.acked:
                continue
            expiration = expiration_to_send(entry.expiration, self.now) if entry else EXPIRED
            if expiration is EXPIRED:
                self.server.pop(key, None)
                self.changes[key] = None
                if entry:
                    self.times.pop(key, None)
            else:
                self.server[key] = replace(entry, expiration=expiration)
            self.acked[key] = self.now
        self.unsent.clear()
        self.settle()

    def settle(self) -> None:
        """What was acknowledged long enough ago leaves."""
        for key in [key for key, at in self.acked.items() if at <= self.now - self.window]:
            del self.changes[key], self.acked[key]

    def crash(self) -> None:
        """Only files remain."""
        for key in list(self.opens):
            self.detach(key)
        self.left.clear()
