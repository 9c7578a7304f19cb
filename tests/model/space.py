"""Names that change in the model of one namespace, and what the world does to it: sending, time, a crash."""

from model.contents import Contents
from model.shown import Path
from msgspec.structs import replace

from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NameTooLongError,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
)
from kvfs.core.expiry import EXPIRED, expiration_to_send, is_expired
from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import Entry
from kvfs.core.names import CONTROL


class Space(Contents):
    """One namespace, as a mount shows it whose cached knowledge is not stale, and whose own changes win."""

    def keep(self, path: Path) -> None:
        """Keep a directory whose last entry left through this mount; one made of a name's piece is not kept."""
        while path and self.is_chunk(path):
            path = path[:-1]
        if path and path not in self.tree()[1]:
            self.dirs.add(path)

    def is_chunk(self, path: Path) -> bool:
        """Return True if a directory only holds the rest of a long name."""
        return self.child(path).directory.is_chunk

    def unlink(self, path: Path) -> None:
        """unlink(2)."""
        key = self.file(path)
        self.remove(key)
        self.keep(path[:-1])

    def remove(self, key: str, waits_for: str | None = None) -> None:
        """Make the key absent."""
        self.detach(key)
        self.times.pop(key, None)
        self.loose.discard(key)
        if key in self.changes and self.changes[key] is None and key not in self.rejected:
            return
        if key in self.unsent or (key not in self.changes and not self.holds(key)):
            self.forget(key)  # the server need not hear of it
        else:
            self.change(key, None)
            if waits_for is not None:
                self.waits[key] = waits_for

    def forget(self, key: str) -> None:
        """Forget every change of this mount to a key."""
        self.changes.pop(key, None)
        self.acked.pop(key, None)
        self.unsent.discard(key)
        self.local.discard(key)
        self.rejected.discard(key)
        self.waits.pop(key, None)
        self.waits = {old: new for old, new in self.waits.items() if new != key}

    def is_control(self, path: Path) -> bool:
        """Return True if a path is where the control directory is, in a mount of one namespace."""
        return path == (CONTROL,) and CONTROL in self.naming.reserved

    def mkdir(self, path: Path) -> None:
        """mkdir(2)."""
        if self.at(path) is not None or self.is_control(path):
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

    # rename

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
        if self.is_control(new):
            raise NotPermittedError(new)
        if isinstance(source, tuple):
            self.rename_directory(old, new)
        else:
            self.rename_file(source, goal, new)
        self.keep(old[:-1])

    def rename_file(self, source: str, goal: str | None, new: Path) -> None:
        """Rename a file: attributes that the new file was not given it takes from the one it replaces."""
        child = self.child(new)
        if child.key is None:
            raise InvalidError(new)
        kept = self.visible().get(child.key) if goal is not None else None
        self.settle_open(source)
        if kept is None and self.changes.get(source):
            kept = self.inherited(child.key)
        self.left[source] = (self.visible()[source], self.now)
        self.move(source, child.key, kept)

    def settle_open(self, key: str) -> None:
        """Record an open and dirty file before it moves."""
        if key in self.opens:
            self.flush(self.opens[key])

    def move(self, key: str, goal: str, kept: Entry | None) -> None:
        """Do one key's part in a rename."""
        entry = self.visible()[key]
        if kept:
            metadata = kept.metadata if entry.metadata is None else entry.metadata
            expiration = kept.expiration if entry.expiration is None else entry.expiration
            entry = replace(entry, metadata=metadata, expiration=expiration)
        file, mtime, is_loose = self.opens.pop(key, None), self.times.get(key), key in self.loose
        behind = [old for old, new in self.waits.items() if new == key]
        self.detach(goal)
        self.times.pop(goal, None)
        self.loose.discard(goal)
        self.change(goal, entry)
        self.remove(key, waits_for=goal)
        self.waits |= dict.fromkeys(behind, goal)
        if mtime is not None:
            self.times[goal] = mtime
        if is_loose:
            self.loose.add(goal)
        if file:
            file.key, self.opens[goal] = goal, file
            file.entry = replace(entry, value=file.entry.value)

    def rename_directory(self, old: Path, new: Path) -> None:
        """Move a directory with its own key and all that is below."""
        source, goal = self.child(old).directory, self.child(new).directory
        if goal is None or source.is_chunk or goal.is_chunk:
            raise InvalidError(new)
        if self.at(new) is not None and self.children(new):
            raise NotEmptyError(new)
        visible = self.visible()
        pairs = {
            key: goal.prefix + key[len(source.prefix) :] for key in visible if key.startswith(source.prefix)
        }
        own, own_goal = self.naming.self_key(source), self.naming.self_key(goal)
        if own in visible:
            if own_goal is None:
                raise InvalidError(new)
            pairs[own] = own_goal
        if any(len(key.encode()) > KEY_BYTES for key in pairs.values()):
            raise NameTooLongError(new)
        for key in pairs:
            self.settle_open(key)
        for key, moved in pairs.items():
            self.move(key, moved, None)
        inside = {path for path in self.dirs if path[: len(old)] == old}
        self.dirs = (self.dirs - inside) | {new + path[len(old) :] for path in inside} | {new}

    # the world

    @property
    def is_bare(self) -> bool:
        """Return True if no change of this mount stands in the way of deleting the namespace."""
        live = [e for e in self.changes.values() if e and not is_expired(e.expiration, self.now)]
        return not live and not self.dirs and not any(file.created for file in self.opens.values())

    @property
    def is_empty_there(self) -> bool:
        """Return True if the server has no key but those that this mount deleted."""
        return not any(self.holds(key) and self.changes.get(key, True) for key in self.server)

    def drain(self) -> None:
        """Send everything pending whose time has come and that is not refused."""
        for key, entry in sorted(self.changes.items(), key=lambda change: change[1] is None):
            if key in self.acked or key in self.local or key in self.rejected:
                continue
            if entry is None and self.waits.get(key) in self.rejected:
                continue
            expiration = expiration_to_send(entry.expiration, self.now) if entry else EXPIRED
            if expiration is EXPIRED:
                self.server.pop(key, None)
                self.changes[key] = None
                if entry:
                    self.times.pop(key, None)
            elif entry.value == self.refused:
                self.rejected.add(key)
                continue
            else:
                self.server[key] = replace(entry, expiration=expiration)
            self.acked[key] = self.now
        self.waits = {old: new for old, new in self.waits.items() if new in self.rejected}
        self.unsent &= self.local
        self.settle()

    def settle(self) -> None:
        """Settle the changes that were acknowledged long enough ago."""
        for key in [key for key, at in self.acked.items() if at <= self.now - self.window]:
            del self.changes[key], self.acked[key]

    def discard(self) -> None:
        """Discard the refused changes: the server's own answer counts again, also for the old names."""
        for key in list(self.rejected):
            for old in [old for old, new in self.waits.items() if new == key]:
                self.forget(old)
                self.times.pop(old, None)
            self.forget(key)
            self.times.pop(key, None)

    def crash(self) -> None:
        """Lose everything but the files of the state directory."""
        for key in list(self.opens):
            self.detach(key)
        self.left.clear()
