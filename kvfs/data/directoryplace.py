"""A directory as a place: the calls of `directory`, in threads."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from kvfs.core.errors import UserError
from kvfs.core.model import Key
from kvfs.data.directory import DirectoryFiles, DirectoryOutput
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.place import Scanned, Taken

SCAN_FILES: Final = 1000
TAKE_BYTES: Final = 4 * 1024 * 1024
WRITE_PAIRS: Final = 500


class DirectoryReader:
    """Reads a directory in threads."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._files = DirectoryFiles(path, now)

    async def scan(self, mark: str) -> AsyncGenerator[Scanned]:
        """See `Reader`. A scan always begins anew."""
        if not self._path.is_dir():
            raise UserError(f"{self._path} is no directory")
        found = self._files.items()
        while True:
            part = await trio.to_thread.run_sync(lambda: list(islice(found, SCAN_FILES)))
            if not part:
                return
            items = [one for one in part if isinstance(one, Item)]
            yield Scanned(items, [one for one in part if isinstance(one, Problem)])

    async def take(self, items: Sequence[Item]) -> Taken:
        """See `Reader`."""
        return await trio.to_thread.run_sync(self._take, items)

    def _take(self, items: Sequence[Item]) -> Taken:
        loaded: list[Loaded] = []
        problems: list[Problem] = []
        size = 0
        for index, item in enumerate(items):
            size += item.size or 0
            if index and size > TAKE_BYTES:
                return Taken(loaded, items[index:], problems)
            found = self._files.load(item)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                loaded.append(found)
        return Taken(loaded, [], problems)

    def fingerprint(self) -> str:
        """Return nothing, because a directory changes all the time; what was found is copied as it is when read."""
        return ""

    async def aclose(self) -> None:
        """Do nothing, because nothing stays open."""


class DirectoryWriter:
    """Writes a directory in threads. `has_children` tells whether keys lie below a key."""

    def __init__(self, output: DirectoryOutput, has_children: Callable[[Key], bool]) -> None:
        self._output = output
        self._has_children = has_children

    @property
    def pairs(self) -> int:
        """See `Writer`."""
        return WRITE_PAIRS

    @property
    def position(self) -> str:
        """See `Writer`."""
        return self._output.position

    async def open(self, position: str) -> None:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._output.open, position)

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """See `Writer`. A file that cannot be written ends the copy: the disk is full, most likely."""
        await trio.to_thread.run_sync(self._write, batch)
        return ()

    def _write(self, batch: Sequence[Loaded]) -> None:
        for loaded in batch:
            self._output.write(loaded, is_directory_too=self._has_children(loaded.item.key))
        self._output.describe(list(batch))

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """See `Writer`."""
        return await trio.to_thread.run_sync(lambda: [*self._delete(keys)])

    def _delete(self, keys: Sequence[tuple[Key, str]]) -> Iterator[Problem]:
        for key, origin in keys:
            try:
                self._output.remove(key, origin)
            except OSError as exc:
                yield Problem(ProblemKind.UNREADABLE, key, origin, exc.strerror or str(exc))

    async def finish(self) -> None:
        """See `Writer`."""
        self._output.close()

    async def aclose(self) -> None:
        """See `Writer`."""
        self._output.close()
