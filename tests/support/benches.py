"""Every store there is, opened on an empty namespace: what the conformance tests run on.

`KVFS_TEST_REAL=1` with wrangler's variables (CLOUDFLARE_API_TOKEN, CLOUDFLARE_ACCOUNT_ID) adds the real API:
each test makes a namespace of its own there and deletes it.
"""

import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from support.clock import Clock
from support.inline import open_inline
from support.serving import served

from kvfs.core.model import Entry, Key, KeyInfo, NamespaceId
from kvfs.store.base import Store
from kvfs.store.embedded.sqlite_store import open_sqlite
from kvfs.store.ratelimit import Budget, Limiting
from kvfs.store.rest.client import open_rest
from kvfs.store.retry import Retrying

REAL = bool(os.environ.get("KVFS_TEST_REAL"))
STORES = ["sqlite", "inline", "wrapped", "rest", *(["cloudflare"] if REAL else [])]

HOUR = 3600


@dataclass
class Bench:
    """A store, a namespace in it that is empty, and the clock by which it expires keys."""

    store: Store
    namespace: NamespaceId
    clock: Clock | None

    def soon(self) -> int:
        """Return an expiration an hour ahead."""
        return int(self.clock() if self.clock else time.time()) + HOUR

    async def keys(self, **how) -> list[KeyInfo]:
        """Return the whole listing."""
        return [info for page in await self.pages(**how) for info in page]

    async def pages(self, **how) -> list[tuple[KeyInfo, ...]]:
        """Return the whole listing, page by page."""
        pages, cursor = [], None
        while not pages or cursor is not None:
            page = await self.store.list_keys(self.namespace, cursor=cursor, **how)
            pages.append(page.keys)
            cursor = page.cursor
        return pages

    async def put(self, key: str, value: bytes = b"value", **more) -> None:
        """Put one entry."""
        await self.store.put(self.namespace, Key(key), Entry(value, **more))


@asynccontextmanager
async def sqlite_store(path, clock):
    """Yield the embedded store, bare."""
    async with open_sqlite(path, now=clock) as store:
        yield store


@asynccontextmanager
async def wrapped_store(path, clock):
    """Yield the embedded store inside all wrappers."""
    async with open_sqlite(path, now=clock) as store:
        yield Retrying(Limiting(store, Budget()), attempts=3, deadline=60)


@asynccontextmanager
async def rest_store(path, clock):
    """Yield our client, with a real socket, our server and the embedded store behind it."""
    async with served(path.parent, now=clock) as server, server.open_rest() as store:
        yield store


@asynccontextmanager
async def cloudflare_store(path, clock):
    """Yield the real API."""
    url = os.environ.get("CLOUDFLARE_API_BASE_URL", "https://api.cloudflare.com/client/v4")
    account, token = os.environ["CLOUDFLARE_ACCOUNT_ID"], os.environ["CLOUDFLARE_API_TOKEN"]
    async with open_rest(base_url=url, account=account, token=token) as store:
        yield Retrying(Limiting(store, Budget()), attempts=5, deadline=120)


@asynccontextmanager
async def inline_store(path, clock):
    """Yield the embedded store without threads, as tests of simulated time use it."""
    with open_inline(path, now=clock) as store:
        yield store


OPEN = {
    "sqlite": sqlite_store,
    "inline": inline_store,
    "wrapped": wrapped_store,
    "rest": rest_store,
    "cloudflare": cloudflare_store,
}


@pytest.fixture(params=STORES)
async def bench(request, tmp_path):
    """Yield each store in turn."""
    clock = None if request.param == "cloudflare" else Clock()
    async with OPEN[request.param](tmp_path / "store.db", clock or time.time) as store:
        title = f"kvfs-test-{os.getpid()}-{time.time_ns()}"
        namespace = (await store.create_namespace(title)).id
        try:
            yield Bench(store, namespace, clock)
        finally:
            if request.param == "cloudflare":
                await store.delete_namespace(namespace)
