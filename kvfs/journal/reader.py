"""The reader, the side of the journal that answers questions: changes by key, and their contents."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from kvfs.changes.index import Index
from kvfs.changes.rules import Row, checked
from kvfs.core.callers import Caller
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.journal.contents import Contents
from kvfs.log.spool import soon

AT_ONCE_BYTES: Final = (
    4 * 1024
)  # up to this the log answers at once, and no cache need have a content that waits


class _Reading(Struct):
    """A content that a thread is reading, or has read."""

    name: str
    done: trio.Event
    value: bytes | None = None


class JournalReader:
    """Changes by key, their contents, and lists of what is not at the store: what waits, and what it refused."""

    def __init__(self, index: Index, contents: Contents) -> None:
        self._index = index
        self._contents = contents
        self._reading: _Reading | None = None  # by `read_soon`, the last; until it is sent
        self.any_under, self.puts_under = index.any_under, index.puts_under
        self.get: Callable[[NamespaceId, Key], Change | None] = index.get
        """Return the change that answers for a key: pending, settling, rejected or local."""
        contents.files.on_gone = self._let_go

    def author(self, namespace: NamespaceId, key: Key) -> Caller | None:
        """Return the caller who changed a key since the start, if it is known; for statistics."""
        row = self._index.get(namespace, key)
        return self._index.authors.of(row.seq) if row is not None else None

    def value(self, change: Change) -> bytes:
        """Return the content of a put that is still the newest of its key; KeyError when it is not.

        One above INLINE_BYTES comes from a file: `read_value` keeps that off the loop. Raises JournalError when it
        cannot be read, or is not what was recorded.
        """
        return self._contents.read(self.row_of(change))

    async def read_value(self, change: Change) -> bytes:
        """Return the content, a large one by a thread, even if the change goes meanwhile; raise as `value` does."""
        row = self.row_of(change)
        assert row.content is not None
        if (name := row.content.spool) is None:
            return self._contents.read(row)
        with self._contents.files.opened(name) as file:  # before any checkpoint: the file is there now
            if (value := await self._being_read(name)) is not None:
                return value
            return await trio.to_thread.run_sync(lambda: checked(row, file.read()))

    async def _being_read(self, name: str) -> bytes | None:
        """Return the result of a `read_soon` of this name, if one is under way; only once."""
        reading = self._reading
        if reading is None or reading.name != name:
            return None
        await reading.done.wait()
        if self._reading is reading:
            self._reading = None
        return reading.value

    def read_soon(self, change: Change, then: Callable[[bytes], object]) -> None:
        """Have a thread read a large content; the loop calls `then` with it, if it can be read. KeyError as `value`.

        As a rule it is sent soon after: `read_value` need not read it again.
        """
        row = self.row_of(change)
        assert row.content is not None
        assert row.content.spool is not None
        file = self._contents.files.opened(row.content.spool)

        def read() -> bytes:
            with file:
                return checked(row, file.read())

        def arrived(value: bytes | None) -> None:
            reading.value = value
            reading.done.set()
            if value is not None:
                then(value)

        reading = _Reading(row.content.spool, trio.Event())
        soon(read, arrived)
        self._reading = reading  # not before, or its waiters would wait for ever

    def _let_go(self, name: str) -> None:
        if self._reading is not None and self._reading.name == name:
            self._reading = None

    def row_of(self, change: Change) -> Row:
        """Return the row of a put that is still the newest of its key; KeyError when it is not."""
        row = self._index.get(change.namespace, change.key)
        if row is None or row.content is None or row.seq != change.seq:
            raise KeyError(change.key)
        return row

    def superseded(self, row: Row) -> bytes | Path:
        """Return the content that a row had until this very moment: as the log has it, or its file, which goes soon.

        It is not compared with its digest: whoever keeps it must do so. Raises JournalError when it cannot be read.
        """
        assert row.content is not None
        if row.content.spool is not None:
            return self._contents.files.directory / row.content.spool
        return self._contents.logged(row)

    def digest(self, change: Change) -> bytes:
        """Return the digest of a put's content, without reading it; KeyError as for `value`."""
        return self.row_of(change).digest

    def under(
        self, namespace: NamespaceId, prefix: str, start: str = "", most: int | None = None
    ) -> Iterator[Change]:
        """Return the changes of keys that start with `prefix`, in key order, as they are at the call.

        From `start` on, and `most` of them at most.
        """
        rows = self._index.rows.get(namespace, {})
        return iter([rows[key] for key in self._index.under(namespace, prefix, start, most)])

    def pending(self) -> list[Change]:
        """Return the changes to send, by seq, without values."""
        return list(self.iter_pending())

    def iter_pending(self) -> Iterator[Change]:
        """Yield what `pending` returns. The journal must not change during the iteration."""
        return iter(self._index.pending.values())

    def rejected(self, most: int | None = None) -> list[Change]:
        """Return the changes that the store refused, by seq, `most` of them at most; each with its `error`."""
        return list(islice(self._index.rejected.values(), most))
