"""Stores to copy from and to, and the command line in this process, for the tests of data moves."""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from kvfs.core.errors import BodyTooLargeError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.base import Store
from kvfs.store.embedded.sqlite_store import open_sqlite

HOSTILE_KEYS = (
    "a",
    "a/b",
    "a!",
    "/lead",
    "trail/",
    "//",
    "%",
    "%self",
    "a\x00b",
    "x" * 512,
    "ü" * 250,
    "..x",
    ".../y",
    ".kvfs",
    ".kvfs-manifest.ndjson",
    "A",
    "new\nline",
    'q"uote\\',
    "\u2028",
    "-rf",
    "12345",
)
ODD_METADATA = (
    b'{"b": 1.0, "x":1e400,"x":"\\ud800"}',
    b"[1,2]",
    b'"text"',
    b"0",
    b"{}",
    b'{"":1}',
    b'{"role":"admin","n":7}',
    '{"ü":"\\u00fc"}'.encode(),
)


def sample(count: int = 0, *, binaries: int = 0, seed: int = 1) -> dict[Key, Entry]:
    """Return hostile keys, and `count` ordinary ones: a third with metadata, a third with an expiration."""
    dice, ahead = random.Random(seed), int(time.time()) + 86_400
    found: dict[Key, Entry] = {}
    for number, key in enumerate(HOSTILE_KEYS):
        metadata = ODD_METADATA[number % len(ODD_METADATA)] if number % 2 else None
        value = dice.randbytes(40) if number % 4 == 0 else f"\x01 {key}".encode()
        found[Key(key)] = Entry(value, metadata, ahead + number if number % 3 == 0 else None)
    found[Key("empty")] = Entry(b"", b'{"is":"empty"}')
    for number in range(count):
        metadata = b'{"role":"user","n":%d}' % number if number % 3 == 0 else None
        expiration = ahead + number if number % 3 == 1 else None
        found[Key(f"user/{number % 97}/{number:06}")] = Entry(b"value %d" % number, metadata, expiration)
    for number in range(binaries):
        found[Key(f"blob/{number:04}")] = Entry(b"\xff\x00" + dice.randbytes(30))
    return found


async def fill_store(store: Store, title: str, entries: Mapping[Key, Entry]) -> None:
    """Put entries into a namespace, made if need be."""
    known = {namespace.title: namespace.id for namespace in await store.list_namespaces()}
    namespace = known.get(title) or (await store.create_namespace(title)).id
    keys = list(entries)
    for start in range(0, len(keys), 10_000):
        await store.bulk_put(namespace, {key: entries[key] for key in keys[start : start + 10_000]})


async def dump_store(store: Store, title: str) -> dict[Key, Entry]:
    """Return everything in a namespace."""
    found: dict[Key, Entry] = {}
    [namespace] = [one.id for one in await store.list_namespaces() if one.title == title]
    cursor: str | None = None
    while True:
        page = await store.list_keys(namespace, cursor=cursor)
        keys = [line.key for line in page.keys]
        for start in range(0, len(keys), 100):
            entries = await _entries(store, namespace, keys[start : start + 100])
            found |= {key: entry for key, entry in entries.items() if entry is not None}
        cursor = page.cursor
        if cursor is None:
            return found


async def _entries(store: Store, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
    """Return whole entries, each alone where they are too much for one answer."""
    try:
        return await store.bulk_get(namespace, keys)
    except BodyTooLargeError:
        return {key: entry for one in keys for key, entry in (await store.bulk_get(namespace, [one])).items()}


def fill(file: Path, entries: Mapping[Key, Entry], title: str = "shop") -> str:
    """Fill an embedded store with entries; return its name on a command line."""

    async def work() -> None:
        async with open_sqlite(file) as store:
            await fill_store(store, title, entries)

    trio.run(work)
    return f"local:{file}/{title}"


def dump(file: Path, title: str = "shop") -> dict[Key, Entry]:
    """Return everything in a namespace of an embedded store."""

    async def work() -> dict[Key, Entry]:
        async with open_sqlite(file) as store:
            return await dump_store(store, title)

    return trio.run(work)


def titles(file: Path) -> list[str]:
    """Return the namespaces of an embedded store."""

    async def work() -> list[str]:
        async with open_sqlite(file) as store:
            return [namespace.title for namespace in await store.list_namespaces()]

    return trio.run(work)
