"""Whether somebody else changed a value since this mount read it, asked just before it is written over.

KV has no compare-and-swap; the check leaves a window of one request, and costs one bulk get per hundred keys
that were read before they were changed. What an eventually consistent store may still answer of our own doing
(`Row.ancestors`) is no conflict, nor is a key that somebody deleted: writing it loses nobody's data.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from kvfs.core.errors import BodyTooLargeError, NamespaceNotFoundError, RejectedError, StoreError
from kvfs.core.limits import BULK_GET_KEYS, KEY_BYTES
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.store.base import Store
from kvfs.writeback.bodies import DIGEST_BYTES, digest
from kvfs.writeback.merging import Row

SINGLES: Final = 8  # below this many keys a bulk get that fails is not split again; they go at once


def needs_check(change: Change) -> bool:
    """Whether the change is of a value this mount had read, and was never under way."""
    return bool(change.base) and not change.is_tombstone and not change.attempted


def is_ours(row: Row, current: bytes | None) -> bool:
    """Whether the store's value, by digest, is what was read, what is to be written, or between the two."""
    if current is None or current in (row.change.base, row.digest):
        return True
    known = range(0, len(row.ancestors), DIGEST_BYTES)
    return any(row.ancestors[i : i + DIGEST_BYTES] == current for i in known)


def copy_key(key: Key, host: str, now: float, taken: Callable[[Key], bool]) -> Key:
    """`NAME.kvfs-conflict-HOST-TIME`, within the limit of a key; a number follows when that is taken."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    host = "".join(char if char.isalnum() or char in "-_." else "-" for char in host)[:64]
    number = 1
    while True:
        suffix = f".kvfs-conflict-{host}-{stamp}" + (f"-{number}" if number > 1 else "")
        room = KEY_BYTES - len(suffix.encode())
        copy = Key(key.encode()[:room].decode(errors="ignore") + suffix)
        if not taken(copy):
            return copy
        number += 1


class Digests:
    """Reads what the store has now, a hundred keys a request; `requests` counts them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests = 0

    async def read(self, changes: Iterable[Change]) -> dict[tuple[NamespaceId, Key], bytes | None]:
        """Digests of the store's values, None for a missing key; keys the store refuses are left out."""
        spaces: dict[NamespaceId, list[Key]] = {}
        for change in changes:
            spaces.setdefault(change.namespace, []).append(change.key)
        found: dict[tuple[NamespaceId, Key], bytes | None] = {}
        for namespace, keys in spaces.items():
            for start in range(0, len(keys), BULK_GET_KEYS):
                try:
                    part = await self._read(namespace, keys[start : start + BULK_GET_KEYS])
                except NamespaceNotFoundError:
                    break  # the write will meet the same, and knows what to do
                found.update({(namespace, key): value for key, value in part.items()})
        return found

    async def _read(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, bytes | None]:
        try:
            self.requests += 1
            entries = await self._store.bulk_get(namespace, keys)
        except (RejectedError, BodyTooLargeError):  # a binary value among them, too many bytes, a bad key
            if len(keys) <= SINGLES:
                return await self._read_singly(namespace, keys)
            middle = len(keys) // 2
            first = await self._read(namespace, keys[:middle])
            return {**first, **await self._read(namespace, keys[middle:])}
        return {key: digest(entry.value) if entry else None for key, entry in entries.items()}

    async def _read_singly(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, bytes | None]:
        found: dict[Key, bytes | None] = {}
        failures: list[StoreError] = []

        async def read(key: Key) -> None:
            try:
                self.requests += 1
                value = await self._store.get(namespace, key)
                found[key] = digest(value.value) if value else None
            except RejectedError:
                pass  # no such key can exist
            except StoreError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(read, key)
        if failures:
            raise failures[0]
        return found
