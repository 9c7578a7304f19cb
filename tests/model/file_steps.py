"""Steps on contents and attributes."""

import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from model.draws import ATTRIBUTES, DATA, PATHS, PICK, TEXTS
from model.machine import Frame
from model.shown import REFUSED

from kvfs.core.limits import VALUE_BYTES


class FileSteps(Frame):
    """Whole files, open files, attributes."""

    @rule(names=PATHS, data=DATA, pick=PICK, trunc=st.booleans())
    def write_file(self, names, data, pick, trunc):
        """Write a whole file, or over its beginning, and close it."""
        names = self.existing(pick, names)
        flags = os.O_CREAT | (os.O_TRUNC if trunc else 0)

        def modelled():
            file = self.model.open(names, create=True, truncate=trunc)
            if data:
                self.model.write(file, 0, data)
            self.model.close(file)

        self.both(lambda: self.kernel.write(self.path(names), data, flags), modelled)

    @rule(names=PATHS, pick=PICK)
    def read_file(self, names, pick):
        """Read a whole file."""
        names = self.existing(pick, names)
        answer = self.both(lambda: self.kernel.read(self.path(names)), lambda: self.model.shown(names)[0])
        assert answer is None or answer[0] == answer[1]

    @precondition(lambda self: len(self.files) < 6)
    @rule(names=PATHS, pick=PICK, how=st.sets(st.sampled_from(["create", "exclusive", "truncate", "append"])))
    def open_file(self, names, pick, how):
        """Open a file for both and keep it; for reading only when nothing else is asked for."""
        names = self.existing(pick, names)
        how -= set() if "create" in how else {"exclusive"}
        writes = bool(how) or pick % 8 > 2
        flags = os.O_RDWR if writes else os.O_RDONLY
        for wanted, flag in [
            ("create", os.O_CREAT), ("exclusive", os.O_EXCL), ("truncate", os.O_TRUNC), ("append", os.O_APPEND)
        ]:  # fmt: skip
            flags |= flag if wanted in how else 0
        asked = {name: name in how for name in ("create", "exclusive", "truncate")}
        opened = self.both(
            lambda: self.kernel.open(self.path(names), flags), lambda: self.model.open(names, **asked)
        )
        if opened is not None:
            opened[1].space = self.model
            self.files.append((*opened, writes))

    def opened(self, pick):
        return self.files[pick % len(self.files)]

    @precondition(lambda self: self.files)
    @rule(pick=PICK, offset=st.sampled_from([0, 1, 3, 250, 150_000, VALUE_BYTES]), data=DATA)
    def write_open(self, pick, offset, data):
        """Write somewhere into an open file; EFBIG beyond the limit, and again when it is closed."""
        real, file, writes = self.opened(pick)
        if not writes or not data:
            return
        offset = len(file.entry.value) if real.append else offset
        is_too_far = offset + len(data) > VALUE_BYTES
        if is_too_far and file.handles > 1:
            return  # test_failed_writes.py: who of several handles is told
        self.both(
            lambda: self.kernel.pwrite(real, offset, data), lambda: file.space.write(file, offset, data)
        )
        if is_too_far:
            self.files = [opened for opened in self.files if opened[0] is not real]
            self.both(lambda: self.kernel.close(real), lambda: file.space.close_failed(file))

    @precondition(lambda self: self.files)
    @rule(pick=PICK, size=st.sampled_from([0, 1, 5, 300, 150_000]))
    def truncate_open(self, pick, size):
        """ftruncate."""
        real, file, writes = self.opened(pick)
        if writes:
            self.both(lambda: self.kernel.ftruncate(real, size), lambda: file.space.resize(file, size))

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def read_open(self, pick):
        """Any handle shows what all handles wrote, at the size fstat tells."""
        real, file, _ = self.opened(pick)

        async def act():
            return await self.kernel.pread(real, 0, 1 << 30), (await self.kernel.fstat(real)).size

        assert self.run_(act) == (file.entry.value, len(file.entry.value))

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def flush_open(self, pick):
        """One of several descriptors is closed."""
        real, file, writes = self.opened(pick)
        self.both(
            lambda: self.kernel.flush(real), lambda: file.space.flush(file) if writes else None
        )  # a reader's close records nothing

    @precondition(lambda self: self.files and self.outage is None)
    @rule(pick=PICK)
    def fsync_open(self, pick):
        """After fsync the server has it."""
        real, file, _ = self.opened(pick)
        space, key = file.space, file.key
        if key is not None:
            entry = file.entry if file.dirty else space.changes.get(key)
            if entry is not None and (entry.expiration is not None or entry.value == REFUSED):
                return  # expiry and its floor, and refusals, are `drain`'s matter
            if key in space.rejected:
                return
        self.both(lambda: self.kernel.fsync(real), lambda: space.flush(file))
        if key is not None and space.changes.get(key) is not None and key not in space.local:
            assert self.value_there(space, key) == space.changes[key].value
        self.drain()

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def close_open(self, pick):
        """close."""
        real, file, writes = self.files.pop(pick % len(self.files))
        self.both(lambda: self.kernel.close(real), lambda: file.space.close(file, writes=writes))

    @rule(names=PATHS, pick=PICK, size=st.sampled_from([0, 2, 40]))
    def truncate(self, names, pick, size):
        """truncate by path."""
        self.truncate_to(self.existing(pick, names), size)

    def truncate_to(self, names, size):
        """truncate, on both sides."""
        self.both(
            lambda: self.kernel.truncate(self.path(names), size), lambda: self.model.truncate(names, size)
        )

    @precondition(lambda self: self.steps % 8 == 0)
    @rule(names=PATHS, pick=PICK)
    def as_large_as_can_be(self, names, pick):
        """25 MiB is the most: not a byte more by truncate."""
        names = self.existing(pick, names)
        for size in (VALUE_BYTES, VALUE_BYTES + 1, 3):
            self.truncate_to(names, size)
            self.read_size(names)

    def read_size(self, names):
        """stat, on both sides."""

        async def size():
            return (await self.kernel.stat(self.path(names))).size

        answer = self.both(size, lambda: 0 if self.is_directory(names) else len(self.model.shown(names)[0]))
        assert answer is None or answer[0] in (answer[1], self.unknown_size)

    def is_directory(self, names):
        """Return True if the model has a directory there."""
        self.model.there(names)
        return self.model.is_directory(names)

    # attributes

    @rule(names=PATHS, pick=PICK, seconds=st.sampled_from([-100, 0, 3, 30, 59, 100, 400]))
    def utimens(self, names, pick, seconds):
        """touch -d."""
        names = self.existing(pick, names)
        mtime = int(self.model.now) + seconds * (self.stretch if seconds >= 100 else 1)
        self.both(
            lambda: self.kernel.utimens(self.path(names), mtime), lambda: self.model.utimens(names, mtime)
        )

    @rule(names=PATHS, pick=PICK, name=ATTRIBUTES, value=TEXTS)
    def setxattr(self, names, pick, name, value):
        """setfattr."""
        self.set_to(self.existing(pick, names), name, value)

    @rule(names=PATHS, pick=PICK, seconds=st.sampled_from([0, 59, 100, 400]))
    def set_ttl(self, names, pick, seconds):
        """setfattr -n user.kvfs.ttl."""
        self.set_to(
            self.existing(pick, names),
            "user.kvfs.ttl",
            str(seconds * (self.stretch if seconds >= 100 else 1)).encode(),
        )

    def set_to(self, names, name, value):
        """setxattr of what is no directory (they have no attributes: a test of its own)."""
        if not self.model.is_directory(names):
            self.both(
                lambda: self.kernel.setxattr(self.path(names), name, value),
                lambda: self.model.setxattr(names, name, value),
            )

    @rule(names=PATHS, pick=PICK, name=ATTRIBUTES)
    def removexattr(self, names, pick, name):
        """setfattr -x."""
        names = self.existing(pick, names)
        if not self.model.is_directory(names):
            self.both(
                lambda: self.kernel.removexattr(self.path(names), name),
                lambda: self.model.removexattr(names, name),
            )
