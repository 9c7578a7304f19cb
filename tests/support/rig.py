"""One mount without a kernel: store, journal, sender and file system, put together as the daemon does.

It works over files that survive a crash, without threads, in simulated time.
"""

from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing
from support.faults import FaultStore
from support.inline import open_inline
from support.journal_check import check_journal
from support.journals import START, stored
from support.kernel import FakeKernel

from kvfs.config import Config, LocalSource
from kvfs.core.model import Entry
from kvfs.daemon.build import Stores, build_filesystem, build_reading, settle_into
from kvfs.daemon.controls import Controls
from kvfs.daemon.undo import Undo
from kvfs.host.requests import handlers_of
from kvfs.journal.journal import Journal
from kvfs.sender.events import EventKind, OnConflict, SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.breaker import Breaker, Breaking


class Rig:
    """Everything of one mount but the kernel. `now` is the wall clock; without one it goes with trio's."""

    def __init__(
        self, base: Path, *, now=None, settle: float = 0.0, on_conflict="overwrite", **config
    ) -> None:
        self.base = base
        self.now = now or (lambda: START + trio.current_time())
        options = {
            "mountpoint": base / "mnt",
            "state_dir": base,
            "umask": 0o022,
            "on_conflict": on_conflict,
        } | config
        self.config = Config(LocalSource(base / "store.db"), **options)
        self._settle = settle
        self._on_conflict = OnConflict(on_conflict)
        self.place = None
        self.layers = None  # the store → `Stores`, as the daemon makes them for the API
        self.breaking = True  # False: what failed a moment ago is asked again at once, and nothing takes time

    def open(self) -> None:
        """Build what the daemon builds at its start. `place` is where the mount's root is, as `mount_place`'s."""
        opened = open_inline(self.base / "store.db", now=self.now)
        self.backend = opened.__enter__()
        self._closing = [opened]
        self.store = FaultStore(self.backend)
        self.journal = Journal.open(self.base / "journal.db", source="test", now=self.now)
        self._closing.append(self.journal)
        if self.layers is not None:
            stores = self.layers(self.store)
        else:
            breaker = Breaker()
            reading = Breaking(self.store, breaker) if self.breaking else self.store
            stores = Stores(reading, self.store, breaker=breaker)
        self.reading = build_reading(
            self.config, stores, self.journal, at_root=self.place is not None, now=self.now
        )
        self.events = []
        self.controls = None
        self.sender = Sender(
            self.journal,
            stores.writing,
            now=self.now,
            options=SenderOptions(
                settle_window=self._settle, on_conflict=self._on_conflict, delay=self.config.write_back,
                host="host",
            ),
            on_settled=lambda changes: settle_into(self.reading, changes, self.now()),
            on_event=self._event,
        )  # fmt: skip
        self.kernel = FakeKernel(self.now)
        self.fs = build_filesystem(
            self.config, self.reading, self.sender, self.kernel, self.place, now=self.now
        )
        self.kernel.fs = self.fs
        self.undo = Undo(self.config, self.fs, self.reading, self.now)
        self.history = self.undo.history
        self.controls = Controls(self.fs, self.journal, self.sender, None, None)

    def _event(self, event) -> None:
        self.events.append(event)
        for key in (event.key, event.copy):
            if key is not None and event.kind is EventKind.CONFLICT:
                self.fs.forgetting.given_up(event.namespace, key)

    async def decide(self, what: str) -> None:
        """Retry all rejected changes, or discard them."""
        await handlers_of(self.controls)[f"rejected_{what}"]({"all": True}, None)

    def now_at(self, clock: trio.abc.Clock) -> float:
        """Return `now` inside a run with this clock."""
        return START + clock.current_time()

    def close(self) -> None:
        """Crash: nothing is flushed, nothing sent; only the files remain."""
        for opened in reversed(self._closing):
            opened.__exit__(None, None, None)

    def restart(self) -> None:
        """Crash and mount again, inside `workers`."""
        self.close()
        self.open()
        self._nursery.start_soon(self.reading.loader.run)

    @asynccontextmanager
    async def workers(self):
        """Run the daemon's tasks that loads wait for; end when no load is under way."""
        async with trio.open_nursery() as nursery:
            self.reading.loader._stopped = False  # one run after another stands for one that goes on
            nursery.start_soon(self.reading.loader.run)
            self._nursery = nursery
            yield self
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def other(self, key: str, value: bytes | None, metadata=None, ahead: int | None = None) -> None:
        """Put a key as another client, or delete it (None); its expiration is so many seconds ahead."""
        if value is None:
            await self.backend.delete(self.namespace, key)
        else:
            expiration = None if ahead is None else int(self.now()) + ahead
            await self.backend.put(self.namespace, key, Entry(value, metadata, expiration))

    async def stored(self) -> dict[str, Entry]:
        """Return everything the store has in the namespace of the test."""
        return await stored(self.backend, self.namespace)

    async def settle(self) -> None:
        """Hand on the changes that have settled by now."""
        self.sender._settle_at = 0.0  # the loop's memory of when to look next: here nobody loops
        await self.sender.settle_due()

    async def drain(self) -> None:
        """Send everything pending, and settle what settles at once."""
        await self.sender.drain()
        await self.settle()

    def check(self) -> None:
        """Check the invariants of all rooms, and the kernel's counts against ours."""
        self.fs.check_invariants()
        check_journal(self.journal)
        if self.history is not None:
            self.history.check_invariants()
        for ino, count in self.kernel.counts.items():
            assert self.fs.inodes.get(ino).lookups == count, f"inode {ino}: the kernel counts {count}"


@asynccontextmanager
async def open_rig(base: Path, **options):
    """Yield a rig at work with an empty namespace `ns`; its invariants hold in the end, and it is closed."""
    rig = Rig(base, **options)
    rig.open()
    try:
        rig.namespace = (await rig.backend.create_namespace("ns")).id
        async with rig.workers():
            yield rig
            rig.check()
    finally:
        rig.close()
