"""Files and directories as places: their calls, which block, are made in threads."""

from collections.abc import AsyncGenerator, Sequence

import trio

from kvfs.core.model import Key
from kvfs.data.directory import DirectoryFiles, DirectoryOutput
from kvfs.data.items import Item, Loaded, Problem
from kvfs.data.place import Scanned, Taken
from kvfs.data.streams import RecordReader, RecordWriter

BlockingReader = RecordReader | DirectoryFiles
"""The calls of a `Reader`, which block here."""
BlockingWriter = RecordWriter | DirectoryOutput
"""The calls of a `Writer`, which block here. An entry that cannot be written ends the copy, most likely a full disk."""


class ThreadedReader:
    """Reads a source in threads."""

    def __init__(self, source: BlockingReader) -> None:
        self._source = source

    async def scan(self, mark: str) -> AsyncGenerator[Scanned]:
        """See `Reader`."""
        parts = self._source.parts()
        while (part := await trio.to_thread.run_sync(next, parts, None)) is not None:
            yield part

    async def take(self, items: Sequence[Item]) -> Taken:
        """See `Reader`."""
        return await trio.to_thread.run_sync(self._source.take, items)

    def fingerprint(self) -> str:
        """See `Reader`."""
        return self._source.fingerprint()

    async def aclose(self) -> None:
        """See `Reader`."""
        self._source.close()


class ThreadedWriter:
    """Writes a sink in threads."""

    def __init__(self, sink: BlockingWriter) -> None:
        self._sink = sink

    @property
    def pairs(self) -> int:
        """See `Writer`."""
        return self._sink.pairs

    @property
    def position(self) -> str:
        """See `Writer`."""
        return self._sink.position

    async def open(self, position: str) -> None:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._sink.open, position)

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._sink.write, batch)
        return ()

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """See `Writer`."""
        return await trio.to_thread.run_sync(self._sink.delete, keys)

    async def finish(self) -> None:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._sink.finish)

    async def aclose(self) -> None:
        """See `Writer`."""
        self._sink.close()
