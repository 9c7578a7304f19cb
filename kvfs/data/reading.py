"""Reads values of a store with the fewest requests: text by the hundred, binaries singly.

A bulk get that meets a binary value fails as a whole. Keys that are known to be binary, or whose name tells,
are asked for singly; the others are found by halving (`store/bulkread`), which takes at most 14 requests each.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import trio
from msgspec import Struct

from kvfs.core.errors import BodyTooLargeError, NoAnswerError, NotTextError, StoreError, UnavailableError
from kvfs.core.kinds import Kinds
from kvfs.core.limits import BULK_GET_KEYS, LIST_KEYS_MIN
from kvfs.core.model import BareEntry, Entry, Key, NamespaceId
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.place import Taken
from kvfs.store.base import Store
from kvfs.store.bulkread import BulkReading, may_be_one_key

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
        self._fetched = 0  # bytes of values in this wave
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
        """Take as many items as fit into memory; name those of them that are asked for singly."""
        groups = max(1, min(MOST_GROUPS, int(WAVE_BYTES / max(self._groups))))
        singles = max(1, min(MOST_SINGLES, int(WAVE_BYTES / max(self._alone))))
        singly: list[Item] = []
        for number, item in enumerate(items):
            if number - len(singly) >= groups * self._keys:
                return items[:number], singly
            if self._reading.kinds.is_surely_single(self._place(item)):
                if len(singly) >= singles:
                    return items[:number], singly
                singly.append(item)
        return items, singly

    async def _group(self, items: Sequence[Item], found: _Found) -> None:
        """Read a group, or its first part: values not read then are asked for again in the next wave."""
        with suppress(_TooMuchError):
            await self._bulk(items, found)
        entries = [entry for item in items if isinstance(entry := found.get(item.origin), Entry)]
        size = sum(len(entry.value) for entry in entries)
        self._groups.append(size / max(1, len(entries)) * BULK_GET_KEYS + 1)

    async def _one(self, item: Item, found: _Found) -> None:
        with suppress(_TooMuchError):
            await self._single(item, found)
        entry = found.get(item.origin)
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

    async def _bulk(self, items: Sequence[Item], found: _Found, *, has_binary: bool = False) -> bool:
        """Read `items` in bulk, or in parts; whether all of them are text. `has_binary`: it is known not to be so."""
        error: StoreError | None = NotTextError("") if has_binary else await self._asked(items, found)
        if error is None:
            return True
        if isinstance(error, BodyTooLargeError) and len(items) > 1:
            raise _TooMuchError
        by_key = {Key(item.origin): item for item in items}
        parts = self._reading.parts_after(error, self._namespace, list(by_key))
        if not parts:
            raise error
        is_text = not isinstance(error, NotTextError)
        if len(items) == 1:
            await self._single(items[0], found)
            return is_text
        before = True
        for part in parts:  # one of them has the binary: the last, when none before has
            if len(part) == 1 and is_text:
                await self._single(by_key[part[0]], found)
                continue
            is_known = part is parts[-1] and before and not is_text
            before = await self._bulk([by_key[key] for key in part], found, has_binary=is_known) and before
        return before

    async def _asked(self, items: Sequence[Item], found: _Found) -> StoreError | None:
        self._check_room()
        try:
            entries = await self._store.bulk_get(self._namespace, [Key(item.origin) for item in items])
        except StoreError as exc:
            return exc
        self._unreadable = 0
        await self._arrived(items, entries, found)
        return None

    async def _arrived(
        self, items: Sequence[Item], entries: Mapping[Key, Entry | None], found: _Found
    ) -> None:
        for item in items:
            place = self._place(item)
            if place[1] not in entries:  # the answer does not tell plainly
                await self._single(item, found)
                continue
            entry = found[item.origin] = _completed(entries[place[1]], item)
            if entry is not None:
                self._fetched += len(entry.value)
                self._reading.kinds.learn(place, is_text=True)

    async def _single(self, item: Item, found: _Found) -> None:
        self._check_room()
        for attempt in range(1, SILENT_TRIES + 1):
            try:
                read = await self._store.get(self._namespace, Key(item.origin))
                break
            except StoreError as exc:
                await self._check_service(exc)
                if not isinstance(exc, NoAnswerError) or attempt == SILENT_TRIES:
                    self._give_up(item, exc, found)
                    return
        self._unreadable = 0
        if read is None:
            found[item.origin] = None
            return
        self._reading.learn(self._place(item), read.value)
        self._fetched += len(read.value)
        expiration = item.expiration if read.expiration is None else read.expiration
        found[item.origin] = Entry(read.value, item.metadata, expiration)

    async def _check_service(self, error: StoreError) -> None:
        """Raise the error of a value unless it is about this value alone: the service answers others.

        A service that is away is waited for, as long as the store does.
        """
        if not may_be_one_key(error) or self._unreadable >= MOST_UNREADABLE:
            raise error
        if isinstance(error, UnavailableError):
            await self._store.list_keys(self._namespace, limit=LIST_KEYS_MIN)

    def _give_up(self, item: Item, error: StoreError, found: _Found) -> None:
        """Leave the value where it is; the error says why."""
        self._unreadable += isinstance(error, UnavailableError)
        found[item.origin] = _Unreadable(error.with_traceback(None))

    def _place(self, item: Item) -> tuple[NamespaceId, Key]:
        return self._namespace, Key(item.origin)


def _completed(entry: Entry | None, item: Item) -> Entry | None:
    """Return an entry with the expiration and metadata of the listing, which the API may leave out of a bulk get."""
    if entry is None:
        return None
    metadata = item.metadata if isinstance(entry, BareEntry) else entry.metadata
    return Entry(entry.value, metadata, item.expiration if entry.expiration is None else entry.expiration)
