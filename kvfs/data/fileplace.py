"""A file as a place: the calls of `files`, in threads."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import islice
from typing import Final

import trio

from kvfs.core.model import Key
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.jsonentry import JsonEntry
from kvfs.data.place import Scanned, Taken
from kvfs.data.streams import RecordReader, RecordWriter

SCAN_RECORDS: Final = 1000
SCAN_BYTES: Final = 8 * 1024 * 1024
WRITE_PAIRS: Final = 1000


class FileReader:
    """Reads a file in threads."""

    def __init__(self, records: RecordReader) -> None:
        self._records = records

    async def scan(self, mark: str) -> AsyncGenerator[Scanned]:
        """See `Reader`. A scan always begins anew."""
        records, number = self._records.records(), 1
        while True:
            scanned = await trio.to_thread.run_sync(self._part, records, number)
            if scanned is None:
                return
            yield scanned
            number += len(scanned.items) + len(scanned.problems)

    def _part(self, records: Iterator[JsonEntry], first: int) -> Scanned | None:
        items: list[Item] = []
        problems: list[Problem] = []
        size = 0
        for record in islice(records, SCAN_RECORDS):
            if record.fault:
                problems.append(Problem(ProblemKind.MALFORMED, record.key, record.where, record.fault))
                continue
            entry = record.entry
            size += len(entry.value)
            items.append(
                Item(
                    Key(record.key),
                    str(first + len(items) + len(problems)),
                    entry.metadata,
                    entry.expiration,
                    len(entry.value),
                    record.modified,
                )
            )
            del record, entry  # a large value must not stay until the next is there
            if size > SCAN_BYTES:
                break
        return Scanned(items, problems) if items or problems else None

    async def take(self, items: Sequence[Item]) -> Taken:
        """See `Reader`."""
        return Taken(*await trio.to_thread.run_sync(self._records.take, items))

    def fingerprint(self) -> str:
        """See `Reader`."""
        return self._records.fingerprint()

    async def aclose(self) -> None:
        """See `Reader`."""
        self._records.close()


class FileWriter:
    """Writes a file in threads."""

    def __init__(self, records: RecordWriter) -> None:
        self._records = records

    @property
    def pairs(self) -> int:
        """See `Writer`."""
        return WRITE_PAIRS

    @property
    def position(self) -> str:
        """See `Writer`."""
        return self._records.position

    async def open(self, position: str) -> None:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._records.open, position)

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._records.write, batch)
        return ()

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """Do nothing, because a file is written anew and nothing else is in it."""
        return ()

    async def finish(self) -> None:
        """See `Writer`."""
        await trio.to_thread.run_sync(self._records.finish)

    async def aclose(self) -> None:
        """See `Writer`."""
        self._records.close()
