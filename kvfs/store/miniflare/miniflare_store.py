"""WranglerStore: what the Workers of a project see, while `wrangler dev` runs and while it does not.

Values are always read from the state directory, because the explorer's API is lossy and the format is exact. They are
written through the API of a running `wrangler dev`, because workerd waits for no lock; and to the disk while none
runs. Which of the two it is, is looked at before each write: a dev server comes and goes during a mount.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from kvfs.core.errors import BodyTooLargeError, RejectedError, UnavailableError
from kvfs.core.model import Entry, Key, Namespace, NamespaceId
from kvfs.store.miniflare import dev
from kvfs.store.miniflare.explorer import ExplorerStore, find_api
from kvfs.store.miniflare.fixed import FixedNamespaces
from kvfs.store.miniflare.sqlite_files import DiskStore
from kvfs.store.rest import request
from kvfs.store.rest.bearer import BearerToken
from kvfs.store.rest.client import RestStore
from kvfs.store.wrapper import Around

STARTING_SECONDS: Final = 10.0  # a dev server answers within that, or it is one without the explorer's API
_NO_TOKEN: Final = "wrangler-dev"  # the API asks for none, and the client always sends one


@asynccontextmanager
async def open_explorer(origin: str, timeout: float = 30) -> AsyncIterator[ExplorerStore]:
    """Yield the store behind `http://HOST:PORT` of a `wrangler dev`. Raises `UnavailableError` if it is none."""
    base = await find_api(origin)
    if base is None:
        raise UnavailableError(f"no `wrangler dev` with a local explorer answers at {origin}")
    client = request.open_client(base, timeout=timeout, http2=False, transport=None)
    async with client:
        yield ExplorerStore(RestStore(client, None, BearerToken(_NO_TOKEN), timeout=timeout))


class WranglerStore(FixedNamespaces, Around):
    """Entries of the bindings of a project, kept below one state directory, from which they are read."""

    def __init__(
        self,
        state: Path,
        configured: Callable[[], Sequence[Namespace]],
        *,
        timeout: float = 30,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`configured` answers the bindings of the configuration file; a running dev server knows better."""
        self._state = state
        self._configured = configured
        self._timeout = timeout
        self._known: Sequence[Namespace] = configured()
        self._disk = DiskStore(state, lambda: self._known, now)
        super().__init__(self._disk)
        self._stack = AsyncExitStack()
        self._looking = trio.Lock()
        self._owner: int | None = None
        self._seen_at = 0.0
        self._explorer: ExplorerStore | None = None
        self._origin = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, state: Path, configured: Callable[[], Sequence[Namespace]], *, timeout: float = 30
    ) -> AsyncIterator["WranglerStore"]:
        """Yield the store of one state directory; `configured` as for the constructor."""
        store = cls(state, configured, timeout=timeout)
        try:
            yield store
        finally:
            with trio.CancelScope(shield=True):
                await store._stack.aclose()
                await trio.to_thread.run_sync(store._disk.close)

    def __repr__(self) -> str:
        return f"<WranglerStore {self._state}>"

    def describe(self) -> str:
        """Return the way that writes take now, in words for the user. It asks nobody."""
        return dev.route_of(self._state, self._origin if self._explorer is not None else "")

    async def list_namespaces(self) -> list[Namespace]:
        """Return the bindings of the running dev server, else those of the configuration."""
        try:
            running = await self._running()
            self._known = await running.list_namespaces() if running is not None else self._configured()
        except UnavailableError:
            if not self._known:
                raise
        return list(self._known)

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace entries; returns the keys that were not written.

        What the running server's API cannot store (an expiration with wrangler 4.86, a value that is too long in
        base64) goes to the disk beside it, in one short transaction.
        """
        running = await self._running()
        if running is None:
            return await self._disk.bulk_put(namespace, entries)
        try:
            return await running.bulk_put(namespace, entries)
        except RejectedError:
            return await self._disk.bulk_put(namespace, entries)
        except BodyTooLargeError:
            if len(entries) > 1:
                raise  # the caller splits
            return await self._disk.bulk_put(namespace, entries)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove keys; returns those that were not removed."""
        running = await self._running()
        return await (self._disk if running is None else running).bulk_delete(namespace, keys)

    async def _running(self) -> ExplorerStore | None:
        """Return the API of the dev server that uses the state, or None. Raises `UnavailableError` while it starts."""
        async with self._looking:
            owner = dev.owner_of(self._state)
            if owner != self._owner:
                await self._stack.aclose()
                self._explorer, self._owner, self._seen_at = None, owner, trio.current_time()
            if owner is None or self._explorer is not None:
                return self._explorer
            return await self._connected(owner)

    async def _connected(self, owner: int) -> ExplorerStore | None:
        for origin in list(dev.origins_of(owner)):
            try:
                self._explorer = await self._stack.enter_async_context(open_explorer(origin, self._timeout))
            except UnavailableError:
                continue
            self._origin = origin
            return self._explorer
        if trio.current_time() - self._seen_at < STARTING_SECONDS:
            raise UnavailableError(f"wrangler dev (process {owner}) is starting", retry_after=0.5)
        return None  # a wrangler before 4.82 has no such API: the disk is all there is
