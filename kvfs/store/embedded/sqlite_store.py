"""SqliteStore: the embedded store, one file. What `local:` mounts, what `kvfs serve` serves, what tests use.

Here are the checks and the protocol; the file is `schema`'s, threads and transactions are
`connections`', the SQL is `queries`'.
"""

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyPage, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.store import checks
from kvfs.store.embedded import queries
from kvfs.store.embedded.connections import Connections

T = TypeVar("T")

SWEEP_KEYS: Final = 1000  # keys of a deleted namespace removed in one transaction: some ten milliseconds
SWEEP_PAUSE: Final = 0.01  # seconds between two of them, in which other processes get their turn
PURGE_EACH: Final = 16  # single puts
SWEEP_BITES: Final = 50  # about a second; what a larger namespace leaves, later writes remove

_BEYOND_ALL: Final = b"\xff"  # occurs in no UTF-8


@asynccontextmanager
async def open_sqlite(
    path: Path, *, account: str = "local", now: Callable[[], float] = time.time
) -> AsyncIterator["SqliteStore"]:
    """Yield the store in the file at `path`, created (mode 0600, missing parents 0700) if there is none.

    `now` answers epoch seconds. Raises `UserError` for a file that is not a kvfs store, is of a newer
    version or cannot be opened.
    """
    connections = await trio.to_thread.run_sync(Connections.open, path)
    try:
        yield SqliteStore(connections, account, now)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(connections.close)


class SqliteViews:
    """Other views of one file: each account has namespaces of its own, and a `Watch` sees who else writes to it."""

    def __init__(self, connections: Connections, account: str, now: Callable[[], float]) -> None:
        self._connections = connections
        self._account = account
        self._now = now
        self._puts = 0

    def for_account(self, account: str) -> "SqliteStore":
        """Return the store of one account."""
        return SqliteStore(self._connections, account, self._now)

    @property
    def others(self) -> int:
        """See `Watch`."""
        return self._connections.others

    def unless_others(self, others: int) -> "SqliteStore":
        """See `Watch`."""
        return SqliteStore(self._connections, self._account, self._now, others)

    @property
    def is_prompt(self) -> bool:
        """See `Watch`."""
        return self._connections.is_in_memory

    def put_now(self, namespace: NamespaceId, key: Key, entry: Entry, others: int | None) -> None:
        """See `Watch`."""
        self._connections.write_now(self._put(namespace, key, entry), len(entry.value), others)

    async def put_soon(self, namespace: NamespaceId, key: Key, entry: Entry, others: int | None) -> None:
        """See `Watch`."""
        await self._connections.write_soon(self._put(namespace, key, entry), len(entry.value), others)

    def _put(self, namespace: NamespaceId, key: Key, entry: Entry) -> Callable[[sqlite3.Connection], None]:
        checks.check_entry("put", entry)
        place = (self._account, namespace, checks.key_bytes("put", key))
        self._puts += 1
        put = partial(queries.put_one, place=place, entry=entry, now=self._now())
        return put if self._puts % PURGE_EACH else partial(queries.purged, change=put, now=self._now())


class SqliteStore:
    """Entries in one SQLite file; safe for several processes on it at a time, one `open_sqlite` in each.

    (A second look at the file in one process gives up the locks of the first: such are POSIX locks.)

    Where it differs from the API: `bulk_get` returns binary values too, a bulk is done whole or not at all,
    any expiration is taken, and what was written is seen at once.
    """

    def __init__(
        self,
        connections: Connections,
        account: str,
        now: Callable[[], float],
        others: int | None = None,
    ) -> None:
        self._connections = connections
        self._account = account
        self._now = now
        self._others = others  # the count given to `unless_others`
        self.accounts = self.watch = SqliteViews(connections, account, now)

    def __repr__(self) -> str:
        return f"<SqliteStore account={self._account!r}>"

    async def list_namespaces(self) -> list[Namespace]:
        """Return all namespaces of the account, by title."""
        return await self._connections.read(partial(queries.list_namespaces, account=self._account))

    async def create_namespace(self, title: str) -> Namespace:
        """Create an empty namespace. Raises `TitleExistsError`."""
        checks.check_title("create namespace", title)
        new = Namespace(NamespaceId(secrets.token_hex(16)), title)
        await self._connections.write(partial(queries.create_namespace, account=self._account, new=new))
        return new

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        """Return one namespace by its id."""
        return await self._read("get namespace", namespace, queries.get_namespace)

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        """Give it another title. Raises `TitleExistsError`."""
        checks.check_title("rename namespace", title)
        rename = partial(queries.rename_namespace, account=self._account, title=title)
        await self._write("rename namespace", namespace, rename)

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """Delete it with everything in it: it is gone at once, its keys are swept in bites.

        What a large namespace, or a call that was cut short, leaves unswept, later writes remove.
        """
        await self._write("delete namespace", namespace, queries.drop_namespace)
        sweep = partial(queries.sweep, limit=SWEEP_KEYS)
        for _ in range(SWEEP_BITES):
            if not await self._connections.write(sweep):
                break
            await trio.sleep(SWEEP_PAUSE)

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """Return one page of the keys that start with `prefix`, in UTF-8 order; a cursor never gets old."""
        checks.check_list_limit("list keys", limit)
        first, beyond = _range(checks.text_bytes("list keys", "prefix", prefix))
        if cursor:
            first = max(first, checks.key_before("list keys", cursor).encode() + b"\x00")
        query = partial(queries.list_keys, first=first, beyond=beyond, limit=limit + 1, now=self._now())
        keys = await self._read("list keys", namespace, query)
        if len(keys) <= limit:
            return KeyPage(tuple(keys), None)
        return KeyPage(tuple(keys[:limit]), checks.cursor_after(keys[limit - 1].key))

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """Return value and expiration of one key, text or binary."""
        query = partial(queries.get, key=checks.key_bytes("get", key), now=self._now())
        return await self._read("get", namespace, query)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """Return metadata of one key; `None` when it has none or does not exist."""
        query = partial(queries.get_metadata, key=checks.key_bytes("metadata", key), now=self._now())
        return await self._read("metadata", namespace, query)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """Return whole entries of 1 to 100 keys, binary too. Raises `BodyTooLargeError` above 25 MiB in all."""
        checks.check_bulk_get("bulk get keys", keys)
        wanted = checks.encoded_keys("bulk get keys", keys)
        return await self._read(
            "bulk get keys", namespace, partial(queries.bulk_get, keys=wanted, now=self._now())
        )

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """Replace one entry, up to 25 MiB of any bytes."""
        await self._put("put", namespace, {key: entry})

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace up to 10,000 entries, all or none; so the answer is always empty."""
        checks.check_pairs("bulk put", entries)
        await self._put("bulk put", namespace, entries)
        return frozenset()

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Remove one key; success also when it did not exist."""
        await self._delete("delete", namespace, [key])

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove up to 10,000 keys, all or none; so the answer is always empty."""
        checks.check_pairs("bulk remove keys", keys)
        await self._delete("bulk remove keys", namespace, keys)
        return frozenset()

    async def _put(self, operation: str, namespace: NamespaceId, entries: Mapping[Key, Entry]) -> None:
        keys = checks.check_entries(operation, entries).values()
        put_all = partial(
            queries.put_all, entries=list(zip(keys, entries.values(), strict=True)), now=self._now()
        )
        await self._write(operation, namespace, put_all, sum(len(entry.value) for entry in entries.values()))

    async def _delete(self, operation: str, namespace: NamespaceId, keys: Iterable[Key]) -> None:
        encoded = [checks.key_bytes(operation, key) for key in keys]
        await self._write(operation, namespace, partial(queries.delete_all, keys=encoded, now=self._now()))

    async def _read(
        self, operation: str, namespace: NamespaceId, query: Callable[[sqlite3.Connection, int], T]
    ) -> T:
        return await self._connections.read(self._inside(operation, namespace, query))

    async def _write(
        self,
        operation: str,
        namespace: NamespaceId,
        change: Callable[[sqlite3.Connection, int], T],
        size: int = 0,
    ) -> T:
        return await self._connections.write(self._inside(operation, namespace, change), size, self._others)

    def _inside(
        self, operation: str, namespace: NamespaceId, query: Callable[[sqlite3.Connection, int], T]
    ) -> Callable[[sqlite3.Connection], T]:
        """Do `query` on the namespace's number, looked up in the same transaction."""

        def transaction(db: sqlite3.Connection) -> T:
            return query(db, queries.find_namespace(db, operation, self._account, namespace))

        return transaction


def _range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the half-open range of the byte strings that start with `prefix`. No byte of UTF-8 is 0xFF."""
    return prefix, prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else _BEYOND_ALL
