"""A state machine drives the file system through the kernel's calls against a plain model, step by step.

Other clients, expiry, staleness, the sender, crashes, memory pressure and odd names take part.
`KVFS_STEPS=50000` runs that many steps instead of the quick few.
"""

import os
import shutil
import tempfile
from pathlib import Path

import trio
import trio.testing
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.journals import START
from support.model import Model
from support.rig import Rig
from trio.testing import MockClock

from kvfs.core.errors import (
    IsADirectoryError_,
    KvfsError,
    NotADirectoryError_,
    NotFoundError,
    StaleError,
)
from kvfs.core.limits import FORBIDDEN_KEYS, VALUE_BYTES
from kvfs.core.model import Entry
from kvfs.core.names import Naming
from kvfs.fuse.convert import errno_of, name_of

PHASES = [p for p in Phase if p is not Phase.shrink or not os.environ.get("KVFS_NO_SHRINK")]
STEPS = int(os.environ.get("KVFS_STEPS", "0"))
TTL = 60.0
LONG = "x" * 250

PLAIN = st.sampled_from(["a", "b", "c"])
ODD = st.sampled_from(
    [
        *[
            "%",
            "%2F",
            "%252F",
            "%00",
            "%25",
            "%self",
            "%25self",
            "%2E",
            "%2E%2E",
            "a%+",
            "%2f",
            "+",
            "a.",
            "é",
            "%0",
            "0",
            "%20",
        ],
        LONG,
        LONG + "%+",
    ]
)
NAMES = PLAIN | PLAIN | PLAIN | ODD
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
COMPONENTS = st.sampled_from(
    ["a", "b", "c", "", ".", "..", "%", "%self", "\0", "%2F", "a%+", "é" * 140, LONG * 2]
)
KEYS = (
    st.lists(COMPONENTS, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda key: len(key.encode()) <= 512 and key not in FORBIDDEN_KEYS)
)
DATA = st.sampled_from([b"", b"x", b"yy", b"hello\n", b"\xff\x00", b"0123456789" * 20])
METADATA = st.sampled_from([None, None, b'{"k":"v"}', b'{"n":1,"k":"w"}', b"[1]", b'"text"'])
ATTRIBUTES = st.sampled_from(["user.k", "user.n", "user.kvfs.metadata", "user.é"])
TEXTS = st.sampled_from([b"v", b"2", b'{"z":[1]}', b"true", b"\xff"])
AHEAD = st.sampled_from([None, None, None, 100, 400])
PICK = st.integers(0, 1 << 16)


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to the mount and to the model, and compares the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="kvfs-stateful-"))
        self.clock = MockClock(autojump_threshold=0)
        self.rig = None

    @initialize(
        settle=st.sampled_from([0.0, 30.0]),
        caching=st.booleans(),
        eager=st.booleans(),
        every=st.sampled_from([1, 1, 4, 1000]),
    )
    def start(self, settle, caching, eager, every) -> None:
        """A new store and journal, one namespace, one of the ways a kernel may be."""
        self.kinds = (caching, eager)
        self.every, self.steps = every, 0
        self.files = []  # (open file of the kernel, open file of the model)
        self.streams = []  # (directory, path, names seen, names always there, names ever there)
        self.rig = Rig(self.base, settle=settle, cache_ttl=TTL)
        self.alive(self.rig.open)

        async def make():
            created = await self.rig.backend.create_namespace("ns")
            self.namespace = created.id
            await self.rig.kernel.stat("/ns")
            await self.rig.kernel.listdir("/ns")

        self.model = Model(Naming(), int(START), settle)
        self.wire()
        self.run_(make)

    def wire(self) -> None:
        """A new kernel has the habits of the one before."""
        self.rig.kernel.caching, self.rig.kernel.eager = self.kinds

    def alive(self, act):
        """Run something that needs the clock but no tasks."""

        async def main():
            return act()

        return trio.run(main, clock=self.clock)

    def run_(self, act):
        """Run one system call or more, with the daemon's tasks; a hang is a failure."""

        async def main():
            with trio.fail_after(3600):
                async with self.rig.workers():
                    result = await act()
            self.rig.check()
            self.model.now = self.rig.now()
            return result

        return trio.run(main, clock=self.clock)

    def both(self, real, modelled):
        """The same on both sides; the same errno, or no error at all. The results, or None."""
        answers = []

        async def act():
            try:
                return await real()
            except KvfsError as exc:
                return exc

        answer = self.run_(act)
        try:
            expected = modelled()
        except KvfsError as exc:
            expected = exc
        answers = [name_of(errno_of(a)) if isinstance(a, KvfsError) else "ok" for a in (answer, expected)]
        assert answers[0] == answers[1], f"mount: {answer!r}, model: {expected!r}"
        return None if isinstance(answer, KvfsError) else (answer, expected)

    @property
    def kernel(self):
        return self.rig.kernel

    @staticmethod
    def path(names) -> str:
        return "/ns/" + "/".join(names)

    def existing(self, pick, fallback, *, directories=False):
        """One of the paths there are, or now and then another."""
        files, dirs = self.model.tree()
        known = sorted(dirs) if directories else sorted(files)
        if not known or pick % 4 == 0:
            return fallback
        return known[pick // 4 % len(known)]

    # files

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
    @rule(
        names=PATHS,
        pick=PICK,
        create=st.booleans(),
        exclusive=st.booleans(),
        truncate=st.booleans(),
        append=st.booleans(),
    )
    def open_file(self, names, pick, create, exclusive, truncate, append):
        """Open a file for both and keep it."""
        names = self.existing(pick, names)
        exclusive = exclusive and create
        flags = os.O_RDWR
        for wanted, flag in [
            (create, os.O_CREAT), (exclusive, os.O_EXCL), (truncate, os.O_TRUNC), (append, os.O_APPEND)
        ]:  # fmt: skip
            flags |= flag if wanted else 0
        opened = self.both(
            lambda: self.kernel.open(self.path(names), flags),
            lambda: self.model.open(names, create=create, exclusive=exclusive, truncate=truncate),
        )
        if opened is not None:
            self.files.append(opened)

    def opened(self, pick):
        return self.files[pick % len(self.files)]

    @precondition(lambda self: self.files)
    @rule(pick=PICK, offset=st.sampled_from([0, 1, 3, 250, VALUE_BYTES]), data=DATA)
    def write_open(self, pick, offset, data):
        """Write somewhere into an open file."""
        real, file = self.opened(pick)
        if real.append:
            offset = len(file.entry.value)
        if offset + len(data) > VALUE_BYTES or not data:
            return
        self.both(
            lambda: self.kernel.pwrite(real, offset, data), lambda: self.model.write(file, offset, data)
        )

    @precondition(lambda self: self.files)
    @rule(pick=PICK, size=st.sampled_from([0, 1, 5, 300]))
    def truncate_open(self, pick, size):
        """ftruncate."""
        real, file = self.opened(pick)
        self.both(lambda: self.kernel.ftruncate(real, size), lambda: self.model.resize(file, size))

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def read_open(self, pick):
        """Any handle shows what all handles wrote, at the size fstat tells."""
        real, file = self.opened(pick)

        async def act():
            return await self.kernel.pread(real, 0, 1 << 20), (await self.kernel.fstat(real)).size

        assert self.run_(act) == (file.entry.value, len(file.entry.value))

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def flush_open(self, pick):
        """One of several descriptors is closed."""
        real, file = self.opened(pick)
        self.both(lambda: self.kernel.flush(real), lambda: self.model.flush(file))

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def fsync_open(self, pick):
        """After fsync the server has it."""
        real, file = self.opened(pick)

        def modelled():
            self.model.flush(file)
            return file.key

        if file.key is not None:
            entry = self.model.changes.get(file.key)
            entry = file.entry if file.dirty else entry
            if entry is not None and entry.expiration is not None:
                return  # expiry and its floor are `drain`'s matter
        answer = self.both(lambda: self.kernel.fsync(real), modelled)
        key = answer[1]
        if key is not None and self.model.changes.get(key) is not None:
            read = self.run_(lambda: self.rig.backend.get(self.namespace, key))
            assert read is not None
            assert read.value == file.entry.value or not file.dirty
        self.drain()

    @precondition(lambda self: self.files)
    @rule(pick=PICK)
    def close_open(self, pick):
        """close."""
        real, file = self.files.pop(pick % len(self.files))
        self.both(lambda: self.kernel.close(real), lambda: self.model.close(file))

    @rule(names=PATHS, pick=PICK, size=st.sampled_from([0, 2, 40]))
    def truncate(self, names, pick, size):
        """truncate by path."""
        names = self.existing(pick, names)
        self.both(
            lambda: self.kernel.truncate(self.path(names), size), lambda: self.model.truncate(names, size)
        )

    # names

    @rule(names=PATHS, pick=PICK)
    def unlink(self, names, pick):
        """rm."""
        names = self.existing(pick, names)
        self.both(lambda: self.kernel.unlink(self.path(names)), lambda: self.model.unlink(names))

    @rule(names=PATHS)
    def mkdir(self, names):
        """mkdir."""
        self.both(lambda: self.kernel.mkdir(self.path(names)), lambda: self.model.mkdir(names))

    @rule(names=PATHS, pick=PICK)
    def rmdir(self, names, pick):
        """rmdir."""
        names = self.existing(pick, names, directories=True)
        self.both(lambda: self.kernel.rmdir(self.path(names)), lambda: self.model.rmdir(names))

    @rule(old=PATHS, new=PATHS, pick=PICK, other=PICK, no_replace=st.booleans())
    def rename_file(self, old, new, pick, other, no_replace):
        """mv of a file, often over another."""
        self.rename(self.existing(pick, old), self.existing(other, new), no_replace and pick % 2)

    @rule(old=PATHS, new=PATHS, pick=PICK, other=PICK)
    def rename_directory(self, old, new, pick, other):
        """mv of a directory."""
        new = self.existing(other, new, directories=True) if other % 3 == 0 else new
        self.rename(self.existing(pick, old, directories=True), new, False)

    def rename(self, old, new, no_replace):
        """rename, on both sides."""
        self.both(
            lambda: self.kernel.rename(self.path(old), self.path(new), no_replace=bool(no_replace)),
            lambda: self.model.rename(old, new, no_replace=bool(no_replace)),
        )

    # attributes

    @rule(names=PATHS, pick=PICK, seconds=st.sampled_from([-100, 0, 3, 30, 59, 100, 400]))
    def utimens(self, names, pick, seconds):
        """touch -d."""
        names = self.existing(pick, names)
        mtime = int(self.model.now) + seconds
        self.both(
            lambda: self.kernel.utimens(self.path(names), mtime), lambda: self.model.utimens(names, mtime)
        )

    @rule(names=PATHS, pick=PICK, name=ATTRIBUTES, value=TEXTS)
    def setxattr(self, names, pick, name, value):
        """setfattr."""
        names = self.existing(pick, names)
        if isinstance_directory(self.model, names):
            return
        self.both(
            lambda: self.kernel.setxattr(self.path(names), name, value),
            lambda: self.model.setxattr(names, name, value),
        )

    @rule(names=PATHS, pick=PICK, name=ATTRIBUTES)
    def removexattr(self, names, pick, name):
        """setfattr -x."""
        names = self.existing(pick, names)
        if isinstance_directory(self.model, names):
            return
        self.both(
            lambda: self.kernel.removexattr(self.path(names), name),
            lambda: self.model.removexattr(names, name),
        )

    # the world

    @rule(key=KEYS, data=DATA, metadata=METADATA, ahead=AHEAD, refresh=st.booleans())
    def other_puts(self, key, data, metadata, ahead, refresh):
        """Another client writes a key; the mount learns of it in time."""
        entry = Entry(data, metadata, None if ahead is None else int(self.model.now) + ahead)
        self.other(key, entry, refresh)

    @rule(pick=PICK, key=KEYS, refresh=st.booleans())
    def other_deletes(self, pick, key, refresh):
        """Another client deletes a key."""
        known = sorted(self.model.server)
        self.other(known[pick % len(known)] if known and pick % 4 else key, None, refresh)

    def other(self, key, entry, refresh):
        """What another client does, and the time after which it must be seen."""
        if self.model.changes.get(key, entry) is None:
            self.drain()
            self.pass_time(self.model.window + 1)

        async def act():
            if entry is None:
                await self.rig.backend.delete(self.namespace, key)
            else:
                await self.rig.backend.put(self.namespace, key, entry)

        before = self.contents()
        self.run_(act)
        if entry is None:
            self.model.server.pop(key, None)
        else:
            if key not in self.model.changes:
                self.model.loose.add(key)
            self.model.server[key] = entry
        after = self.contents()
        self.run_(lambda: self.probe({path: (before.get(path), after.get(path)) for path in before | after}))
        if refresh:
            self.alive(self.refresh)
            if self.rig.kernel.caching:
                self.pass_time(TTL)
        else:
            self.pass_time(TTL)

    def contents(self):
        """Content by path."""
        return {path: self.model.shown(path)[0] for path in self.model.tree()[0]}

    async def probe(self, expected):
        """Before knowledge is old each file is as it was or as it is, whole; never a mixture."""
        for path, allowed in expected.items():
            try:
                found = await self.kernel.read(self.path(path))
            except (NotFoundError, NotADirectoryError_, IsADirectoryError_, StaleError):
                found = None
            assert found in allowed, path

    def refresh(self) -> None:
        """`kvfs refresh`."""
        self.rig.fs.forget_knowledge(self.namespace)
        self.rig.fs.forget_kernel(self.rig.fs.inodes.root)

    def pass_time(self, seconds) -> None:
        """Time goes by, and what settles in it has settled."""
        self.clock.jump(seconds)
        self.run_(self.rig.settle)
        self.model.settle()

    @rule(seconds=st.sampled_from([1, 3, 10, 61, 130, 401]))
    def time_passes(self, seconds):
        """Expirations come, knowledge gets old."""
        self.pass_time(seconds)

    @rule()
    def drain(self):
        """What is pending is sent: the server has exactly what the model says."""
        self.run_(self.rig.drain)
        self.model.drain()
        soon = any(
            entry.expiration is not None and 0 < entry.expiration - self.model.now < 80
            for entry in self.model.server.values()
        )
        if soon:  # at KV's floor the second of the request counts: not modelled, only awaited
            self.pass_time(200)
        self.run_(self.compare_server)

    async def compare_server(self):
        """Key by key."""
        found = {}
        page = await self.rig.backend.list_keys(self.namespace)
        for info in page.keys:
            read = await self.rig.backend.get(self.namespace, info.key)
            found[info.key] = Entry(read.value, info.metadata, read.expiration)
        now = self.model.now
        expected = {k: e for k, e in self.model.server.items() if not (e.expiration and e.expiration <= now)}
        assert found == expected

    @rule()
    def crash(self):
        """The daemon is killed and mounted again."""
        self.alive(self.rig.close)
        self.files = []
        self.streams = []
        self.model.crash()
        self.alive(self.rig.open)
        self.wire()

    @rule()
    def forget(self):
        """Memory is short."""
        self.alive(self.kernel.forget)

    @rule(names=PATHS, pick=PICK)
    def listdir(self, names, pick):
        """ls."""
        names = self.existing(pick, names, directories=True)
        found = self.both(lambda: self.kernel.listdir(self.path(names)), lambda: self.model.children(names))
        if found is not None:
            assert sorted(found[0]) == sorted(found[1])

    # directories that stay open

    @precondition(lambda self: len(self.streams) < 3)
    @rule(names=PATHS, pick=PICK)
    def opendir(self, names, pick):
        """opendir, kept open."""
        names = self.existing(pick, names, directories=True) if pick % 3 else ()
        opened = self.both(lambda: self.kernel.opendir(self.path(names)), lambda: self.model.children(names))
        if opened is not None:
            self.streams.append([opened[0], names, {}, set(opened[1])])

    @precondition(lambda self: self.streams)
    @rule(pick=PICK, count=st.sampled_from([1, 2, 5]))
    def getdents(self, pick, count):
        """An offset means the same entry for ever, and no name comes twice."""
        directory, _, seen, _ = self.streams[pick % len(self.streams)]

        async def act():
            return await self.kernel.getdents(directory, count)

        for name, offset in self.run_(act):
            assert seen.setdefault(offset, name) == name
        assert len(set(seen.values())) == len(seen)

    @precondition(lambda self: self.streams)
    @rule(pick=PICK, index=PICK)
    def seekdir(self, pick, index):
        """seekdir to an offset that was told before."""
        directory, _, seen, _ = self.streams[pick % len(self.streams)]
        if seen:
            directory.offset = sorted(seen)[index % len(seen)]

    @precondition(lambda self: self.streams)
    @rule(pick=PICK)
    def closedir(self, pick):
        """The rest of a listing has every name that was there all the time."""
        directory, _, seen, always = self.streams.pop(pick % len(self.streams))

        async def act():
            directory.offset = max(seen, default=0)
            rest = await self.kernel.getdents(directory)
            await self.kernel.closedir(directory)
            return rest

        names = set(seen.values()) | {name for name, _ in self.run_(act)}
        assert always <= names

    @invariant()
    def compare(self):
        """The whole tree as the model has it."""
        if self.rig is None:
            return
        for stream in self.streams:
            try:
                stream[3] &= self.model.children(stream[1])
            except KvfsError:
                stream[3].clear()
        self.steps += 1
        if self.steps % self.every == 0:
            self.run_(self.compare_tree)

    async def compare_tree(self, names=()):
        """Names, sizes, contents, attributes and times, from a directory on down."""
        files, dirs = self.model.tree()
        listed = await self.kernel.listdir(self.path(names))
        assert len(listed) == len(set(listed))
        assert set(listed) == self.model.children(names), names
        for name in listed:
            path = (*names, name)
            attr = await self.kernel.stat(self.path(path))
            assert attr.is_directory == (path in dirs)
            if attr.is_directory:
                await self.compare_tree(path)
                continue
            value, metadata, mtime = self.model.shown(path)
            text = self.path(path)
            assert await self.kernel.getxattr(text, "user.kvfs.key") == files[path].encode()
            assert attr.size == len(value), path
            if files[path] in self.model.loose and attr.mtime != mtime:
                assert self.model.visible()[files[path]].expiration is None
                assert mtime < attr.mtime <= self.model.now
            else:
                assert attr.mtime == mtime, path
            assert await self.kernel.read(text) == value
            if metadata is not None:
                assert await self.kernel.getxattr(text, "user.kvfs.metadata") == metadata
            else:
                assert await self.kernel.listxattr(text) == []

    def teardown(self):
        """Once more everything, then everything away."""
        if self.rig is not None:
            try:
                self.run_(self.compare_tree)
                self.drain()
                self.run_(self.compare_tree)
                for real, _ in self.files:
                    self.run_(lambda real=real: self.kernel.close(real))
                for stream in self.streams:
                    self.run_(lambda stream=stream: self.kernel.closedir(stream[0]))
                self.alive(self.kernel.forget)
                assert len(self.rig.fs.handles) == 0
                assert self.rig.fs.inodes.statistics().nodes <= 2, "inodes leak"
            finally:
                self.alive(self.rig.close)
        shutil.rmtree(self.base, ignore_errors=True)


def isinstance_directory(model, names) -> bool:
    """Whether a path is a directory (they have no attributes: a test of its own)."""
    return names in model.tree()[1]


Machine.TestCase.settings = settings(
    max_examples=max(1, STEPS // 100) if STEPS else 100,
    stateful_step_count=int(os.environ.get("KVFS_SPAN", "100" if STEPS else "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=PHASES,
    report_multiple_bugs=False,
)


class TestFileSystem(Machine.TestCase):
    """The machine as pytest runs it."""
