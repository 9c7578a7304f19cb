"""The reader, the side of the journal that answers questions: changes by key, their contents, and totals."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from kvfs.core.callers import Caller
from kvfs.core.model import Change, ChangeState, Key, NamespaceId, Seq
from kvfs.journal.contents import Contents
from kvfs.journal.index import Index
from kvfs.journal.rules import Row


class JournalReader:
    """Changes by key, their contents, and lists of what is not at the store: what waits, and what it refused."""

    def __init__(self, index: Index, contents: Contents) -> None:
        self._index = index
        self._contents = contents
        self.any_under = index.any_under

    def get(self, namespace: NamespaceId, key: Key) -> Change | None:
        """Return the change that answers for a key: pending, settling, rejected or local."""
        return self._index.get(namespace, key)

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
        """Return the content, a large one read in a thread; raise as `value` does."""
        return await self._contents.read_async(self.row_of(change))

    def read_soon(self, change: Change, then: Callable[[bytes], object]) -> None:
        """Have a thread read a large content: `then` gets it, if it can be read. KeyError as for `value`."""
        self._contents.read_soon(self.row_of(change), then)

    def row_of(self, change: Change) -> Row:
        """Return the row of a put that is still the newest of its key; KeyError when it is not."""
        row = self._index.get(change.namespace, change.key)
        if row is None or row.content is None or row.seq != change.seq:
            raise KeyError(change.key)
        return row

    def superseded(self, row: Row) -> bytes | Path:
        """Return the content that a row had until this very moment: in memory, or its file, which goes soon.

        Raises JournalError when it cannot be read.
        """
        assert row.content is not None
        if row.content.spool is not None:
            return self._contents.files.directory / row.content.spool
        return self._contents.read(row)

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


class Totals:
    """Counts, bytes, the oldest time and the errors, without a look at every change. Times are epoch seconds."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def pending_count(self) -> int:
        """Return the number of changes to be sent."""
        return len(self._index.pending)

    @property
    def pending_bytes(self) -> int:
        """Return the bytes of their values."""
        return self._index.pending_bytes

    @property
    def rejected_count(self) -> int:
        """Return the number of changes that the store refused."""
        return len(self._index.rejected)

    @property
    def pending_by_namespace(self) -> Mapping[NamespaceId, tuple[int, int]]:
        """Return how many changes are to be sent, and bytes of their values, by namespace."""
        return {namespace: (count, size) for namespace, (count, size) in self._index.tally.spaces.items()}

    @property
    def oldest_pending_at(self) -> float | None:
        """Return since when some key differs from what was last sent of it; None when none does."""
        return self._index.tally.oldest(self._index.pending)

    @property
    def settling_count(self) -> int:
        """Return the number of acknowledged changes that still answer reads."""
        return len(self._index.settling)

    @property
    def local_count(self) -> int:
        """Return the number of changes that stay on this machine."""
        return len(self._index.by_state[ChangeState.LOCAL])

    @property
    def oldest_acked_at(self) -> float | None:
        """Return the time at which the change that settles next was acknowledged; None when none settles."""
        return min((row.acked_at or 0.0 for row in self._index.settling.values()), default=None)

    @property
    def last_seq(self) -> Seq:
        """Return the number of the change recorded last."""
        return self._index.last_seq

    def not_sent(self, most: int) -> list[Change]:
        """Return what is not at the store, `most` at most: what it refused, then what waits, each by seq."""
        rows = (*islice(self._index.rejected.values(), most), *islice(self._index.pending.values(), most))
        return list(rows[:most])

    def errors(self, most: int) -> Iterator[tuple[str, int, list[Change]]]:
        """Yield each error of what is not at the store, how many changes have it, and `most` of them at most."""
        return self._by_text(self._index.tally.errors, most)

    def failures(self, most: int) -> Iterator[tuple[str, int, list[Change]]]:
        """Yield the same of why the last try failed of what waits without an error."""
        return self._by_text(self._index.tally.failures, most)

    def _by_text(
        self, found: Mapping[str, Mapping[Seq, None]], most: int
    ) -> Iterator[tuple[str, int, list[Change]]]:
        index = self._index
        for text, numbers in found.items():
            some = (index.pending.get(seq) or index.rejected[seq] for seq in islice(numbers, most))
            yield text, len(numbers), list(some)
