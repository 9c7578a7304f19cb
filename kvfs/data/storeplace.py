"""A namespace of a store as a place of a move: listed by the thousand, read by the hundred, written in bulk."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import trio

from kvfs.core.bulksize import FIRST_PAIRS, BulkSize
from kvfs.core.content import is_text
from kvfs.core.errors import (
    BlockedError,
    BodyTooLargeError,
    RejectedError,
    StoreError,
    UnavailableError,
    UnknownRefusalError,
)
from kvfs.core.expiry import EXPIRED, Gone, expiration_to_send
from kvfs.core.kinds import Kinds
from kvfs.core.limits import BULK_VALUE_CHARS
from kvfs.core.model import Entry, Key, KeyPage, NamespaceId
from kvfs.core.packing import bulk_bytes
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.place import Scanned, Taken
from kvfs.data.reading import BulkValues
from kvfs.store.base import Store
from kvfs.store.passage import passage

REPEATS: Final = 6  # repetitions of keys that the server names as not written
MOST_REFUSED: Final = 100  # entries that the server refuses before the copy stops: something else is wrong

_Entries = list[tuple[Key, Entry]]


class StoreReader:
    """Lists a namespace and reads its values."""

    def __init__(self, store: Store, namespace: NamespaceId, prefix: str, kinds: Kinds) -> None:
        self._store = store
        self._namespace = namespace
        self._prefix = prefix
        self._values = BulkValues(store, namespace, kinds)

    async def scan(self, mark: str) -> AsyncGenerator[Scanned]:
        """See `Reader`. The mark is the cursor of the next page; one that is refused by now begins anew."""
        cursor: str | None = mark or None
        while True:
            try:
                page = await self._page(cursor)
            except RejectedError:
                if cursor is None or cursor != mark:
                    raise
                cursor = None
                continue
            items = [Item(line.key, line.key, line.metadata, line.expiration) for line in page.keys]
            yield Scanned(items, () if page.is_whole else (_odd_row(page),), mark=page.cursor or "")
            if page.cursor is None:
                return
            cursor = page.cursor

    async def _page(self, cursor: str | None) -> KeyPage:
        """Return a page of the listing; it is asked for once more when a row of it is no key."""
        page = await self._store.list_keys(self._namespace, prefix=self._prefix, cursor=cursor)
        if page.is_whole:
            return page
        return await self._store.list_keys(self._namespace, prefix=self._prefix, cursor=cursor)

    async def take(self, items: Sequence[Item]) -> Taken:
        """See `Reader`."""
        return await self._values.take(items)

    def fingerprint(self) -> str:
        """Return nothing, because a store changes all the time; what is listed is copied as it is when read."""
        return ""

    async def aclose(self) -> None:
        """Do nothing, because the store is the caller's."""


class StoreWriter:
    """Writes entries in bulk, in bodies that grow while the server copes, and singly if no bulk can hold them.

    `first_pairs` is how many pairs the first body has.
    """

    def __init__(
        self,
        store: Store,
        namespace: NamespaceId,
        *,
        first_pairs: int = FIRST_PAIRS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._puts = BulkSize(first_pairs)
        self._deletes = BulkSize(first_pairs)
        self._now = now
        self._refused = 0

    @property
    def pairs(self) -> int:
        """See `Writer`."""
        return self._puts.pairs

    @property
    def position(self) -> str:
        """Return how many pairs the server copes with: a later run needs no more, because each entry has its key."""
        return str(self._puts.pairs)

    async def open(self, position: str) -> None:
        """See `Writer`."""
        if position.isdecimal():
            self._puts = BulkSize(int(position))

    async def finish(self) -> None:
        """Do nothing, because nothing is to be completed."""

    async def aclose(self) -> None:
        """Do nothing, because the store is the caller's."""

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """See `Writer`."""
        problems: list[Problem] = []
        entries: _Entries = []
        singles: _Entries = []
        for loaded in batch:
            key, entry = loaded.item.key, loaded.entry
            expiration: int | Gone | None = expiration_to_send(entry.expiration, self._now())
            if expiration is EXPIRED:
                problems.append(
                    Problem(ProblemKind.EXPIRED, key, "", "its expiration passed before it was written")
                )
                continue
            assert not isinstance(expiration, Gone)
            if expiration != entry.expiration:
                entry = Entry(entry.value, entry.metadata, expiration)
            (singles if _needs_request(entry.value) else entries).append((key, entry))
        while entries:
            count = self._fitting(entries)
            await self._bulk(entries[:count], problems)
            del entries[:count]
        for key, entry in singles:
            await self._single(key, entry, problems)
        return problems

    def _fitting(self, entries: _Entries) -> int:
        """Return how many of the first entries one body should have: one at least."""
        room = self._puts.body_bytes
        for count, (key, entry) in enumerate(entries):
            room -= bulk_bytes(key, len(entry.value), entry.metadata)
            if count and (room < 0 or count >= self._puts.pairs):
                return count
        return len(entries)

    async def _bulk(self, entries: _Entries, problems: list[Problem], *, disguised: bool = False) -> None:
        size = sum(bulk_bytes(key, len(entry.value), entry.metadata) for key, entry in entries)
        try:
            with passage() as way:
                left = await self._store.bulk_put(self._namespace, dict(entries), disguised=disguised)
        except BodyTooLargeError:
            self._puts.shrink(len(entries), size)
            return await self._halves(entries, problems, disguised=disguised)
        except (RejectedError, BlockedError, UnknownRefusalError) as exc:
            if isinstance(exc, BlockedError) and not disguised:  # as base64 a firewall may let it pass
                return await self._bulk(entries, problems, disguised=True)
            if len(entries) > 1:
                return await self._halves(entries, problems, disguised=disguised)
            return self._refuse(entries[0][0], exc, problems)
        self._puts.note(len(entries), size, trio.current_time() - way.began)
        if left:
            await self._again([pair for pair in entries if pair[0] in left], disguised=disguised)
        return None

    async def _halves(self, entries: _Entries, problems: list[Problem], *, disguised: bool) -> None:
        if len(entries) == 1:
            return await self._single(*entries[0], problems)
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            await self._bulk(half, problems, disguised=disguised)
        return None

    async def _again(self, entries: _Entries, *, disguised: bool) -> None:
        """Repeat keys that the server says it could not write everywhere, in the form in which they went before."""
        for repeat in range(REPEATS):
            await trio.sleep(0.2 * 2**repeat)
            left = await self._store.bulk_put(self._namespace, dict(entries), disguised=disguised)
            entries = [pair for pair in entries if pair[0] in left]
            if not entries:
                return
        raise UnavailableError(
            f"bulk put: the server could not write {len(entries)} keys, {entries[0][0]!r} first"
        )

    async def _single(self, key: Key, entry: Entry, problems: list[Problem]) -> None:
        try:
            await self._store.put(self._namespace, key, entry)
        except (RejectedError, BlockedError, UnknownRefusalError) as exc:
            self._refuse(key, exc, problems)

    def _refuse(self, key: Key, error: StoreError, problems: list[Problem]) -> None:
        self._refused += 1
        if self._refused > MOST_REFUSED:
            raise error
        problems.append(Problem(ProblemKind.REFUSED, key, "", f"the server refuses it: {error}"))

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """See `Writer`."""
        wanted = [key for key, _ in keys]
        while wanted:
            count = self._deletes.pairs
            await self._delete(wanted[:count])
            del wanted[:count]
        return ()

    async def _delete(self, keys: list[Key]) -> None:
        """Do one bulk delete, smaller ones where it is too much, and repeat the keys that the server says are left."""
        size = sum(bulk_bytes(key, 0, None) for key in keys)
        for repeat in range(REPEATS):
            try:
                with passage() as way:
                    left = await self._store.bulk_delete(self._namespace, keys)
            except BodyTooLargeError:
                if len(keys) == 1:
                    raise
                self._deletes.shrink(len(keys), size)
                middle = len(keys) // 2
                await self._delete(keys[:middle])
                return await self._delete(keys[middle:])
            self._deletes.note(len(keys), size, trio.current_time() - way.began)
            keys = [key for key in keys if key in left]
            if not keys:
                return None
            await trio.sleep(0.2 * 2**repeat)
        raise UnavailableError(
            f"bulk delete: the server could not delete {len(keys)} keys, {keys[0]!r} first"
        )


def _odd_row(page: KeyPage) -> Problem:
    where = f"in the listing, after {page.keys[-1].key!r}" if page.keys else "in the listing"
    return Problem(ProblemKind.UNREADABLE, "", where, "the server names something that is no key")


def _needs_request(value: bytes) -> bool:
    """Return whether only a single put can carry a value: base64 of it is longer than a bulk value may be."""
    return (len(value) + 2) // 3 * 4 > BULK_VALUE_CHARS and not is_text(value)
