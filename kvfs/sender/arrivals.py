"""Arrivals: after a lost answer, the changes that the store has all the same, so that they are not paid for twice.

A bulk write that takes too long is answered with 524 while the server writes on. Reading costs a tenth of writing, and
a hundred keys a request.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import trio

from kvfs.core.content import is_text
from kvfs.core.errors import StoreError
from kvfs.core.limits import BULK_GET_KEYS
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.sender.outcome import Counts
from kvfs.store.base import Store

FIRST_PAUSE: Final = 1.0  # seconds between two looks at a server that may be writing still; doubles
ASKED_BYTES: Final = 50_000  # values larger than that are not read back: a hundred are well within one answer


class Arrivals:
    """Reads sent keys back."""

    def __init__(self, store: Store, counts: Counts) -> None:
        self._store = store
        self._counts = counts

    async def ask(
        self, namespace: NamespaceId, sent: Mapping[Key, Entry | None], patience: float
    ) -> frozenset[Key]:
        """Return the keys that are in the store as they were sent (None: absent). It raises no error of the store.

        Keys are asked for in the order in which they were sent. While more and more of them turn up the server
        is waited for; after `patience` seconds without any more the rest counts as not arrived.
        """
        arrived: set[Key] = set()
        asked = [
            key
            for key, entry in sent.items()
            if entry is None or (len(entry.value) <= ASKED_BYTES and is_text(entry.value))
        ]
        for start in range(0, len(asked), BULK_GET_KEYS):
            found = await self._chunk(namespace, asked[start : start + BULK_GET_KEYS], sent, patience)
            arrived |= found
            if not found:
                break
        return frozenset(arrived)

    async def _chunk(
        self, namespace: NamespaceId, keys: Sequence[Key], sent: Mapping[Key, Entry | None], patience: float
    ) -> set[Key]:
        found: set[Key] = set()
        deadline, pause = trio.current_time() + patience, FIRST_PAUSE
        while missing := [key for key in keys if key not in found]:
            now_there = await self._there(namespace, missing, sent)
            if now_there is None:
                break
            if now_there:
                deadline, pause = trio.current_time() + patience, FIRST_PAUSE
            found |= now_there
            if len(found) == len(keys) or trio.current_time() + pause > deadline:
                break
            await trio.sleep(pause)
            pause *= 2
        return found

    async def _there(
        self, namespace: NamespaceId, keys: Sequence[Key], sent: Mapping[Key, Entry | None]
    ) -> set[Key] | None:
        """Return the keys that the store has as sent; None when it cannot be asked."""
        self._counts.requests += 1
        try:
            entries = await self._store.bulk_get(namespace, keys)
        except StoreError:
            return None  # among other reasons when an older value is binary
        return {key for key in keys if key in entries and entries[key] == sent[key]}
