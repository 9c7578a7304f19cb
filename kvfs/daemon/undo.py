"""The history of a mount: its parts put together, and its requests of the control socket."""

import logging
from collections.abc import Callable, Mapping

import trio

from kvfs.config import Config
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.daemon.build import ReadParts
from kvfs.history.history import History
from kvfs.history.shelf import Shelf
from kvfs.host.control import ControlHandler, Message, Send
from kvfs.journal.journal import digest
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.superseded import Keeping
from kvfs.vfs.view.overlay import View

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

    def status(self) -> Message:
        """Return the state for `kvfs status`."""
        if self.history is None:
            return {"bounds": "0"}
        found = self.history.statistics()
        age = max(0.0, self._now() - found.oldest) if found.oldest is not None else None
        return {
            "bounds": str(self._bounds),
            "versions": found.versions + found.waiting,
            "kept": found.kept + found.waiting_kept,
            "bytes": found.bytes,
            "oldest_seconds": age,
            "lost": found.lost,
        }

    def handlers(self) -> Mapping[str, ControlHandler]:
        """Return the handlers by the name of the request."""
        return {"history": self.written, "history_clear": self.clear}

    async def written(self, request: Message, send: Send) -> Message:
        """Write all that was noted, so that it can be read; return how much of a key or prefix is at hand now."""
        if self.history is not None:
            await self.history.flush()
        namespace, key = NamespaceId(str(request.get("namespace", ""))), str(request.get("key", ""))
        places = self._known(namespace, key)
        at_hand = sum(self._keeping.at_hand(*place) for place in places) if self._keeping is not None else 0
        keeps = self.history is not None
        return {
            "bounds": str(self._bounds), "keeps": keeps, "at_hand": at_hand, "away": len(places) - at_hand
        }  # fmt: skip

    async def clear(self, request: Message, send: Send) -> Message:
        """Forget all versions."""
        if self.history is not None:
            await self.history.clear()
        return {}

    def _known(self, namespace: NamespaceId, key: str) -> list[tuple[NamespaceId, Key]]:
        """Return the keys known to exist, of one name or below it. No request is made for it."""
        overlay = self._fs.overlay
        if isinstance(overlay.known.peek(namespace, Key(key), stale=True), View):
            return [(namespace, Key(key))]
        prefix = key + overlay.naming.separator if key and not key.endswith(overlay.naming.separator) else key
        ref = DirRef(prefix, len(prefix)) if prefix else DirRef.ROOT
        span = overlay.listings.complete(namespace, prefix, stale=True)
        listed = overlay.known.listed_below(namespace, ref, span) if span is not None else ()
        written = (change.key for change in overlay.known.written_below(namespace, ref))
        return [(namespace, one) for one in {*listed, *written}]
