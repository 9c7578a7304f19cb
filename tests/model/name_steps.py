"""Steps on names: of files, of directories, of namespaces, and directories that stay open while names change."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from model.draws import PATHS, PICK
from model.machine import Frame

from kvfs.core.errors import (
    CrossDeviceError,
    ExistsError,
    IsADirectoryError_,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
)

TITLES = st.sampled_from(["ns", "two", "x%2Fy", "%2E%2E"])


class NameSteps(Frame):
    """unlink, mkdir, rmdir, rename, readdir."""

    @precondition(lambda self: len(self.spaces) > 1)
    @rule(pick=PICK)
    def go(self, pick):
        """Make another namespace the one that the steps are about."""
        self.here = pick

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

    # namespaces

    def named(self, name):
        """Return the model of a namespace; None when there is none."""
        return next((space for space in self.spaces if space.name == name), None)

    @precondition(lambda self: self.shape == "account" and len(self.spaces) < 3 and self.outage is None)
    @rule(name=TITLES)
    def make_namespace(self, name):
        """Make a namespace by mkdir at the root."""

        def modelled():
            if self.named(name):
                raise ExistsError(name)

        if self.both(lambda: self.kernel.mkdir("/" + name), modelled):
            titles = {namespace.id for namespace in self.run_(self.rig.backend.list_namespaces)}
            [namespace] = titles - {space.namespace for space in self.spaces}
            self.add_space(name, namespace, int(self.rig.now_at(self.clock)))

    @precondition(lambda self: self.shape == "account" and len(self.spaces) > 1 and self.outage is None)
    @rule(name=TITLES)
    def remove_namespace(self, name):
        """Remove a namespace by rmdir at the root, which must be empty, on the server too."""
        space = self.named(name)

        def modelled():
            if space is None:
                raise NotFoundError(name)
            if not space.is_bare:
                raise NotEmptyError(name)
            space.drain()
            if not space.is_empty_there:
                raise NotEmptyError(name)

        if space is not None:
            self.close_streams(space)
        if self.both(lambda: self.kernel.rmdir("/" + name), modelled):
            for key in list(space.opens):
                space.detach(key)
            for _, file, _ in self.files:
                file.lost = None if file.space is space else file.lost
            self.spaces.remove(space)

    def close_streams(self, space):
        """Close the open listings of a namespace before it goes."""
        for stream in [stream for stream in self.streams if stream[1] is space]:
            self.run_(lambda stream=stream: self.kernel.closedir(stream[0]))
            self.streams.remove(stream)

    @precondition(lambda self: self.shape == "account" and self.outage is None)
    @rule(old=TITLES, new=TITLES)
    def rename_namespace(self, old, new):
        """mv at the root: another title."""

        def modelled():
            space = self.named(old)
            if space is None:
                raise NotFoundError(old)
            if old != new and self.named(new):
                raise ExistsError(new)
            space.name = new

        self.both(lambda: self.kernel.rename("/" + old, "/" + new), modelled)

    @precondition(lambda self: len(self.spaces) > 1)
    @rule(old=PATHS, new=PATHS, pick=PICK, other=PICK, top=st.sampled_from([None, None, "old", "new"]))
    def rename_across(self, old, new, pick, other, top):
        """mv from one namespace to another, or between one and the root: a copy and a delete."""
        source = self.model
        goal = self.spaces[(self.here + 1) % len(self.spaces)]
        old = () if top == "old" else self.existing(pick, old)
        new = () if top == "new" else new

        def modelled():
            found, there = source.at(old), goal.at(new)
            if found is None:
                raise NotFoundError(old)
            if there is not None and isinstance(there, tuple) != isinstance(found, tuple):
                raise (IsADirectoryError_ if isinstance(there, tuple) else NotADirectoryError_)(new)
            raise CrossDeviceError(new)

        self.both(lambda: self.kernel.rename(self.path(old, source), self.path(new, goal)), modelled)

    # listings

    @rule(names=PATHS, pick=PICK)
    def listdir(self, names, pick):
        """ls."""
        names = self.existing(pick, names, directories=True)
        found = self.both(lambda: self.kernel.listdir(self.path(names)), lambda: self.model.children(names))
        if found is not None:
            assert sorted(found[0]) == sorted(found[1])

    @precondition(lambda self: len(self.streams) < 3)
    @rule(names=PATHS, pick=PICK)
    def opendir(self, names, pick):
        """opendir, kept open."""
        names = self.existing(pick, names, directories=True) if pick % 3 else ()
        opened = self.both(lambda: self.kernel.opendir(self.path(names)), lambda: self.model.children(names))
        if opened is not None:
            self.streams.append([opened[0], self.model, names, {}, set(opened[1])])

    @precondition(lambda self: self.streams and self.outage is None)
    @rule(pick=PICK, count=st.sampled_from([1, 2, 5]))
    def getdents(self, pick, count):
        """Read on in an open listing: an offset means the same entry for ever, and no name comes twice."""
        directory, _, _, seen, _ = self.streams[pick % len(self.streams)]
        for name, offset in self.run_(lambda: self.kernel.getdents(directory, count)):
            assert seen.setdefault(offset, name) == name
        assert len(set(seen.values())) == len(seen)

    @precondition(lambda self: self.streams)
    @rule(pick=PICK, index=PICK)
    def seekdir(self, pick, index):
        """seekdir to an offset that was told before."""
        directory, _, _, seen, _ = self.streams[pick % len(self.streams)]
        if seen:
            directory.offset = sorted(seen)[index % len(seen)]

    @precondition(lambda self: self.streams and self.outage is None)
    @rule(pick=PICK)
    def closedir(self, pick):
        """Close a listing: its rest has every name that was there all the time."""
        directory, _, _, seen, always = self.streams.pop(pick % len(self.streams))

        async def act():
            directory.offset = max(seen, default=0)
            rest = await self.kernel.getdents(directory)
            await self.kernel.closedir(directory)
            return rest

        names = set(seen.values()) | {name for name, _ in self.run_(act)}
        assert always <= names
