"""Open files and attributes in the model: each call raises what the system call answers, or changes the state."""

from model.shown import Open, Path, Shown
from msgspec.structs import replace

from kvfs.core import xattrs
from kvfs.core.errors import ExistsError, FileTooBigError, InvalidError, NotFoundError
from kvfs.core.expiry import expiration_for_mtime, is_expired
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Entry

INHERIT_SECONDS = 60
ROUNDING_SECONDS = 2


def _kept(known: int | None, wanted: int) -> int:
    """Return True if a ttl was read off an expiration; set again, it does not move it."""
    return known if known is not None and abs(wanted - known) <= ROUNDING_SECONDS else wanted


class Contents(Shown):
    """open, write, truncate, close, utimens, xattrs."""

    def change(self, key: str, entry: Entry | None) -> None:
        """Set this mount's newest value of a key."""
        is_new = key not in self.changes
        if entry and is_new and not self.holds(key):
            self.unsent.add(key)
            if self.local_names.matches(self.naming.name_of_key(key)) and key not in self.server:
                self.local.add(key)
        if entry is None:
            self.local.discard(key)
        self.changes[key] = entry
        self.acked.pop(key, None)
        self.rejected.discard(key)
        self.waits.pop(key, None)
        if entry is None:  # tombstones that waited for a put here wait for the newer put
            self.waits = {old: new for old, new in self.waits.items() if new != key}

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
            file = Open(child.key, entry, None, dirty=True, created=True, mtime=int(self.now))
            self.opens[child.key] = file
        else:
            if create and exclusive:
                raise ExistsError(path)
            file = self.reopen(self.file(path), truncate=truncate)
        file.handles += 1
        return file

    def reopen(self, key: str, *, truncate: bool) -> Open:
        """Return the open file of a key that is there."""
        if key not in self.opens:
            entry = self.visible()[key]
            self.opens[key] = Open(key, entry, None if truncate else entry.value)
        if truncate:
            self.resize(self.opens[key], 0)
        return self.opens[key]

    def inherited(self, key: str) -> Entry | None:
        """Return, once, the attributes of a file renamed away from a name a moment ago."""
        entry, at = self.left.pop(key, (None, 0))
        if entry is None or self.now - at > INHERIT_SECONDS:
            return None
        return replace(entry, expiration=None) if is_expired(entry.expiration, self.now) else entry

    def detach(self, key: str) -> None:
        """Take the name away; whoever has it open keeps the content."""
        if key in self.opens:
            self.opens.pop(key).key = None

    def write(self, file: Open, offset: int, data: bytes) -> None:
        """pwrite(2)."""
        if offset + len(data) > VALUE_BYTES:
            raise FileTooBigError(file.key)
        value = file.entry.value.ljust(offset, b"\0")
        file.entry = replace(file.entry, value=value[:offset] + data + value[offset + len(data) :])
        file.dirty, file.mtime = True, int(self.now)

    def resize(self, file: Open, size: int) -> None:
        """ftruncate(2)."""
        if size > VALUE_BYTES:
            raise FileTooBigError(file.key)
        file.entry = replace(file.entry, value=file.entry.value[:size].ljust(size, b"\0"))
        file.dirty, file.mtime = True, int(self.now)

    def part(self, key: str) -> None:
        """Learn another client's value of a key: who has the file open keeps the old one, and loses the name."""
        file, entry = self.opens.get(key), self.visible().get(key)
        if file is None or file.dirty or file.created or key in self.changes or entry is None:
            return
        if file.entry.value == entry.value:
            file.entry = entry
            return
        self.opens.pop(key).key = None
        file.lost = key

    def flush(self, file: Open) -> None:
        """close(2) of one descriptor that may write. One that lost its name overwrites: see `part`."""
        if file.dirty and file.lost is not None:
            target = self.opens.get(file.lost)
            if target is None or not target.dirty:
                self.detach(file.lost)
                file.key, file.lost = file.lost, None
                self.opens[file.key] = file
        if file.dirty and file.key is not None:
            self.record(file.key, file.entry, file.mtime)
            file.dirty = file.created = False
            file.closed = file.entry.value

    def record(self, key: str, entry: Entry, mtime: int | None) -> None:
        """Record a content in the journal."""
        self.change(key, entry)
        if mtime is not None:
            self.times[key] = mtime
            self.loose.discard(key)

    def close(self, file: Open, *, writes: bool = True) -> None:
        """close(2) of a handle's last descriptor; a reader's records nothing while others have it open."""
        if writes or file.handles == 1:
            self.flush(file)
        file.handles -= 1
        if not file.handles and file.key is not None:
            del self.opens[file.key]

    def close_failed(self, file: Open) -> None:
        """close(2) of the only handle after a write that failed: the error is repeated, and nothing is recorded."""
        file.handles -= 1
        if file.key is not None:
            del self.opens[file.key]
        raise FileTooBigError(file.key)

    def truncate(self, path: Path, size: int) -> None:
        """truncate(2)."""
        key = self.file(path)
        if key in self.opens:
            self.resize(self.opens[key], size)
        else:
            file = Open(key, self.visible()[key], None)
            self.resize(file, size)
            self.flush(file)

    # attributes

    def amend(self, path: Path, edit) -> None:
        """Change metadata or expiration: recorded at once, with the content as of the last close."""
        key = self.file(path)
        file = self.opens.get(key)
        if file is None:
            entry = self.visible()[key]
            if edit(entry) != entry:
                self.record(key, edit(entry), None)
            return
        before, file.entry = file.entry, edit(file.entry)
        if file.created or before == file.entry:
            return
        if not file.dirty:
            self.record(key, file.entry, file.mtime)
        elif file.closed is not None:
            self.record(key, replace(file.entry, value=file.closed), None)
        elif (pending := self.changes.get(key)) and not is_expired(pending.expiration, self.now):
            self.record(key, replace(file.entry, value=pending.value), None)

    def utimens(self, path: Path, mtime: int) -> None:
        """utimensat(2)."""
        if isinstance(self.there(path), tuple):
            self.dirs |= {path} if path else set()  # a directory with times of its own here stays here
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
        self.file(path)
        if name == "user.kvfs.ttl":
            expiration = expiration_for_mtime(int(value) + int(self.now), self.now)
            if expiration is None:
                raise InvalidError(name)
            self.amend(path, lambda e: replace(e, expiration=_kept(e.expiration, expiration)))
        else:
            self.amend(path, lambda e: replace(e, metadata=xattrs.set(e.metadata, name, value)))

    def removexattr(self, path: Path, name: str) -> None:
        """removexattr(2)."""
        self.amend(path, lambda e: replace(e, metadata=xattrs.remove(e.metadata, name)))
