"""Steps of the world: other clients, time, sending, outages, refusals, crashes, memory pressure."""

import trio
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from model.draws import AHEAD, DATA, METADATA, PICK
from model.machine import OUTAGES, TTL, Frame

from kvfs.core.errors import (
    IsADirectoryError_,
    NotADirectoryError_,
    NotFoundError,
    StaleError,
)
from kvfs.core.model import Entry


class WorldSteps(Frame):
    """Steps that happen to a mount from outside."""

    # other clients

    @precondition(lambda self: self.outage is None)
    @rule(data=st.data(), value=DATA, metadata=METADATA, ahead=AHEAD, refresh=st.booleans())
    def other_puts(self, data, value, metadata, ahead, refresh):
        """Let another client write a key; the mount learns of it in time."""
        key = data.draw(self.keys)
        if self.model.local_names.matches(self.model.naming.name_of_key(key)):
            ahead = None  # the listing, which may remember it, says if a local name is free
        self.other(
            key, Entry(value, metadata, None if ahead is None else int(self.model.now) + ahead), refresh
        )

    @precondition(lambda self: self.outage is None)
    @rule(data=st.data(), pick=PICK, refresh=st.booleans())
    def other_deletes(self, data, pick, refresh):
        """Let another client delete a key."""
        known = sorted(self.model.server)
        key = known[pick % len(known)] if known and pick % 4 else data.draw(self.keys)
        self.other(key, None, refresh)

    def other(self, key, entry, refresh):
        """Do another client's change, and let the time pass after which it must be seen."""
        if key in self.model.rejected or (self.conflicts == "keep-both" and key in self.model.opens):
            return  # a conflict: a step of its own
        if self.rig.journal.get(self.model.namespace, key) is not None:
            self.drain()
            self.pass_time(self.settle_window + 1)
        before = self.contents()
        self.run_(lambda: self.put_there(key, entry))
        after = self.contents()
        allowed = {path: [before.get(path), after.get(path)] for path in before | after}
        for path in self.paths_of(key):  # somebody may have it open: whoever comes by the name has theirs
            allowed[path].append(entry.value if entry is not None else None)
        self.run_(lambda: self.probe(allowed))
        if refresh:
            self.refresh()
        else:
            self.pass_time(TTL)
        self.model.part(key)
        for path in self.paths_of(key):
            self.run_(lambda path=path: self.kernel.read(self.path(path)))

    def paths_of(self, key):
        """Return the paths at which the model shows a key."""
        return [path for path, found in self.model.tree()[0].items() if found == key]

    async def put_there(self, key, entry):
        """Change the server's content, and the model's knowledge of it."""
        if entry is None:
            await self.rig.backend.delete(self.model.namespace, key)
            self.model.server.pop(key, None)
            return
        await self.rig.backend.put(self.model.namespace, key, entry)
        self.model.server[key] = entry
        if key not in self.model.changes:
            self.model.loose.add(key)

    def contents(self):
        """Return content by path."""
        return {path: self.model.shown(path)[0] for path in self.model.tree()[0]}

    async def probe(self, expected):
        """Check, before knowledge is old, that each file is whole, as it was or as it is, never a mixture."""
        for path, allowed in expected.items():
            try:
                found = await self.kernel.read(self.path(path))
            except (NotFoundError, NotADirectoryError_, IsADirectoryError_, StaleError):
                found = None
            assert found in allowed, path

    @rule()
    def refresh(self) -> None:
        """`kvfs refresh`."""
        if self.outage is None:
            names = [self.model.name] if self.shape == "account" else []
            self.run_(lambda: self.rig.fs.forgetting.refresh(names))

    # time, sending

    @rule(seconds=st.sampled_from([1, 3, 10, 61, 130, 401]))
    def time_passes(self, seconds):
        """Let time pass: expirations come, knowledge gets old."""
        self.pass_time(seconds)

    @precondition(lambda self: self.outage is None)
    @rule()
    def drain(self):
        """Send everything pending: the server has exactly what the model says."""
        self.run_(self.rig.drain)
        for space in self.spaces:
            space.drain()
        soon = any(
            entry.expiration is not None and 0 < entry.expiration - space.now < 80
            for space in self.spaces
            for entry in space.server.values()
        )
        if soon:  # at KV's floor the second of the request counts: not modelled, only awaited
            self.pass_time(200)
        for space in self.spaces:
            self.run_(lambda space=space: self.compare_server(space))

    async def compare_server(self, space):
        """Compare the server key by key."""
        found = {}
        page = await self.rig.backend.list_keys(space.namespace)
        for info in page.keys:
            read = await self.rig.backend.get(space.namespace, info.key)
            found[info.key] = Entry(read.value, info.metadata, read.expiration)
        now = space.now
        expected = {k: e for k, e in space.server.items() if not (e.expiration and e.expiration <= now)}
        assert found == expected
        rejected = {change.key for change in self.rig.journal.rejected()}
        assert rejected == set().union(*(space.rejected for space in self.spaces))

    # trouble

    @precondition(lambda self: self.outage is None)
    @rule(kind=st.sampled_from(sorted(OUTAGES)))
    def outage_begins(self, kind):
        """Begin an outage: the server is out of reach, or refuses everything."""
        self.run_(self.compare_all)  # knowledge of before is served meanwhile
        self.outage = kind
        self.wire()

    @precondition(lambda self: self.outage is not None)
    @rule(seconds=st.sampled_from([1, 100]))
    def sending_in_an_outage(self, seconds):
        """Send in an outage: nothing is lost, nothing is set aside."""
        pending = self.rig.journal.pending_count
        rejected = len(self.rig.journal.rejected())

        async def act():
            with trio.move_on_after(seconds):
                await self.rig.sender.drain()

        self.run_(act)
        assert len(self.rig.journal.rejected()) == rejected
        assert self.rig.journal.pending_count <= pending  # expired ones are dropped

    @precondition(lambda self: self.outage is not None)
    @rule()
    def back(self):
        """End the outage."""
        self.outage = None
        self.wire()

    @precondition(lambda self: any(space.rejected for space in self.spaces))
    @rule(retry=st.booleans())
    def decide(self, retry):
        """`kvfs rejected retry --all`, or discard."""
        self.run_(lambda: self.rig.decide("retry" if retry else "discard"))
        for space in self.spaces:
            if retry:
                space.rejected.clear()
            else:
                space.discard()

    @rule()
    def crash(self):
        """Kill the daemon and mount again."""
        self.alive(self.rig.close)
        self.files, self.streams = [], []
        for space in self.spaces:
            space.crash()
        self.alive(self.rig.open)
        self.wire()

    @rule()
    def forget(self):
        """Forget clean knowledge, as under memory pressure."""
        self.alive(self.kernel.forget)
