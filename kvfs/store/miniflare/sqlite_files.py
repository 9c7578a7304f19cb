"""DiskStore: namespaces in miniflare's state directory, read and written in miniflare's own format.

Invariants, the same as miniflare's:

- A value's file is complete and on the disk before a row names it, because a row is believed without a look.
- A value's file never changes. An overwritten one is removed after the row has moved on, so a reader that finds
  the file gone reads the row once more.
- Reading never hinders a Worker. Writing does for the moment of a transaction (`database.py`), which is why
  `WranglerStore` writes through the Worker's own process while there is one.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from msgspec import Struct

from kvfs.core.errors import BodyTooLargeError, NamespaceNotFoundError, UnavailableError
from kvfs.core.limits import LIST_KEYS, VALUE_BYTES
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.store import checks
from kvfs.store.miniflare import database, layout
from kvfs.store.miniflare.database import MiniflareRow
from kvfs.store.miniflare.fixed import FixedNamespaces

T = TypeVar("T")

_READ_TRIES: Final = 5


class DiskStore(FixedNamespaces):
    """Entries of the namespaces that `namespaces` lists, below the state directory `state`."""

    def __init__(
        self, state: Path, namespaces: Callable[[], Sequence[Namespace]], now: Callable[[], float] = time.time
    ) -> None:
        """`now` answers epoch seconds. `namespaces` is asked at every listing: the configuration may change."""
        self._state = state
        self._namespaces = namespaces
        self._now = now
        self._limiter = trio.CapacityLimiter(1)  # a connection is used by one thread at a time
        self._open: dict[tuple[NamespaceId, bool], _Held] = {}

    def __repr__(self) -> str:
        return f"<DiskStore {self._state}>"

    def close(self) -> None:
        """Close all files. Blocks."""
        while self._open:
            self._open.popitem()[1].connection.close()

    async def list_namespaces(self) -> list[Namespace]:
        """Return the namespaces that the configuration names."""
        return list(self._namespaces())

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """Return one page of the keys that start with `prefix`; the cursor is the last key of the page before."""
        checks.check_list_limit("list keys", limit)
        checks.text_bytes("list keys", "prefix", prefix)
        query = partial(
            database.list_after, prefix=prefix, after=cursor, limit=limit + 1, now_ms=self._now_ms()
        )
        nothing: list[KeyInfo] = []
        keys = await self._read(namespace, query, nothing)
        following = keys[limit - 1].key if len(keys) > limit else None
        return KeyPage(tuple(keys[:limit]), following)

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """Return value and expiration of one key."""
        entry = (await self._entries(namespace, [key])).get(key)
        return None if entry is None else ValueRead(entry.value, entry.expiration)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """Return metadata of one key."""
        row = (await self._rows(namespace, [key])).get(key)
        return None if row is None else row.document

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """Return whole entries of 1 to 100 keys, binary too. Raises `BodyTooLargeError` above 25 MiB in all."""
        checks.check_bulk_get("bulk get keys", keys)
        found = await self._entries(namespace, keys)
        return {key: found.get(key) for key in keys}

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace entries, all or none; so the answer is always empty."""
        checks.check_pairs("bulk put", entries)
        checks.check_entries("bulk put", entries)
        self._known(namespace)
        await self._run(partial(self._put_all, namespace, entries))
        return frozenset()

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove keys, all or none; so the answer is always empty."""
        checks.check_pairs("bulk remove keys", keys)
        checks.encoded_keys("bulk remove keys", keys)
        self._known(namespace)
        await self._run(partial(self._remove_all, namespace, keys))
        return frozenset()

    def _known(self, namespace: NamespaceId) -> None:
        if all(known.id != namespace for known in self._namespaces()):
            raise NamespaceNotFoundError(f"no binding of the project has the namespace {namespace}")

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(self._guarded, work, limiter=self._limiter)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.DatabaseError as exc:
            raise UnavailableError(f"the state of wrangler dev in {self._state}: {exc}") from exc
        except OSError as exc:
            raise UnavailableError(
                f"the state of wrangler dev in {self._state}: {exc.strerror} ({exc.filename})"
            ) from exc

    async def _read(self, namespace: NamespaceId, query: Callable[[sqlite3.Connection], T], empty: T) -> T:
        """Return the answer of `query`, or `empty` for a namespace that nobody wrote to yet."""
        self._known(namespace)

        def asked() -> T:
            if not layout.database_file(self._state, namespace).exists():
                self._forget(namespace)
                return empty
            try:
                return query(self._connection(namespace, writing=False))
            except sqlite3.OperationalError as exc:
                if "no such table" in str(exc):  # made by workerd, and not used by it yet
                    return empty
                raise

        return await self._run(asked)

    async def _rows(self, namespace: NamespaceId, keys: Sequence[Key]) -> dict[str, MiniflareRow]:
        for key in keys:
            checks.key_bytes("get", key)
        return await self._read(namespace, partial(database.find, keys=keys, now_ms=self._now_ms()), {})

    async def _entries(self, namespace: NamespaceId, keys: Sequence[Key]) -> dict[Key, Entry]:
        """Return the entries of `keys` that exist. A value removed between row and file was overwritten: ask again."""
        for _ in range(_READ_TRIES):
            rows = await self._rows(namespace, keys)
            try:
                return await self._run(partial(self._load, namespace, list(rows.values())))
            except _OverwrittenError:
                continue
        raise UnavailableError(f"the values of {namespace} change too fast to be read")

    def _load(self, namespace: NamespaceId, rows: Sequence[MiniflareRow]) -> dict[Key, Entry]:
        directory = layout.blob_directory(self._state, namespace)
        found, size = {}, 0
        for row in rows:
            if not layout.is_blob_id(row.blob):
                raise UnavailableError(f"the row of {row.key!r} names a file {row.blob!r} that is no value")
            try:
                value = (directory / row.blob).read_bytes()
            except FileNotFoundError:
                raise _OverwrittenError from None
            size += len(value)
            if size > VALUE_BYTES and len(rows) > 1:
                raise BodyTooLargeError("bulk get keys: the values together exceed 25 MiB")
            found[Key(row.key)] = Entry(value, row.document, row.seconds)
        return found

    def _put_all(self, namespace: NamespaceId, entries: Mapping[Key, Entry]) -> None:
        directory = layout.blob_directory(self._state, namespace)
        directory.mkdir(parents=True, exist_ok=True)
        rows = [self._written(directory, key, entry) for key, entry in entries.items()]
        _sync(directory)
        self._collect(namespace, database.replace(self._connection(namespace, writing=True), rows))

    def _written(self, directory: Path, key: Key, entry: Entry) -> MiniflareRow:
        blob = layout.new_blob_id(self._now())
        with open(directory / blob, "xb") as file:
            file.write(entry.value)
            file.flush()
            os.fdatasync(file.fileno())
        metadata = None if entry.metadata is None else entry.metadata.decode()
        return MiniflareRow(
            key, blob, None if entry.expiration is None else entry.expiration * 1000, metadata
        )

    def _remove_all(self, namespace: NamespaceId, keys: Sequence[Key]) -> None:
        if layout.database_file(self._state, namespace).exists():
            self._collect(namespace, database.remove(self._connection(namespace, writing=True), keys))

    def _collect(self, namespace: NamespaceId, blobs: Sequence[str]) -> None:
        """Remove the files of values that no row names; one that stays behind costs room and nothing else."""
        directory = layout.blob_directory(self._state, namespace)
        for blob in filter(layout.is_blob_id, blobs):
            with suppress(OSError):
                (directory / blob).unlink()

    def _connection(self, namespace: NamespaceId, *, writing: bool) -> sqlite3.Connection:
        """Return the open connection, made anew where the file is another one (somebody removed the state)."""
        file = layout.database_file(self._state, namespace)
        held = self._open.get((namespace, writing))
        if held is not None and held.identity != _identity(file):
            self._forget(namespace)
            held = None
        if held is None:
            connection = database.connect(file) if writing else database.connect_reading(file)
            held = self._open[namespace, writing] = _Held(connection, _identity(file))
        return held.connection

    def _forget(self, namespace: NamespaceId) -> None:
        for writing in (False, True):
            held = self._open.pop((namespace, writing), None)
            if held is not None:
                held.connection.close()


class _Held(Struct, frozen=True):
    """An open connection and the file it was opened on."""

    connection: sqlite3.Connection
    identity: tuple[int, int] | None


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _OverwrittenError(Exception):
    """The file of a value is gone: its row names another by now."""


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
