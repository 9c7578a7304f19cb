"""Steps in which another client writes a key between its read here and its save."""

import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from model.draws import PICK, SMALL
from model.machine import Frame
from msgspec.structs import replace

from kvfs.core.errors import KvfsError
from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import Entry
from kvfs.core.names import SELF

MARK = ".kvfs-conflict-host-"
KEEPING = ("moved", "directory moved", "appended", "attribute")
"""Ways that carry the content on that the caches have."""
NEW = ("new", "moved to a new name")
"""Ways to a name that another client makes meanwhile."""
WAYS = ("truncated", "replaced", "removed", "backed up", "there and back", *NEW, *KEEPING)


class ConflictSteps(Frame):
    """The ways to save, to move and to make a name, each with and without a look in between."""

    @precondition(lambda self: self.outage is None)
    @rule(pick=PICK, ours=SMALL, theirs=SMALL, way=st.sampled_from(WAYS), look=st.booleans())
    def conflict(self, pick, ours, theirs, way, look):
        """Check the outcome: both values are kept if the mount keeps both, else ours stays."""
        self.drain()
        self.pass_time(self.settle_window + 1)
        path = self.quiet_file(pick, in_directory=way == "directory moved")
        if path is None:
            return
        model, beside = self.model, (*path[:-1], "zz")
        read = model.visible()[model.file(path)]
        self.both(lambda: self.kernel.listdir(self.path(path[:-1])), lambda: None)
        self.both(lambda: self.kernel.read(self.path(path)), lambda: None)
        key = model.child(beside).key if way in NEW else model.file(path)
        found = Entry(theirs, None if way in NEW else read.metadata)
        self.run_(lambda: self.rig.backend.put(model.namespace, key, found))
        look = look and way not in NEW
        if look:
            self.theirs_is_there(key, found)
            self.refresh()
            self.both(lambda: self.kernel.stat(self.path(path)), lambda: None)
        for real, modelled in self.calls(way, path, beside, ours):
            self.both(real, modelled)
        if not look:
            self.theirs_is_there(key, found)
        accepted = {theirs} if look and way in KEEPING else {read.value} if way not in NEW else set()
        self.settle_conflict(key, theirs, accepted)
        self.refresh()  # where nothing was changed here (an empty append), the mount has not met theirs

    def quiet_file(self, pick, *, in_directory=False):
        """Return a file that nobody has open and nobody changed, with room for another name beside it.

        With `in_directory` it is in one that can be renamed, with room beside that.
        """
        model = self.model
        busy = {*model.opens, *model.changes}
        found = []
        for path, key in sorted(model.tree()[0].items()):
            if key in busy or model.visible()[key].expiration is not None or path[-1] == SELF:
                continue
            try:
                if in_directory and (len(path) < 2 or not self.is_movable(path[:-1])):
                    continue
                if model.at((*path[:-1], "zz")) is None and model.child((*path[:-1], "zz")).key is not None:
                    found.append(path)
            except KvfsError:
                continue
        return found[pick % len(found)] if found else None

    def is_movable(self, directory):
        """Return True if the model has room for a directory `zd` beside it, and for all that is in it."""
        model, goal = self.model, (*directory[:-1], "zd")
        ref = model.child(goal).directory
        if model.is_chunk(directory) or ref is None or ref.is_chunk or model.at(goal) is not None:
            return False
        longest = max(len(key.encode()) for key in model.tree()[0].values())
        return longest + len("zd") <= KEY_BYTES

    def theirs_is_there(self, key, entry):
        """Put another client's value into the model's server."""
        self.model.server[key] = entry
        if key not in self.model.changes:
            self.model.loose.add(key)

    def calls(self, way, path, beside, ours):
        """Do the calls of the program, on both sides."""
        kernel, model, old = self.kernel, self.model, self.path(path)

        def write(names):
            return lambda: kernel.write(self.path(names), ours), lambda: self.overwrite(names, ours)

        def move(source, goal):
            return (
                lambda: kernel.rename(self.path(source), self.path(goal)),
                lambda: model.rename(source, goal),
            )

        remove = (lambda: kernel.unlink(old), lambda: model.unlink(path))
        append = (lambda: self.really_append(old, ours), lambda: self.append(path, ours))
        attribute = (
            lambda: kernel.setxattr(old, "user.kvfs.metadata", b'{"w":1}'),
            lambda: model.setxattr(path, "user.kvfs.metadata", b'{"w":1}'),
        )
        return {
            "truncated": [write(path)],
            "replaced": [write(beside), move(beside, path)],
            "removed": [remove, write(path)],
            "backed up": [move(path, beside), write(path)],
            "there and back": [move(path, beside), move(beside, path)],
            "new": [write(beside)],
            "moved": [move(path, beside)],
            "moved to a new name": [move(path, beside)],
            "directory moved": [move(path[:-1], (*path[:-2], "zd"))],
            "appended": [append],
            "attribute": [attribute],
        }[way]

    def overwrite(self, names, value):
        """Do `printf > path` in the model."""
        file = self.model.open(names, create=True, truncate=True)
        if value:
            self.model.write(file, 0, value)
        self.model.close(file)

    async def really_append(self, path, value):
        """Do `printf >> path`."""
        file = await self.kernel.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            if value:
                size = (await self.kernel.fstat(file)).size
                await self.kernel.pwrite(file, size, value)
        finally:
            await self.kernel.close(file)

    def append(self, names, value):
        """Do `printf >> path` in the model."""
        file = self.model.open(names)
        if value:
            self.model.write(file, len(file.entry.value), value)
        self.model.close(file)

    def settle_conflict(self, key, theirs, accepted):
        """Keep theirs under the key, if it is neither what was read nor what is sent, and ours beside it."""
        model = self.model
        change = model.changes.get(key)
        is_ours = key not in model.changes or (change is not None and change.value == theirs)
        if self.conflicts != "keep-both" or theirs in accepted or is_ours:
            self.drain()
            return
        before = self.copies()
        self.run_(self.rig.drain)
        mtime = model.times.pop(key, None)
        model.forget(key)
        model.loose.add(key)
        if change is not None:
            [copy] = self.copies() - before
            model.change(copy, replace(change))
            model.loose.add(copy)
            if mtime is not None:
                model.times[copy] = mtime
        self.drain()

    def copies(self):
        """Return the keys of the server that are copies."""
        listed = self.run_(lambda: self.rig.backend.list_keys(self.model.namespace)).keys
        return {info.key for info in listed if MARK in info.key}
