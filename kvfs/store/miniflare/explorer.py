"""ExplorerStore: the namespaces of a running `wrangler dev`, through the API of its local explorer.

The API is a subset of Cloudflare's, and this file makes up for what it lacks (seen with wrangler 4.86 and 4.164):

- there is no account in its paths, no metadata endpoint, and no operation on namespaces;
- a bulk get decodes binary values lossily and answers neither metadata nor expiration, so values are read one by
  one and their metadata and expiration come from the listing;
- a single put ignores an expiration, so every put is a bulk put; wrangler 4.86 has no bulk calls, and an entry
  that expires is then refused, because it would never expire.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import httpx
import trio

from kvfs.core.errors import RejectedError, StoreError, UnavailableError, first_error
from kvfs.core.limits import LIST_KEYS_MIN
from kvfs.core.model import Entry, Key, KeyInfo, Metadata, NamespaceId, ValueRead
from kvfs.store.miniflare.fixed import FixedNamespaces
from kvfs.store.rest.client import RestStore
from kvfs.store.wrapper import Around

PATHS: Final = ("/cdn-cgi/local/explorer/api", "/cdn-cgi/explorer/api")
"""Where the API is: since wrangler 4.9x, and before."""

_AT_ONCE: Final = 6
_WALK_PAGES: Final = 3  # pages of a listing worth reading to learn the metadata of up to 100 keys


async def find_api(origin: str) -> str | None:
    """Return the base URL of the explorer's API at `http://HOST:PORT`; None if nothing there is one."""
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        for path in PATHS:
            try:
                answer = await client.get(f"{origin}{path}/storage/kv/namespaces")
                document = answer.json() if answer.status_code == 200 else None
            except (httpx.HTTPError, ValueError):
                continue
            if isinstance(document, dict) and document.get("success") is True:
                return origin + path
    return None


class ExplorerStore(FixedNamespaces, Around):
    """The entries that the Worker of a running `wrangler dev` sees. The titles of namespaces are names of bindings."""

    def __init__(self, rest: RestStore) -> None:
        """`rest` talks to the base URL that `find_api` answered, without an account."""
        super().__init__(rest)
        self._has_bulk = True  # until it turns out not to have

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """Return value and expiration of one key: two requests, because the API tells no expiration with a value."""
        entry = (await self.bulk_get(namespace, [key]))[key]
        return None if entry is None else ValueRead(entry.value, entry.expiration)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """Return metadata of one key."""
        info = await self._info(namespace, key)
        return None if info is None else info.metadata

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """Return whole entries, binary too: one request for each value, and a listing."""
        values: dict[Key, ValueRead | None] = {}
        limiter = trio.CapacityLimiter(_AT_ONCE)

        async def read(key: Key) -> None:
            async with limiter:
                values[key] = await self._store.get(namespace, key)

        infos = await self._infos(namespace, keys)
        try:
            async with trio.open_nursery() as nursery:
                for key in dict.fromkeys(keys):
                    nursery.start_soon(read, key)
        except BaseExceptionGroup as group:
            errors = group.subgroup(StoreError)
            if errors is None:
                raise
            raise first_error(errors) from group
        return {key: _entry(values[key], infos.get(key)) for key in keys}

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace entries; returns the keys that were not written.

        Raises `RejectedError` for one that expires where the API has no bulk put.
        """
        if (left := await self._in_bulk(partial(self._store.bulk_put, namespace, entries))) is not None:
            return left
        expiring = [key for key, entry in entries.items() if entry.expiration is not None]
        if expiring:
            raise RejectedError(
                f"put: the API of this wrangler cannot store an expiration ({expiring[0]!r}): "
                "update wrangler, or mount the project's directory instead of its URL"
            )
        for key, entry in entries.items():
            await self._store.put(namespace, key, entry)
        return frozenset()

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Remove one key."""
        await self._store.delete(namespace, key)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove keys; returns those that were not removed."""
        if (left := await self._in_bulk(partial(self._store.bulk_delete, namespace, keys))) is not None:
            return left
        for key in keys:
            await self._store.delete(namespace, key)
        return frozenset()

    async def _in_bulk(self, write: Callable[[], Awaitable[frozenset[Key]]]) -> frozenset[Key] | None:
        """Return the keys that a bulk write left undone; None where the API of this wrangler has none."""
        if self._has_bulk:
            try:
                return await write()
            except UnavailableError as exc:
                if exc.status not in (404, 405):
                    raise
                self._has_bulk = False
        return None

    async def _info(self, namespace: NamespaceId, key: Key) -> KeyInfo | None:
        page = await self._store.list_keys(namespace, prefix=key, limit=LIST_KEYS_MIN)
        return next((info for info in page.keys if info.key == key), None)

    async def _infos(self, namespace: NamespaceId, keys: Sequence[Key]) -> dict[Key, KeyInfo]:
        """Return the rows of the listing for `keys`: by a few pages below their common beginning, else one by one."""
        wanted = set(keys)
        found: dict[Key, KeyInfo] = {}
        if len(wanted) > 1:
            prefix, cursor = os.path.commonprefix(list(wanted)), None  # noqa: RUF071 - of text, not of paths
            for _ in range(_WALK_PAGES):
                page = await self._store.list_keys(namespace, prefix=prefix, cursor=cursor)
                found.update((info.key, info) for info in page.keys if info.key in wanted)
                cursor = page.cursor
                if cursor is None:
                    return found
        for key in wanted - found.keys():
            info = await self._info(namespace, key)
            if info is not None:
                found[key] = info
        return found


def _entry(value: ValueRead | None, info: KeyInfo | None) -> Entry | None:
    if value is None:
        return None
    if info is None:  # written between the two requests: the next listing has it
        return Entry(value.value, None, value.expiration)
    return Entry(value.value, info.metadata, info.expiration)
