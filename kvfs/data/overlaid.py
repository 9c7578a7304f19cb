"""A namespace as a mount of it shows it: the store's entries under the changes that the mount will send."""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import trio
from msgspec import Struct

from kvfs.core.errors import KvfsError, RejectedError
from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, NamespaceId, ValueRead
from kvfs.store.base import Store
from kvfs.store.wrapper import Around


class PendingChange(Struct, frozen=True):
    """A pending change of a key; `path` is its file below the mount point."""

    key: Key
    path: str
    deleted: bool
    metadata: Metadata | None = None
    expiration: int | None = None


class PendingStore(Around):
    """A store under the pending changes of one of its namespaces; `read` answers the value of a changed file."""

    def __init__(
        self,
        store: Store,
        namespace: NamespaceId,
        changes: Sequence[PendingChange],
        read: Callable[[str], bytes],
    ) -> None:
        super().__init__(store)
        self._namespace = namespace
        self._changes = {change.key: change for change in changes}
        self._keys = sorted(self._changes)
        self._read = read

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """See `Store`. The cursor holds the store's own and the last key of the page."""
        if namespace != self._namespace:
            return await super().list_keys(namespace, prefix=prefix, cursor=cursor, limit=limit)
        inner, after = _opened(cursor)
        page = await super().list_keys(namespace, prefix=prefix, cursor=inner, limit=limit)
        if page.cursor is not None and not page.keys:
            return KeyPage((), _closed(page.cursor, after))
        last = page.keys[-1].key if page.cursor is not None else None
        keys = {line.key: line for line in page.keys if line.key not in self._changes}
        for change in self._between(prefix, after, last):
            if not change.deleted:
                keys[change.key] = KeyInfo(change.key, change.metadata, change.expiration)
        merged = tuple(keys[key] for key in sorted(keys))
        return KeyPage(merged, None if last is None else _closed(page.cursor, last))

    def _between(self, prefix: str, after: str, last: str | None) -> list[PendingChange]:
        start = bisect_right(self._keys, after) if after else 0
        end = len(self._keys) if last is None else bisect_right(self._keys, last)
        return [self._changes[key] for key in self._keys[start:end] if key.startswith(prefix)]

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """See `Store`."""
        change = self._changes.get(key) if namespace == self._namespace else None
        if change is None:
            return await super().get(namespace, key)
        entry = await self._entry(change)
        return None if entry is None else ValueRead(entry.value, entry.expiration)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """See `Store`."""
        change = self._changes.get(key) if namespace == self._namespace else None
        return change.metadata if change is not None else await super().get_metadata(namespace, key)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """See `Store`. Values of changed files come whether they are text or not."""
        ours = [key for key in keys if key in self._changes] if namespace == self._namespace else []
        theirs = [key for key in keys if key not in self._changes] if ours else keys
        found: dict[Key, Entry | None] = dict(await super().bulk_get(namespace, theirs)) if theirs else {}
        for key in ours:
            found[key] = await self._entry(self._changes[key])
        return found

    async def _entry(self, change: PendingChange) -> Entry | None:
        if change.deleted:
            return None
        try:
            value = await trio.to_thread.run_sync(self._read, change.path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise KvfsError(f"{change.path}: {exc.strerror}") from exc
        return Entry(value, change.metadata, change.expiration)


def _opened(cursor: str | None) -> tuple[str | None, str]:
    if cursor is None:
        return None, ""
    try:
        inner, after = json.loads(cursor)
        return str(inner), str(after)
    except (ValueError, TypeError) as exc:
        raise RejectedError("list keys: the cursor is of a listing without the mount") from exc


def _closed(inner: str | None, last: str) -> str:
    return json.dumps([inner, last])
