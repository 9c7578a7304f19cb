"""The machine's frame: one mount below the kernel and its model, steps on both, and the comparison of the whole."""

import tempfile
from pathlib import Path

import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from model.draws import keys
from model.shown import REFUSED
from model.space import Space
from support.inline import inline_threads
from support.journals import START
from support.rig import Rig
from trio.testing import MockClock

from kvfs.core.errors import DeniedError, KvfsError, RejectedError, StoreError, UnavailableError
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.names import CONTROL, DirRef, Naming
from kvfs.fuse.convert import errno_of, name_of

TTL = 60.0
NOW_SECONDS = 5  # an mtime so far ahead counts as now, and is kept
OUTAGES = {"unavailable": UnavailableError("no answer"), "denied": DeniedError("the token is revoked")}
SHAPES = ["account", "account", "namespace", "prefix"]


class Frame(RuleBasedStateMachine):
    """Each rule does one thing to the mount and to the model, and compares the answers.

    `slack`: seconds by which real times may differ; `stretch` of expirations, which are awaited in simulated time.
    """

    slack, stretch = 0, 1

    def __init__(self) -> None:
        super().__init__()
        self.clock = MockClock(autojump_threshold=0)
        self.rig = self.scratch = None

    @initialize(
        settle=st.sampled_from([0.0, 30.0, 90.0]),
        conflicts=st.sampled_from(["overwrite", "keep-both"]),
        separator=st.sampled_from(["/", "/", "/", ":", ""]),
        shape=st.sampled_from(SHAPES),
        caching=st.booleans(),
        eager=st.booleans(),
        every=st.sampled_from([1, 1, 4, 1000]),
    )
    def start(self, settle, conflicts, separator, shape, caching, eager, every) -> None:
        """A new store and journal, one of the sources, one of the ways a kernel may be."""
        self.scratch = tempfile.TemporaryDirectory(prefix="kvfs-stateful-", ignore_cleanup_errors=True)
        self.kinds = (caching, eager)
        self.shape, self.settle_window, self.conflicts = shape, settle, conflicts
        self.every = 1 if conflicts == "keep-both" else every  # then what was read is what is there
        self.steps, self.here, self.outage = 0, 0, None
        self.files = []  # (open file of the kernel, of the model, whether it may write)
        self.streams = []  # (directory, space, path, names seen, names always there)
        self.spaces = []
        self.separator, self.top = separator, f"p{separator or '-'}" if shape == "prefix" else ""
        self.keys = keys(separator, self.top)
        base = Path(self.scratch.name)
        self.rig = Rig(base, settle=settle, cache_ttl=TTL, on_conflict=conflicts, separator=separator)
        self.rig.breaking = False
        self.alive(self.rig.open)
        self.run_(lambda: self.rig.backend.create_namespace("ns"))
        namespace = self.run_(self.rig.backend.list_namespaces)[0].id
        if shape != "account":
            self.alive(self.rig.close)
            self.rig.place = (namespace, DirRef(self.top, len(self.top)))
            self.alive(self.rig.open)
        self.wire()
        self.add_space("ns", namespace, int(START))
        self.run_(lambda: self.kernel.listdir(self.path(())))

    def add_space(self, name, namespace, first_seen) -> None:
        """The model of a namespace."""
        naming = Naming(self.separator, frozenset({CONTROL}) if self.shape != "account" else frozenset())
        space = Space(naming, first_seen, self.settle_window, self.top, now=self.rig.now_at(self.clock))
        space.name, space.namespace = name, namespace
        self.spaces.append(space)

    def wire(self) -> None:
        """A new kernel has the habits of the one before, and the server refuses what it refused."""
        self.kernel.caching, self.kernel.eager = self.kinds
        refused = RejectedError("the content is refused")
        store = self.rig.store
        store.clear()
        if self.outage is not None:  # the first made is the outermost
            store.fail("*", OUTAGES[self.outage])
        store.fail("bulk_put", refused, when=lambda c: any(e.value == REFUSED for e in c.args[1].values()))
        store.fail("put", refused, when=lambda call: call.args[2].value == REFUSED)

    def alive(self, act):
        """Run something that needs the clock but no tasks."""

        async def main():
            return act()

        with inline_threads():
            return trio.run(main, clock=self.clock)

    def run_(self, act):
        """Run one system call or more, with the daemon's tasks; a hang is a failure."""

        async def main():
            with trio.fail_after(3600):
                async with self.rig.workers():
                    result = await act()
            self.rig.check()
            for space in self.spaces:
                space.now = self.rig.now()
            return result

        with inline_threads():
            return trio.run(main, clock=self.clock)

    def both(self, real, modelled):
        """Run a step on both sides; they must raise the same errno, or none. Return the results, or None.

        In an outage the mount may also say so, and then nothing must have happened.
        """

        async def act():
            try:
                return await real()
            except KvfsError as exc:
                return exc

        answer = self.run_(act)
        if self.outage is not None and isinstance(answer, StoreError):
            return None
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

    @property
    def model(self) -> Space:
        """Return the model of the namespace that the steps are about."""
        return self.spaces[self.here % len(self.spaces)]

    def path(self, names, space=None) -> str:
        """Return a path of a namespace in the mount."""
        root = ("", (space or self.model).name) if self.shape == "account" else ("",)
        return "/".join((*root, *names)) or "/"

    def existing(self, pick, fallback, *, directories=False):
        """Return one of the paths there are, or now and then another."""
        files, dirs = self.model.tree()
        known = sorted(dirs) if directories else sorted(files)
        if not known or pick % 4 == 0:
            return fallback
        return known[pick // 4 % len(known)]

    @property
    def unknown_size(self) -> int | None:
        """Return the size of a file whose size cannot be had: the largest possible."""
        return VALUE_BYTES if self.outage is not None else None

    def value_there(self, space, key) -> bytes | None:
        """Return the server's value of a key."""
        read = self.run_(lambda: self.rig.backend.get(space.namespace, key))
        return read.value if read is not None else None

    def pass_time(self, seconds) -> None:
        """Let time go by, and settle the changes whose time has come."""
        self.clock.jump(seconds)
        self.run_(self.rig.settle)
        for space in self.spaces:
            space.settle()

    @invariant()
    def compare(self):
        """Compare the whole tree with the model."""
        if self.rig is None or not self.spaces:
            return
        for stream in self.streams:
            try:
                stream[4] &= stream[1].children(stream[2])
            except KvfsError:
                stream[4].clear()
        self.steps += 1
        if self.steps % self.every == 0:
            self.run_(self.compare_all)

    async def compare_all(self):
        """Compare every namespace."""
        if self.shape == "account" and self.outage is None:
            assert sorted(await self.kernel.listdir("/")) == sorted(space.name for space in self.spaces)
        for space in self.spaces:
            await self.compare_tree(space)

    async def compare_tree(self, space, names=()):
        """Compare names, sizes, contents, attributes and times, from a directory on down."""
        dirs = space.tree()[1]
        try:
            listed = await self.kernel.listdir(self.path(names, space))
            assert len(listed) == len(set(listed))
            assert set(listed) == space.children(names), (names, set(listed) ^ space.children(names))
            for name in listed:
                path = (*names, name)
                attr = await self.kernel.stat(self.path(path, space))
                assert attr.is_directory == (path in dirs)
                if attr.is_directory:
                    await self.compare_tree(space, path)
                else:
                    await self.compare_file(space, path, attr)
        except StoreError:
            if self.outage is None:
                raise

    async def compare_file(self, space, path, attr):
        """Compare one file."""
        key, text = space.tree()[0][path], self.path(path, space)
        value, metadata, mtime = space.shown(path)
        assert await self.kernel.getxattr(text, "user.kvfs.key") == key.encode()
        assert attr.size in (len(value), self.unknown_size), path
        if space.visible()[key].expiration is not None:
            assert attr.mtime == mtime, (path, attr.mtime, mtime, space.now)
        elif key in space.loose and attr.mtime > mtime - NOW_SECONDS and attr.mtime != mtime:
            assert (
                attr.mtime <= space.now
            )  # dated when it was found, also where the time set before lay ahead
        else:
            assert abs(attr.mtime - mtime) <= self.slack, (path, attr.mtime - mtime)
        assert await self.kernel.read(text) == value
        if metadata is not None:
            assert await self.kernel.getxattr(text, "user.kvfs.metadata") == metadata
        else:
            assert await self.kernel.listxattr(text) == []

    def teardown(self):
        """Compare everything once more, then remove it."""
        if self.scratch is None:
            return
        with self.scratch:
            if self.spaces:
                try:
                    self.last_look()
                finally:
                    self.alive(self.rig.close)

    def last_look(self):
        """Check what is there, what the server has in the end, and that nothing is held any more."""
        self.back()
        self.run_(self.compare_all)
        self.drain()
        self.run_(self.compare_all)
        for real, _, _ in self.files:
            self.run_(lambda real=real: self.kernel.close(real))
        for stream in self.streams:
            self.run_(lambda stream=stream: self.kernel.closedir(stream[0]))
        self.alive(self.kernel.forget)
        assert len(self.rig.fs.handles) == 0
        assert self.rig.fs.inodes.count <= 1 + len(self.spaces), "inodes leak"
