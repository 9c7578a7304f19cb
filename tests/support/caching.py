"""The rooms of the cache over a small store that counts, with a clock that stands still."""

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from support.clock import Clock
from support.faults import FaultStore

from kvfs.cache.lister import Lister
from kvfs.cache.listings import Listings
from kvfs.cache.loader import Loader
from kvfs.cache.values import Clean, Values
from kvfs.core.content import is_text
from kvfs.core.errors import BodyTooLargeError, NotTextError
from kvfs.core.limits import BULK_GET_BYTES
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, NamespaceId, ValueRead

NS = NamespaceId("0" * 32)


class MemoryStore:
    """The reading half of a store: a dict. Text only by bulk, as the API; each request takes `latency`."""

    def __init__(self, entries: dict[str, bytes], latency: float = 0.0) -> None:
        self.entries = {key: Entry(value) for key, value in entries.items()}
        self.latency = latency
        self.gaps = 0  # empty pages before each that has keys
        self._sorted: list[str] | None = None

    def sorted_keys(self) -> list[str]:
        if self._sorted is None or len(self._sorted) != len(self.entries):
            self._sorted = sorted(self.entries)
        return self._sorted

    async def list_keys(self, namespace, *, prefix="", cursor=None, limit=1000):
        await trio.sleep(self.latency)
        after, gap = cursor.rsplit("|", 1) if cursor else ("", "0")
        keys = [k for k in self.sorted_keys() if k.startswith(prefix) and (not after or k > after)]
        if int(gap) < self.gaps:
            return KeyPage((), f"{after}|{int(gap) + 1}")
        page = tuple(
            KeyInfo(Key(k), self.entries[k].metadata, self.entries[k].expiration) for k in keys[:limit]
        )
        return KeyPage(page, f"{page[-1].key}|0" if len(keys) > limit else None)

    async def bulk_get(self, namespace, keys):
        await trio.sleep(self.latency)
        found = {key: self.entries.get(key) for key in keys}
        values = [entry.value for entry in found.values() if entry is not None]
        if not all(is_text(value) for value in values):
            raise NotTextError("bulk get keys: not text", code=10029)
        if sum(map(len, values)) > BULK_GET_BYTES:
            raise BodyTooLargeError("bulk get: 413", status=413)
        return found

    async def get(self, namespace, key):
        await trio.sleep(self.latency)
        entry = self.entries.get(key)
        return ValueRead(entry.value, entry.expiration) if entry is not None else None

    async def get_metadata(self, namespace, key):
        await trio.sleep(self.latency)
        entry = self.entries.get(key)
        return entry.metadata if entry is not None else None


@dataclass
class Room:
    """The cache over a store. `walk` reads keys one after the other and checks what it gets."""

    store: FaultStore
    memory: MemoryStore
    clock: Clock
    listings: Listings
    lister: Lister
    values: Values
    loader: Loader
    shadowed: set[str] = field(default_factory=set)
    stop: Callable[[], None] = lambda: None

    def clean(self, value: bytes) -> Clean:
        """Return a value as of now."""
        return Clean(value, None, None, self.clock())

    async def walk(self, keys: Iterable[str], pause: float = 0.0) -> None:
        for key in keys:
            clean = await self.loader.load((NS, Key(key)), directory_of(key))
            assert clean is not None
            assert clean.value == self.memory.entries[key].value
            if pause:
                await trio.sleep(pause)
            else:
                await trio.lowlevel.checkpoint()

    async def listed(self) -> None:
        """List everything, and start the count of requests anew."""
        await self.lister.whole(NS, "")
        self.store.calls.clear()

    def reads(self) -> dict[str, int]:
        counts = {name: self.store.count(name) for name in ("bulk_get", "get", "get_metadata")}
        return {name: count for name, count in counts.items() if count}

    def failed_bulks(self) -> int:
        bulks = [call.keys for call in self.store.calls if call.operation == "bulk_get"]
        return sum(not all(is_text(self.memory.entries[key].value) for key in keys) for keys in bulks)


def directory_of(key: str) -> str:
    return key[: key.rfind("/") + 1]


@asynccontextmanager
async def opened_room(
    entries: dict[str, bytes], *, latency: float = 0.0, ttl: float = 60.0, cache: int = 256 << 20
) -> AsyncIterator[Room]:
    """Yield a room over these entries, its loader running."""
    clock, memory = Clock(), MemoryStore(entries, latency)
    store = FaultStore(memory)
    shadowed: set[str] = set()
    listings, values = Listings(ttl, clock), Values(cache, ttl, clock)
    loader = Loader(store, values, listings, clock, lambda _, key: key in shadowed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loader.run)
        lister = Lister(store, listings, clock)
        stop = nursery.cancel_scope.cancel
        yield Room(store, memory, clock, listings, lister, values, loader, shadowed, stop)
        nursery.cancel_scope.cancel()


def texts(count: int, pattern: str = "file-{:06}.txt", size: int = 8) -> dict[str, bytes]:
    return {pattern.format(number): b"x" * size for number in range(count)}


def binaries(count: int, pattern: str = "data-{:06}.unheard") -> dict[str, bytes]:
    return {pattern.format(number): b"\xff" + str(number).encode() for number in range(count)}


def bulks(count: int) -> int:
    """Return the fewest bulk gets for so many keys."""
    return math.ceil(count / 100)
