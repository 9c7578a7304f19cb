"""Reads values of a store with the fewest requests: text by the hundred, binaries singly.

A bulk get that meets a binary value fails as a whole. Keys that are known to be binary, or whose name tells,
are asked for singly; the others are found by halving (`store/bulkread`), which takes at most 14 requests each.
"""

from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import trio
from msgspec import Struct

from kvfs.core.errors import BodyTooLargeError, NoAnswerError, StoreError, UnavailableError, without_frames
from kvfs.core.kinds import Kinds
from kvfs.core.limits import BULK_GET_KEYS, LIST_KEYS_MIN
from kvfs.core.model import BareEntry, Entry, Key, NamespaceId
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.place import Taken
from kvfs.store.base import Store
from kvfs.store.bulkread import BulkReading, ReadRequest, may_be_one_key

MOST_GROUPS: Final = 4  # bulk gets in flight: the API's limit of requests allows no more for long
MOST_SINGLES: Final = 8  # gets in flight
SILENT_TRIES: Final = 2  # tries of a value without an answer, with a check of the service in between
MOST_UNREADABLE: Final = 8  # values in a row that are answered with an error before it is the service's fault
WAVE_BYTES: Final = 8 * 1024 * 1024  # bytes of values in flight, estimated by the largest ones so far
REMEMBERED: Final = 16  # waves


class _TooMuchError(Exception):
    """More values than the memory is meant to hold at once."""


class _Unreadable(Struct, frozen=True):
    """The mark in place of a value for which the service answers an error, every time."""

    error: StoreError


_Found = dict[str, Entry | _Unreadable | None]


class BulkValues:
    """Reads the values of items of one namespace, in waves that fit into memory; learns which are binary."""

    def __init__(self, store: Store, namespace: NamespaceId, kinds: Kinds) -> None:
        self._store = store
        self._namespace = namespace
        self._reading = BulkReading(kinds, is_hurried=False)
        self._keys = BULK_GET_KEYS  # the keys of a group: fewer where they are too much for one answer
        # of this wave: the items, what was found of them, and its bytes
        self._items: dict[Key, Item] = {}
        self._found: _Found = {}
        self._fetched = 0
        self._unreadable = 0  # values in a row that were answered with an error
        # the sizes of the last ones; at the first nothing is known, so they are few
        self._groups: deque[float] = deque([WAVE_BYTES / 1.5], REMEMBERED)
        self._alone: deque[float] = deque([WAVE_BYTES], REMEMBERED)

    async def take(self, items: Sequence[Item]) -> Taken:
        """Return a wave of `items`, whole entries in their order. A value that cannot be read becomes a problem.

        Raises what the store raises when it cannot be about one key alone.
        """
        while True:
            wave, singly = self._wave(items)
            alone = {item.origin for item in singly}
            texts = [item for item in wave if item.origin not in alone]
            self._items = {Key(item.origin): item for item in wave}
            found: _Found = {}
            self._found, self._fetched = found, 0
            async with trio.open_nursery() as nursery:
                for start in range(0, len(texts), self._keys):
                    nursery.start_soon(
                        self._group, [Key(i.origin) for i in texts[start : start + self._keys]]
                    )
                for item in singly:
                    nursery.start_soon(self._one, Key(item.origin))
            self._items, self._found = {}, {}  # the caller has them from here on
            count = next((number for number, item in enumerate(wave) if item.origin not in found), len(wave))
            self._keys = min(BULK_GET_KEYS, self._keys * 2) if count == len(wave) else max(1, self._keys // 2)
            if count:
                return self._taken(wave[:count], items[count:], found)

    def _wave(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Item]]:
        """Take as many items as fit into memory; name those of them that are asked for singly."""
        groups = max(1, min(MOST_GROUPS, int(WAVE_BYTES / max(self._groups))))
        singles = max(1, min(MOST_SINGLES, int(WAVE_BYTES / max(self._alone))))
        singly: list[Item] = []
        for number, item in enumerate(items):
            if number - len(singly) >= groups * self._keys:
                return items[:number], singly
            if self._reading.kinds.is_surely_single((self._namespace, Key(item.origin))):
                if len(singly) >= singles:
                    return items[:number], singly
                singly.append(item)
        return items, singly

    async def _group(self, keys: Sequence[Key]) -> None:
        """Read a group, or its first part: values not read then are asked for again in the next wave."""
        with suppress(_TooMuchError):
            await self._read(ReadRequest(self._namespace, keys))
        entries = [entry for key in keys if isinstance(entry := self._found.get(key), Entry)]
        size = sum(len(entry.value) for entry in entries)
        self._groups.append(size / max(1, len(entries)) * BULK_GET_KEYS + 1)

    async def _one(self, key: Key) -> None:
        with suppress(_TooMuchError):
            await self._read(ReadRequest(self._namespace, [key], singly=True))
        entry = self._found.get(key)
        self._alone.append(len(entry.value) + 1 if isinstance(entry, Entry) else 1)

    def _check_room(self) -> None:
        """Raise `_TooMuchError` when the values read in this wave are enough for the memory."""
        if self._fetched > WAVE_BYTES:
            raise _TooMuchError

    def _taken(self, wave: Sequence[Item], left: Sequence[Item], found: _Found) -> Taken:
        loaded, problems = [], []
        for item in wave:
            entry = found[item.origin]
            if entry is None:
                gone = "it was deleted or expired while the copy ran"
                problems.append(Problem(ProblemKind.GONE, item.origin, "", gone))
            elif isinstance(entry, _Unreadable):
                reason = f"its value cannot be read: {entry.error}"
                problems.append(Problem(ProblemKind.UNREADABLE, item.origin, "", reason))
            else:
                loaded.append(Loaded(item, entry))
        return Taken(loaded, left, problems)

    async def _read(self, request: ReadRequest) -> bool:
        """Make a request and then those that follow from it; return whether all of the values are text."""
        further = await self._reading.read(request, self)
        is_all_text = True
        for each in further:  # one of them has the binary: the last, when none before has
            each.has_binary = request.has_binary and is_all_text and each is further[-1] and not each.singly
            is_all_text = await self._read(each) and is_all_text
        return is_all_text and not request.has_binary

    async def ask_together(self, namespace: NamespaceId, keys: Sequence[Key]) -> Collection[Key]:
        """See `store.bulkread.BulkReader`."""
        self._check_room()
        entries = await self._store.bulk_get(namespace, keys)
        for key in entries.keys() & set(keys):
            if (entry := entries[key]) is not None:
                self._reading.kinds.learn((namespace, key), is_text=True)
            self._keep(key, entry)
        return entries.keys()

    async def ask_alone(self, namespace: NamespaceId, key: Key) -> None:
        """See `store.bulkread.BulkReader`. A value that cannot be read is left where it is."""
        self._check_room()
        for attempt in range(1, SILENT_TRIES + 1):
            try:
                read = await self._store.get(namespace, key)
                break
            except StoreError as exc:
                await self._check_service(exc)
                if not isinstance(exc, NoAnswerError) or attempt == SILENT_TRIES:
                    self._unreadable += isinstance(exc, UnavailableError)
                    self._found[key] = _Unreadable(without_frames(exc))
                    return
        if read is not None:
            self._reading.learn((namespace, key), read.value)
        self._keep(key, BareEntry(read.value, None, read.expiration) if read is not None else None)

    def _keep(self, key: Key, entry: Entry | None) -> None:
        """Keep an entry with the expiration and metadata of the listing, which the API may leave out."""
        self._unreadable = 0
        if entry is not None:
            item, expiration = self._items[key], entry.expiration
            self._fetched += len(entry.value)
            metadata = item.metadata if isinstance(entry, BareEntry) else entry.metadata
            entry = Entry(entry.value, metadata, item.expiration if expiration is None else expiration)
        self._found[key] = entry

    async def failed(self, request: ReadRequest, error: StoreError) -> list[ReadRequest]:
        """See `store.bulkread.BulkReader`. Raises what cannot be about one key alone."""
        is_one = len(request.keys) == 1
        if isinstance(error, BodyTooLargeError) and not is_one:
            raise _TooMuchError
        further = self._reading.instead(request, error, singly=is_one or not request.has_binary)
        if request.singly or not further:
            raise error
        return further

    async def _check_service(self, error: StoreError) -> None:
        """Raise the error of a value unless it is about this value alone: the service answers others.

        A service that is away is waited for, as long as the store does.
        """
        if not may_be_one_key(error) or self._unreadable >= MOST_UNREADABLE:
            raise error
        if isinstance(error, UnavailableError):
            await self._store.list_keys(self._namespace, limit=LIST_KEYS_MIN)
