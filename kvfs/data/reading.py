"""Values out of a store at the fewest requests: text by the hundred, binaries singly, and which is which.

A bulk get that meets a binary value fails as a whole. Keys that are known to be binary, or whose name tells,
are asked for singly; the others are found by halving, which takes at most 14 requests each.
"""

import re
from collections.abc import Sequence
from typing import Final

import trio

from kvfs.core.errors import NotTextError, StoreError
from kvfs.core.limits import BULK_GET_KEYS
from kvfs.core.model import BareEntry, Entry, Key, NamespaceId
from kvfs.data.items import Item, Kind, Loaded, Problem
from kvfs.data.place import Taken
from kvfs.store.base import Store
from kvfs.store.bulkread import may_be_one_key

MOST_GROUPS: Final = 10  # bulk gets in flight
WAVE_BYTES: Final = 12 * 1024 * 1024  # of values in flight, as far as those before tell
SINGLE_LANES: Final = 8
_TELLING: Final = re.compile(
    r"\.(png|jpe?g|gif|webp|avif|ico|bmp|tiff?|heic|pdf|zip|t?gz|bz2|xz|zst|br|7z|rar|tar|jar|wasm|woff2?|[ot]tf|eot"
    r"|mp[34]|m4a|og[gav]|webm|mov|avi|flac|wav|bin|exe|dll|so|class|pyc|sqlite|db|dat|parquet|avro|pb|msgpack|cbor"
    r"|der|p12|pfx)$",
    re.IGNORECASE,
)


_Found = dict[str, Entry | None]


class Binaries:
    """The keys of one namespace whose values are known to be binary."""

    def __init__(self, known: set[str] | None = None) -> None:
        self.known: set[str] = known if known is not None else set()

    def is_likely(self, key: str) -> bool:
        """Whether to ask for it singly."""
        return key in self.known or _TELLING.search(key) is not None


class BulkValues:
    """Reads the values of items of one namespace, in waves that fit into memory."""

    def __init__(self, store: Store, namespace: NamespaceId, binaries: Binaries) -> None:
        self._store = store
        self._namespace = namespace
        self._binaries = binaries
        self._group_bytes = WAVE_BYTES / 2  # of a bulk get, as far as known: the first waves are small

    async def take(self, items: Sequence[Item]) -> Taken:
        """A wave of `items`, whole entries in their order."""
        groups = max(1, min(MOST_GROUPS, int(WAVE_BYTES / max(1.0, self._group_bytes))))
        wave = items[: groups * BULK_GET_KEYS]
        found: _Found = {}
        singly = [item for item in wave if self._binaries.is_likely(item.origin)]
        alone = {item.origin for item in singly}
        texts = [item for item in wave if item.origin not in alone]
        async with trio.open_nursery() as nursery:
            for start in range(0, len(texts), BULK_GET_KEYS):
                nursery.start_soon(self._bulk, texts[start : start + BULK_GET_KEYS], found)
            for lane in range(SINGLE_LANES):
                nursery.start_soon(self._singles, singly[lane::SINGLE_LANES], found)
        self._learn(len(wave), sum(len(entry.value) for entry in found.values() if entry is not None))
        return self._taken(wave, items[len(wave) :], found)

    def _learn(self, keys: int, size: int) -> None:
        seen = size / keys * BULK_GET_KEYS
        self._group_bytes = max(seen, (self._group_bytes + seen) / 2)

    def _taken(self, wave: Sequence[Item], left: Sequence[Item], found: _Found) -> Taken:
        loaded, problems = [], []
        for item in wave:
            entry = found[item.origin]
            if entry is None:
                gone = "it was deleted or expired while the copy ran"
                problems.append(Problem(Kind.GONE, item.origin, "", gone))
                continue
            loaded.append(Loaded(item, entry))
        return Taken(loaded, left, problems)

    async def _bulk(self, items: Sequence[Item], found: _Found, *, has_binary: bool = False) -> bool:
        """Read `items` in bulk, or in halves; whether all of them are text. `has_binary`: it is known not to be so."""
        if len(items) == 1 and (has_binary or items[0].origin in self._binaries.known):
            self._binaries.known.add(items[0].origin)
            await self._single(items[0], found)
            return False
        is_text = not has_binary
        if is_text:
            try:
                entries = await self._store.bulk_get(self._namespace, [Key(item.origin) for item in items])
            except NotTextError:
                is_text = False
            except StoreError as exc:
                if not may_be_one_key(exc):
                    raise
                return await self._halves(items, found)
            else:
                for item in items:
                    key = Key(item.origin)
                    if key in entries:
                        found[item.origin] = _completed(entries[key], item)
                    else:  # the answer does not tell plainly
                        await self._single(item, found)
                return True
        if len(items) == 1:
            return await self._bulk(items, found, has_binary=True)
        middle = len(items) // 2
        first_is_text = await self._bulk(items[:middle], found)
        await self._bulk(items[middle:], found, has_binary=first_is_text)  # one of the halves has it
        return False

    async def _halves(self, items: Sequence[Item], found: _Found) -> bool:
        """Values that are too much for one answer."""
        if len(items) == 1:
            await self._single(items[0], found)
            return True
        middle = len(items) // 2
        first = await self._bulk(items[:middle], found)
        return await self._bulk(items[middle:], found) and first

    async def _singles(self, items: Sequence[Item], found: _Found) -> None:
        for item in items:
            await self._single(item, found)

    async def _single(self, item: Item, found: _Found) -> None:
        read = await self._store.get(self._namespace, Key(item.origin))
        if read is None:
            found[item.origin] = None
            return
        expiration = item.expiration if read.expiration is None else read.expiration
        found[item.origin] = Entry(read.value, item.metadata, expiration)


def _completed(entry: Entry | None, item: Item) -> Entry | None:
    """The API may leave the expiration out of a bulk get, and the metadata; then the listing knows them."""
    if entry is None:
        return None
    metadata = item.metadata if isinstance(entry, BareEntry) else entry.metadata
    return Entry(entry.value, metadata, item.expiration if entry.expiration is None else entry.expiration)
