"""Values out of a store at the fewest requests: text by the hundred, binaries singly, and which is which.

A bulk get that meets a binary value fails as a whole. Keys that are known to be binary, or whose name tells,
are asked for singly; the others are found by halving, which takes at most 14 requests each.
"""

import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from kvfs.core.errors import BodyTooLargeError, NotTextError, StoreError
from kvfs.core.limits import BULK_GET_KEYS
from kvfs.core.model import BareEntry, Entry, Key, NamespaceId
from kvfs.data.items import Item, Kind, Loaded, Problem
from kvfs.data.place import Taken
from kvfs.store.base import Store
from kvfs.store.bulkread import may_be_one_key

MOST_GROUPS: Final = 4  # bulk gets in flight: the API's limit of requests allows no more for long
MOST_SINGLES: Final = 8  # gets in flight
WAVE_BYTES: Final = 8 * 1024 * 1024  # of values in flight, as far as the largest of those before tell
REMEMBERED: Final = 16  # waves
_TELLING: Final = re.compile(
    r"\.(png|jpe?g|gif|webp|avif|ico|bmp|tiff?|heic|pdf|zip|t?gz|bz2|xz|zst|br|7z|rar|tar|jar|wasm|woff2?|[ot]tf|eot"
    r"|mp[34]|m4a|og[gav]|webm|mov|avi|flac|wav|bin|exe|dll|so|class|pyc|sqlite|db|dat|parquet|avro|pb|msgpack|cbor"
    r"|der|p12|pfx)$",
    re.IGNORECASE,
)


class _TooMuchError(Exception):
    """More values than the memory is meant to hold at once."""


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
        self._keys = BULK_GET_KEYS  # of a group: fewer where they are too much for one answer
        self._fetched = 0  # bytes of values in this wave
        # the sizes of the last ones; at the first nothing is known, so they are few
        self._groups: deque[float] = deque([WAVE_BYTES / 1.5], REMEMBERED)
        self._alone: deque[float] = deque([WAVE_BYTES], REMEMBERED)

    async def take(self, items: Sequence[Item]) -> Taken:
        """A wave of `items`, whole entries in their order."""
        while True:
            wave, singly = self._wave(items)
            alone = {item.origin for item in singly}
            texts = [item for item in wave if item.origin not in alone]
            found: _Found = {}
            self._fetched = 0
            async with trio.open_nursery() as nursery:
                for start in range(0, len(texts), self._keys):
                    nursery.start_soon(self._group, texts[start : start + self._keys], found)
                for item in singly:
                    nursery.start_soon(self._one, item, found)
            count = next((number for number, item in enumerate(wave) if item.origin not in found), len(wave))
            self._keys = min(BULK_GET_KEYS, self._keys * 2) if count == len(wave) else max(1, self._keys // 2)
            if count:
                return self._taken(wave[:count], items[count:], found)

    def _wave(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Item]]:
        """As many of the first `items` as fit into memory, and those of them that are asked for singly."""
        groups = max(1, min(MOST_GROUPS, int(WAVE_BYTES / max(self._groups))))
        singles = max(1, min(MOST_SINGLES, int(WAVE_BYTES / max(self._alone))))
        singly: list[Item] = []
        for number, item in enumerate(items):
            if number - len(singly) >= groups * self._keys:
                return items[:number], singly
            if self._binaries.is_likely(item.origin):
                if len(singly) >= singles:
                    return items[:number], singly
                singly.append(item)
        return items, singly

    async def _group(self, items: Sequence[Item], found: _Found) -> None:
        """Read a group, or the first part of it: what is not found then is asked for again in the next wave."""
        with suppress(_TooMuchError):
            await self._bulk(items, found)
        entries = [entry for item in items if (entry := found.get(item.origin)) is not None]
        size = sum(len(entry.value) for entry in entries)
        self._groups.append(size / max(1, len(entries)) * BULK_GET_KEYS + 1)

    async def _one(self, item: Item, found: _Found) -> None:
        with suppress(_TooMuchError):
            await self._single(item, found)
        entry = found.get(item.origin)
        self._alone.append(1 if entry is None else len(entry.value) + 1)

    def _check_room(self) -> None:
        """Raises `_TooMuchError` when what this wave has read is enough for the memory."""
        if self._fetched > WAVE_BYTES:
            raise _TooMuchError

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
            self._check_room()
            try:
                entries = await self._store.bulk_get(self._namespace, [Key(item.origin) for item in items])
            except NotTextError:
                is_text = False
            except BodyTooLargeError:
                if len(items) > 1:
                    raise _TooMuchError from None
                await self._single(items[0], found)
                return True
            except StoreError as exc:
                if not may_be_one_key(exc):
                    raise
                return await self._halves(items, found)
            else:
                for item in items:
                    key = Key(item.origin)
                    if key in entries:
                        entry = _completed(entries[key], item)
                        found[item.origin] = entry
                        self._fetched += 0 if entry is None else len(entry.value)
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
        """Something about one of them is wrong, or about all."""
        if len(items) == 1:
            await self._single(items[0], found)
            return True
        middle = len(items) // 2
        first = await self._bulk(items[:middle], found)
        return await self._bulk(items[middle:], found) and first

    async def _single(self, item: Item, found: _Found) -> None:
        self._check_room()
        read = await self._store.get(self._namespace, Key(item.origin))
        if read is None:
            found[item.origin] = None
            return
        self._fetched += len(read.value)
        expiration = item.expiration if read.expiration is None else read.expiration
        found[item.origin] = Entry(read.value, item.metadata, expiration)


def _completed(entry: Entry | None, item: Item) -> Entry | None:
    """The API may leave the expiration out of a bulk get, and the metadata; then the listing knows them."""
    if entry is None:
        return None
    metadata = item.metadata if isinstance(entry, BareEntry) else entry.metadata
    return Entry(entry.value, metadata, item.expiration if entry.expiration is None else entry.expiration)
