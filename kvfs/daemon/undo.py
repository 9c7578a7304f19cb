"""The history of a mount: its parts put together, and its requests of the control socket."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import trio

from kvfs.config import Config
from kvfs.core.digest import digest
from kvfs.core.expiry import is_expired
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.daemon.build import ReadParts
from kvfs.history.history import History
from kvfs.history.shelf import Shelf
from kvfs.host.control import Send
from kvfs.host.replies import AtHand, Done, HistoryState
from kvfs.host.requests import ClearHistoryRequest, HistoryRequest
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.superseded import Keeping
from kvfs.vfs.view.overlay import View

SLICE: Final = 500  # keys that are looked at between two turns of the others: a millisecond

log = logging.getLogger("kvfs.daemon")


class Undo:
    """The history, if one is kept, and the contents at hand for it."""

    def __init__(self, config: Config, fs: FileSystem, reading: ReadParts, now: Callable[[], float]) -> None:
        self._fs = fs
        self._reading = reading
        self._bounds = config.history
        self._now = now
        self.history: History | None = None
        self._keeping: Keeping | None = None
        if config.history and not config.read_only:
            shelf = Shelf(config.history_path, config.history, digest)
            try:
                shelf.open(now())
            except OSError as exc:
                log.warning("what is overwritten or deleted is not kept: %s", exc)
                return
            self.history = History(shelf, now, reading.table.name_of, most_bytes=config.cache_size)
            self._keeping = Keeping(fs.overlay, fs.inodes, self.history, now)
            fs.overlay.journal.writer.on_superseded = self._keeping
            fs.overlay.journal.when_full(self.history.give_way)

    async def run(self) -> None:
        """Write noted versions, for ever."""
        if self.history is not None:
            await self.history.run()
        await trio.sleep_forever()

    def close(self) -> None:
        """Write the waiting versions, because the mount has ended."""
        if self.history is not None:
            self._fs.overlay.journal.writer.on_superseded = None
            self.history.close()

    def status(self) -> HistoryState:
        """Return the state for `kvfs status`."""
        if self.history is None:
            return HistoryState()
        found = self.history.statistics()
        age = max(0.0, self._now() - found.oldest) if found.oldest is not None else None
        lost = self.history.shelf.lost
        return HistoryState(str(self._bounds), found.versions, found.kept, found.bytes, age, lost)

    async def written(self, request: HistoryRequest, send: Send) -> AtHand:
        """Write all that was noted, so that it can be read; return how much of a key or prefix is at hand now."""
        if self.history is not None:
            await self.history.flush()
        at_hand, away = await self._count(NamespaceId(request.namespace), request.key)
        return AtHand(str(self._bounds), at_hand, away, self.history is not None)

    async def clear(self, request: ClearHistoryRequest, send: Send) -> Done:
        """Forget all versions."""
        if self.history is not None:
            await self.history.clear()
        return Done()

    async def _count(self, namespace: NamespaceId, key: str) -> tuple[int, int]:
        """Count the keys that are known to be there, of one name or below it: those at hand, and the others.

        No request is made for it. There may be a million: the mount goes on between two slices, and what changes
        meanwhile may be counted or not.
        """
        overlay = self._fs.overlay
        if isinstance(overlay.known.peek(namespace, Key(key), stale=True), View):
            at_hand = self._at_hand(namespace, [Key(key)])
            return at_hand, 1 - at_hand
        separator = overlay.naming.separator
        prefix = key + separator if key and not key.endswith(separator) else key
        count = at_hand = 0
        for keys in self._slices(namespace, prefix):
            count += len(keys)
            at_hand += self._at_hand(namespace, keys)
            await trio.lowlevel.checkpoint()
        return at_hand, count - at_hand

    def _at_hand(self, namespace: NamespaceId, keys: Sequence[Key]) -> int:
        if self._keeping is None:
            return 0
        return sum(self._keeping.at_hand(namespace, key) for key in keys)

    def _slices(self, namespace: NamespaceId, prefix: str) -> Iterator[Sequence[Key]]:
        """Yield the keys below a prefix, those that the store is known to have and then those of our own changes."""
        overlay, start = self._fs.overlay, prefix
        ref = DirRef(prefix, len(prefix)) if prefix else DirRef.ROOT
        while (span := overlay.listings.complete(namespace, prefix, stale=True)) is not None:
            listed = list(islice(overlay.known.listed_below(namespace, ref, span, start=start), SLICE))
            yield listed
            if len(listed) < SLICE:
                break
            start = listed[-1] + "\0"
        start, now = prefix, self._now()
        while changes := list(overlay.journal.under(namespace, prefix, start, SLICE)):
            yield [c.key for c in changes if not c.is_tombstone and not is_expired(c.expiration, now)]
            start = changes[-1].key + "\0"
