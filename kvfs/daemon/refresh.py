"""`--poll-interval`: lists known directories again, so that changes of others show by themselves."""

import logging

import trio

from kvfs.core.errors import StoreError
from kvfs.core.freshness import NEVER
from kvfs.core.model import Key, NamespaceId
from kvfs.daemon.build import ReadParts
from kvfs.vfs.filesystem import FileSystem

log = logging.getLogger("kvfs.daemon")


async def poll(reading: ReadParts, fs: FileSystem, interval: float) -> None:
    """Poll for ever, every `interval` seconds: the namespaces, and whole listings that are known whole."""
    while True:
        await trio.sleep(interval)
        try:
            fs.table.forget()
            await fs.table.names()
            for namespace in list(fs.table.ids()):
                await _again(reading, fs, namespace)
        except StoreError as exc:
            log.info("polling: %s", exc)


async def _again(reading: ReadParts, fs: FileSystem, namespace: NamespaceId) -> None:
    """List one namespace anew and tell the kernel of the names that came and went."""
    before = reading.listings.complete(namespace, "", stale=True)
    if before is None:
        return
    known = set(before.keys)
    before.known_at = NEVER  # kept to serve on should the store not answer, but asked for anew
    await reading.overlay.lister.whole(namespace, "")
    after = reading.listings.complete(namespace, "", stale=True)
    for key in known.symmetric_difference(after.keys if after is not None else ()):
        fs.forgetting.forget_kernel_name(namespace, Key(key))
