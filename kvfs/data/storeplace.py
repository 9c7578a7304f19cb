"""A namespace of a store as a place of a move: listed by the thousand, read by the hundred, written in bulk."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import trio

from kvfs.core.content import is_text
from kvfs.core.errors import BodyTooLargeError, RejectedError, StoreError, UnavailableError
from kvfs.core.expiry import EXPIRED, Gone, expiration_to_send
from kvfs.core.kinds import Kinds
from kvfs.core.limits import BULK_PAIRS, BULK_VALUE_CHARS
from kvfs.core.model import Entry, Key, KeyPage, NamespaceId
from kvfs.data.items import Item, Kind, Loaded, Problem
from kvfs.data.place import Scanned, Taken
from kvfs.data.reading import BulkValues
from kvfs.store.base import Store

FIRST_PAIRS: Final = 1000
LEAST_PAIRS: Final = 50
QUICK: Final = 5.0  # seconds of an answer after which the next batch may be twice as large
SLOW: Final = 20.0  # seconds of an answer after which it is half as large
REPEATS: Final = 6  # of keys that the server names as not written
MOST_REFUSED: Final = 100  # entries that the server refuses before the copy stops: something else is wrong


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
        """A page of the listing; asked for once more when a row of it is no key."""
        page = await self._store.list_keys(self._namespace, prefix=self._prefix, cursor=cursor)
        if page.is_whole:
            return page
        return await self._store.list_keys(self._namespace, prefix=self._prefix, cursor=cursor)

    async def take(self, items: Sequence[Item]) -> Taken:
        """See `Reader`."""
        return await self._values.take(items)

    def fingerprint(self) -> str:
        """A store changes all the time: what is listed is copied as it is when it is read."""
        return ""

    async def aclose(self) -> None:
        """The store is the caller's."""


class StoreWriter:
    """Writes entries in bulk, in batches that grow while the server copes, and singly what no bulk can hold."""

    def __init__(
        self,
        store: Store,
        namespace: NamespaceId,
        *,
        pairs: int = FIRST_PAIRS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._pairs = pairs
        self._now = now
        self._refused = 0

    @property
    def pairs(self) -> int:
        """See `Writer`."""
        return self._pairs

    @property
    def position(self) -> str:
        """A store has none: each entry has its key."""
        return ""

    async def open(self, position: str) -> None:
        """Nothing is to be opened."""

    async def finish(self) -> None:
        """Nothing is to be completed."""

    async def aclose(self) -> None:
        """The store is the caller's."""

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """See `Writer`."""
        problems: list[Problem] = []
        entries: dict[Key, Entry] = {}
        singles: dict[Key, Entry] = {}
        for loaded in batch:
            key, entry = loaded.item.key, loaded.entry
            expiration: int | Gone | None = expiration_to_send(entry.expiration, self._now())
            if expiration is EXPIRED:
                problems.append(Problem(Kind.EXPIRED, key, "", "its expiration passed before it was written"))
                continue
            assert not isinstance(expiration, Gone)
            if expiration != entry.expiration:
                entry = Entry(entry.value, entry.metadata, expiration)
            (singles if _needs_request(entry.value) else entries)[key] = entry
        if entries:
            await self._bulk(entries, problems)
        for key, entry in singles.items():
            await self._single(key, entry, problems)
        return problems

    async def _bulk(self, entries: dict[Key, Entry], problems: list[Problem]) -> None:
        started = trio.current_time()
        try:
            left = await self._store.bulk_put(self._namespace, entries)
        except BodyTooLargeError:
            self._pairs = max(LEAST_PAIRS, min(self._pairs, len(entries)) // 2)
            return await self._halves(entries, problems)
        except RejectedError as exc:
            if len(entries) > 1:
                return await self._halves(entries, problems)
            return self._refuse(next(iter(entries)), exc, problems)
        self._resize(len(entries), trio.current_time() - started)
        if left:
            await self._again({key: entries[key] for key in left}, problems)
        return None

    def _resize(self, count: int, seconds: float) -> None:
        if seconds > SLOW:
            self._pairs = max(LEAST_PAIRS, self._pairs // 2)
        elif seconds < QUICK and count >= self._pairs:
            self._pairs = min(BULK_PAIRS, self._pairs * 2)

    async def _halves(self, entries: dict[Key, Entry], problems: list[Problem]) -> None:
        if len(entries) == 1:
            [(key, entry)] = entries.items()
            return await self._single(key, entry, problems)
        pairs = list(entries.items())
        for half in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
            await self._bulk(dict(half), problems)
        return None

    async def _again(self, entries: dict[Key, Entry], problems: list[Problem]) -> None:
        """Keys that the server says it could not write everywhere: repeat them."""
        for repeat in range(REPEATS):
            await trio.sleep(0.2 * 2**repeat)
            left = await self._store.bulk_put(self._namespace, entries)
            entries = {key: entries[key] for key in left}
            if not entries:
                return
        raise UnavailableError(
            f"bulk put: the server could not write {len(entries)} keys, {next(iter(entries))!r} first"
        )

    async def _single(self, key: Key, entry: Entry, problems: list[Problem]) -> None:
        try:
            await self._store.put(self._namespace, key, entry)
        except RejectedError as exc:
            self._refuse(key, exc, problems)

    def _refuse(self, key: Key, error: StoreError, problems: list[Problem]) -> None:
        self._refused += 1
        if self._refused > MOST_REFUSED:
            raise error
        problems.append(Problem(Kind.REFUSED, key, "", f"the server refuses it: {error}"))

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """See `Writer`."""
        wanted = [key for key, _ in keys]
        for start in range(0, len(wanted), FIRST_PAIRS):
            left = list(wanted[start : start + FIRST_PAIRS])
            for repeat in range(REPEATS):
                left = list(await self._store.bulk_delete(self._namespace, left))
                if not left:
                    break
                await trio.sleep(0.2 * 2**repeat)
            else:
                raise UnavailableError(
                    f"bulk delete: the server could not delete {len(left)} keys, {left[0]!r} first"
                )
        return ()


def _odd_row(page: KeyPage) -> Problem:
    where = f"in the listing, after {page.keys[-1].key!r}" if page.keys else "in the listing"
    return Problem(Kind.UNREADABLE, "", where, "the server names something that is no key")


def _needs_request(value: bytes) -> bool:
    """Whether only a single put can carry a value: base64 of it is longer than a bulk value may be."""
    return (len(value) + 2) // 3 * 4 > BULK_VALUE_CHARS and not is_text(value)
