"""Keys that may not arrive in a URL travel in a bulk body instead.

A key with a control character, `^` or `...` was not found by requests that named it in the path (workers-sdk
#7997), because something on the way tidies paths up. In a body every key is plain text. Only what no bulk body
can carry (a binary value to read, a value above its limit to write) still goes by the path.
"""

from collections.abc import Mapping

from kvfs.core.errors import BodyTooLargeError, NotTextError, UnavailableError
from kvfs.core.model import BareEntry, Entry, Key, Metadata, NamespaceId, ValueRead
from kvfs.store.rest.request import is_odd
from kvfs.store.wrapper import Around


class OddKeys(Around):
    """A REST store for any key. Each call is still one request, or two where the first cannot carry it."""

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """See `Store`."""
        found = await self._in_bulk(namespace, key) if is_odd(key) else {}
        if key not in found:
            return await self._store.get(namespace, key)
        entry = found[key]
        if entry is None:
            return None
        return ValueRead(entry.value, entry.expiration, tells_expiration=entry.expiration is not None)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """See `Store`."""
        found = await self._in_bulk(namespace, key) if is_odd(key) else {}
        if key not in found or isinstance(found[key], BareEntry):
            return await self._store.get_metadata(namespace, key)
        entry = found[key]
        return entry.metadata if entry is not None else None

    async def _in_bulk(self, namespace: NamespaceId, key: Key) -> Mapping[Key, Entry | None]:
        """Return the entry by a bulk get; empty for a binary value, which cannot come so."""
        try:
            return await self._store.bulk_get(namespace, [key])
        except NotTextError:
            return {}

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """See `Store`."""
        if is_odd(key):
            try:
                left = await self._store.bulk_put(namespace, {key: entry})
            except BodyTooLargeError:
                pass  # as base64 it is above the limit of a bulk value
            else:
                _all_done("put", left)
                return
        await self._store.put(namespace, key, entry)

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """See `Store`."""
        if is_odd(key):
            _all_done("delete", await self._store.bulk_delete(namespace, [key]))
        else:
            await self._store.delete(namespace, key)


def _all_done(operation: str, left: frozenset[Key]) -> None:
    if left:
        raise UnavailableError(f"{operation}: the store asked to send it again")
